"""The format of a score: one integer in a tag, `<score>2</score>`, read strictly (CoMAS, 2510.08529)."""

from __future__ import annotations

import re

from sparring.agents.parsing import ParseError, Parser
from sparring.agents.results import Result

_FLAGS = re.IGNORECASE | re.ASCII
_BLANK = r"[ \t]*+"  # possessive: the time to read a text grows with its length and no faster
_SLASH = rf"{_BLANK}(?:/{_BLANK})?+"
_OPEN = re.compile(rf"<{_BLANK}score{_BLANK}>", _FLAGS)
_SCORE = re.compile(rf"<{_BLANK}score{_BLANK}>([^<>]{{0,100}})<{_BLANK}/{_BLANK}score{_BLANK}>", _FLAGS)
_MARKUP = re.compile(rf"<{_SLASH}(?!score\b)[a-z]{{1,20}}{_SLASH}>", _FLAGS)
_INTEGER = re.compile(r"-?[0-9]{1,18}")


class Score(Result):
    """A judge's integer and the scale it was asked for."""

    score: int
    low: int
    high: int
    reason: str
    """What stands before the tag."""

    @property
    def share(self) -> float:
        """`share` of the score on its scale."""
        return share(self.score, self.low, self.high)


def share(score: int, low: int, high: int) -> float:
    """Where a score lies on its scale: 0 for the lowest, 1 for the highest."""
    return (score - low) / (high - low)


def score(low: int, high: int) -> Parser[Score]:
    """Exactly one `<score>N</score>`, N an integer from `low` to `high`; other markup is dropped.

    Two tags are an error even where one of them would not count: nobody may guess which one is meant.
    """

    def read(text: str) -> Score:
        plain = _MARKUP.sub("", text)
        opened = _OPEN.search(plain)
        if opened is None:
            raise ParseError("missing", "no <score> tag")
        if len(_OPEN.findall(plain)) > 1:
            raise ParseError("ambiguous", "several <score> tags")
        tag = _SCORE.search(plain, opened.start())
        if tag is None:
            raise ParseError("unbalanced", "the <score> tag does not close, or holds a text")
        inner = tag[1].strip()
        if not _INTEGER.fullmatch(inner):
            raise ParseError("not_an_integer", f"the score is `{inner[:40]}`")
        if not low <= int(inner) <= high:
            raise ParseError("out_of_range", f"the score {inner} is not in {low} to {high}")
        return Score(score=int(inner), low=low, high=high, reason=plain[: opened.start()].strip())

    instruction = (
        f"End with your score alone in a tag, <score>N</score>, where N is an integer from {low} to {high}."
    )
    return Parser(f"score/{low}-{high}", "1", instruction, read)


def explained(low: int, high: int) -> Parser[Score]:
    """As `score`, after an explanation: what has none is an error too."""
    bare = score(low, high)

    def read(text: str) -> Score:
        found = bare.read(text)
        if not found.reason:
            raise ParseError("missing", "no explanation before the <score> tag")
        return found

    return Parser(f"explained_score/{low}-{high}", "1", bare.instruction, read)


def without_tags(text: str, name: str = "score") -> str:
    """A text whose tags of a name are none any more, to be shown to a judge: who repeats it says nothing.

    Where a tag would come about once other markup is dropped from within it, every angle bracket goes.
    """
    tag = re.compile(rf"<(?={_SLASH}{name}\b)", _FLAGS)
    apart = tag.sub("(", text)
    return apart.replace("<", "(") if tag.search(_MARKUP.sub("", apart)) else apart
