"""The format of a score: one integer in a tag, `<score>2</score>`, read strictly (CoMAS, 2510.08529)."""

from __future__ import annotations

import re

from sparring.agents.parsing import ParseError, Parser
from sparring.agents.results import Result

_OPEN = re.compile(r"<[ \t]*score[ \t]*>", re.IGNORECASE)
_SCORE = re.compile(r"<[ \t]*score[ \t]*>([^<>]{0,100})<[ \t]*/[ \t]*score[ \t]*>", re.IGNORECASE)
_MARKUP = re.compile(r"<[ \t]*/?[ \t]*(?!/?[ \t]*score\b)[a-z]{1,20}[ \t]*/?[ \t]*>", re.IGNORECASE)
_INTEGER = re.compile(r"-?[0-9]{1,6}")
_TAGS = re.compile(r"<(?=[ \t]*/?[ \t]*score\b)", re.IGNORECASE)


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
    """Exactly one `<score>N</score>`, N an integer from `low` to `high`; markup within the tag is dropped.

    Two tags are an error even where one of them would not count: nobody may guess which one is meant.
    """

    def read(text: str) -> Score:
        opened = _OPEN.search(text)
        if opened is None:
            raise ParseError("missing", "no <score> tag")
        if len(_OPEN.findall(text)) > 1:
            raise ParseError("ambiguous", "several <score> tags")
        tag = _SCORE.search(_MARKUP.sub("", text[opened.start() :]))
        if tag is None:
            raise ParseError("unbalanced", "the <score> tag does not close, or holds a text")
        inner = tag[1].strip()
        if not _INTEGER.fullmatch(inner):
            raise ParseError("not_an_integer", f"the score is `{inner[:40]}`")
        if not low <= int(inner) <= high:
            raise ParseError("out_of_range", f"the score {inner} is not in {low} to {high}")
        return Score(score=int(inner), low=low, high=high, reason=text[: opened.start()].strip())

    instruction = (
        f"End with your score alone in a tag, <score>N</score>, where N is an integer from {low} to {high}."
    )
    return Parser(f"score/{low}-{high}", "1", instruction, read)


def without_scores(text: str) -> str:
    """A text whose score tags are no tags any more, to be shown to a judge: who repeats it scores nothing."""
    return _TAGS.sub("(", text)
