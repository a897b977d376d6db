"""From a model's text to a typed result, strictly.

A parser returns what literally stands in the text or raises `ParseError` with a code; it never fills
in, guesses or repairs. `number`, `first_number` and `letter` are the tolerant ones, and say so. Each parser
also carries the sentence that asks a model for its format, so that prompt and parser cannot drift apart.

Model text is never evaluated. Every pattern is bounded or linear, so that no text can stall a run.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from sparring.agents.objects import ParseError as ParseError
from sparring.agents.objects import clip, closing
from sparring.agents.objects import find_object as find_object
from sparring.agents.results import (
    Answer,
    AttemptSummary,
    Candidates,
    Comparison,
    Conclusion,
    JudgeDecision,
    ModeratorVerdict,
    StatedAnswer,
    Statement,
    StepVerdict,
)
from sparring.errors import unknown
from sparring.tools.equality import choice_letter

T_co = TypeVar("T_co", covariant=True)
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Parser(Generic[T_co]):
    """A named, versioned function from text to a typed result; raises only `ParseError`."""

    name: str
    version: str
    instruction: str
    """The sentence for the prompt that asks for this format."""
    read: Callable[[str], T_co]

    def __call__(self, text: str) -> T_co:
        if not text or not text.strip():
            raise ParseError("empty", "the reply is empty")
        return self.read(text)


# --- answer formats ----------------------------------------------------------------------------------

_LINE = re.compile(r"[ \t]*\*{0,2}answer\*{0,2}[ \t]*:\*{0,2}(.*)", re.IGNORECASE)
_BOX = re.compile(r"\\boxed[ \t]*\{")
_DIGITS = r"[0-9]{1,3}(?:,[0-9]{3}){1,20}(?![0-9]|,[0-9])|[0-9]{1,1000}"
_NUMBER = re.compile(
    r"(?:(?<![\w)\]}])[-+\u2212][ \t]?)?\$?(?:\\[dt]?frac\{-?[0-9]{1,40}\}\{[0-9]{1,40}\}"
    rf"|(?:{_DIGITS})(?:/[0-9]{{1,40}}(?![0-9/])|(?:\.[0-9]{{1,1000}})?(?:[eE][-+]?[0-9]{{1,3}}(?![0-9]))?))"
)
_PLACEHOLDERS = ("...", "\u2026", "`...`", "<answer>", "<the answer>")


def _line(text: str) -> str:
    """The X of the last line of the form `Answer: X`, emphasis allowed."""
    for line in reversed(text.split("\n")):
        if match := _LINE.fullmatch(line.rstrip("\r")):
            return _filled(match[1].strip().removesuffix("**").removeprefix("**"), "the last `Answer:` line")
    raise ParseError("missing", "no line of the form `Answer: ...`")


def _boxed(text: str) -> str:
    """The content of the last \\boxed{...}; a last box that never closes is an error, not a reason to
    fall back on an earlier one."""
    last = _last(_BOX, text)
    if last is None:
        raise ParseError("missing", "no \\boxed{...}")
    end = closing(text, last.end() - 1, strings=False)
    if end is None:
        raise ParseError("unbalanced", "the last \\boxed{ is never closed")
    return _filled(text[last.end() : end], "the last \\boxed{}")


def _choice(text: str) -> str:
    """The option letter of the last `Answer:` line or of the last box; two that differ are an error."""
    letters: set[str] = set()
    for read in (_line, _boxed):
        try:
            found = read(text)
        except ParseError as error:
            if error.code != "missing":
                raise
            continue
        letter = choice_letter(found[:200])
        if letter is None:
            raise ParseError("not_a_choice", f"not an option letter: {clip(found)}")
        letters.add(letter)
    if not letters:
        raise ParseError("missing", "neither `Answer: (letter)` nor \\boxed{letter}")
    if len(letters) > 1:
        raise ParseError("ambiguous", f"several options: {', '.join(sorted(letters))}")
    return letters.pop()


def _last_number(text: str) -> str:
    """TOLERANT: the last number anywhere in the text, fraction or decimal, thousands separators off.

    It may pick a number that was not meant as the answer; use it for models that keep no format.
    """
    return _as_number(_last(_NUMBER, text))


def _first_number(text: str) -> str:
    """TOLERANT: the first number in the text.

    Paid for the first number, a policy may learn to begin with a number of the question
    (examples/arithmetic/first_number.yaml). For models that answer before they explain.
    """
    return _as_number(_NUMBER.search(text))


def _as_number(match: re.Match[str] | None) -> str:
    if match is None:
        raise ParseError("missing", "no number in the text")
    found = match[0].translate({ord("$"): None, ord(","): None, ord(" "): None, ord("\t"): None, 0x2212: "-"})
    return found.removeprefix("+")


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


_LETTER = re.compile(r"(?<![\w(])(?:\(([A-H])\)|([A-H])(?=[).:,]|[ \t]*(?:$|\n)))")


def _first_letter(text: str) -> str:
    """TOLERANT: the first option letter A to H that stands alone, as in `D)2000`, `(B)` or a bare `A`.

    An article (`A ship ...`) does not count, nor does the word I. Use it for models that keep no format.
    """
    if (match := _LETTER.search(text)) is None:
        raise ParseError("missing", "no option letter in the text")
    return match[1] or match[2]


def _filled(value: str, where: str) -> str:
    value = value.strip()
    if not value:
        raise ParseError("empty", f"{where} is empty")
    return _own_words(value, where)


def _own_words(value: str, where: str) -> str:
    if value.strip() in _PLACEHOLDERS:
        raise ParseError("placeholder", f"{where} repeats the prompt's placeholder")
    return value


def _code(text: str) -> str:
    """What the only fenced block holds, white space and all: a completion may begin indented."""
    lines = text.split("\n")
    marks = [place for place, line in enumerate(lines) if line.lstrip().startswith("```")]
    if not marks:
        raise ParseError("missing", "no fenced block")
    if len(marks) % 2:
        raise ParseError("unbalanced", "a fenced block is never closed")
    if len(marks) > 2:
        raise ParseError("ambiguous", f"{len(marks) // 2} fenced blocks")
    held = "\n".join(lines[marks[0] + 1 : marks[1]])
    _filled(held, "the fenced block")
    return held


def _answer(read: Callable[[str], str]) -> Callable[[str], Answer]:
    return lambda text: build(Answer, {"answer": read(text)})


ANSWER_FORMATS: dict[str, Parser[Answer]] = {
    format.name: format
    for format in (
        Parser("line", "1", "End with one line of the form `Answer: ...`.", _answer(_line)),
        Parser("boxed", "1", "End with the final answer inside \\boxed{...}.", _answer(_boxed)),
        Parser("choice", "1", "End with one line of the form `Answer: (letter)`.", _answer(_choice)),
        Parser("number", "1", "End with the final answer as one number.", _answer(_last_number)),
        Parser("first_number", "1", "Begin with the final answer as one number.", _answer(_first_number)),
        Parser("letter", "1", "End with the letter of the right option.", _answer(_first_letter)),
        Parser("text", "1", "Reply with the answer alone.", _answer(str.strip)),
        Parser(
            "code", "1", "Give the whole program, and no other, in one block fenced by ```.", _answer(_code)
        ),
        Parser("completion", "1", "Reply with what follows, as code alone.", _answer(lambda text: text)),
    )
}


def answer_format(name: str) -> Parser[Answer]:
    """The answer format of this name. Raises `UserError` for an unknown one."""
    if name not in ANSWER_FORMATS:
        raise unknown("answer format", name, ANSWER_FORMATS)
    return ANSWER_FORMATS[name]


def statement(format: str) -> Parser[Statement]:
    """Free text that must end in an answer of this format; without one it is a `ParseError`."""
    inner = answer_format(format)

    def read(text: str) -> Statement:
        return build(Statement, {"text": text.strip(), "answer": inner.read(text).answer})

    return Parser(f"statement/{format}", inner.version, inner.instruction, read)


# --- JSON results ------------------------------------------------------------------------------------


def build(model: type[M], fields: dict[str, Any]) -> M:
    """A result of what stood in a text. Raises `ParseError` naming the first field that does not fit."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or model.__name__
        code = "missing_field" if first["type"] == "missing" else "bad_field"
        raise ParseError(code, f"`{where}`: {first['msg']}") from None


def _object(name: str, model: type[M], fields: str) -> Parser[M]:
    instruction = f"Reply with one JSON object and nothing else: {fields}."

    def read(text: str) -> M:
        fields = find_object(text)
        if isinstance(answer := fields.get("answer"), str):
            _own_words(answer, "`answer`")
        return build(model, fields)

    return Parser(name, "2", instruction, read)


moderator: Parser[ModeratorVerdict] = _object(
    "moderator",
    ModeratorVerdict,
    '{"preference": "Yes" or "No", "side": "affirmative", "negative" or "none", '
    '"reason": "...", "answer": "<the answer>" or "" if there is none yet}',
)
judge: Parser[JudgeDecision] = _object("judge", JudgeDecision, '{"reason": "...", "answer": "<the answer>"}')
candidates: Parser[Candidates] = _object("candidates", Candidates, '{"candidates": ["...", "..."]}')
stated: Parser[StatedAnswer] = _object(
    "stated",
    StatedAnswer,
    '{"reasoning": "...", "answer": "<the answer>", "confidence": a number from 0.0 to 1.0}',
)
comparison: Parser[Comparison] = _object(
    "comparison", Comparison, '{"reason": "...", "better": "A", "B" or "tie"}'
)
conclusion: Parser[Conclusion] = _object(
    "conclusion",
    Conclusion,
    '{"program": "...", "program_fits": true or false, "output": "...", "output_fits": true or false, '
    '"answer": "<the answer>" or null}',
)
attempt_summary: Parser[AttemptSummary] = _object(
    "attempt_summary",
    AttemptSummary,
    '{"approach_summary": "...", "strategy": "...", "modified_files": ["..."], "key_changes": ["..."], '
    '"specific_techniques": ["..."], "tools_used": ["..."], "reasoning_pattern": "...", '
    '"assumptions_made": ["..."], "components_touched": ["..."]}',
)
note: Parser[Statement] = Parser(
    "note", "1", "Reply in plain text.", lambda text: build(Statement, {"text": text.strip()})
)

# --- verdicts on a step ------------------------------------------------------------------------------

_TAG = re.compile(r"<answer>([^<]{0,100})</answer>", re.IGNORECASE | re.ASCII)
_VERDICTS = {"correct": True, "incorrect": False}


def _verdict(text: str) -> StepVerdict:
    """The last complete `<Answer>` tag, in any case, white space around its word allowed.

    A last tag that holds something else is an error, not a reason to fall back on an earlier one.
    """
    last = _last(_TAG, text)
    if last is None:
        raise ParseError("missing", "no <Answer>Correct</Answer> or <Answer>Incorrect</Answer>")
    return _as_verdict(last[1].strip().lower(), text[: last.start()])


def _verdict_official(text: str) -> StepVerdict:
    """As SPC's released evaluation reads it: what stands between the first `<Answer>` and the first
    `</Answer>`, lower-cased, nothing stripped."""
    before, opened, after = text.partition("<Answer>")
    inside, closed, _ = after.partition("</Answer>")
    if not (opened and closed) or "</Answer>" in before:
        raise ParseError("missing", "no <Answer> followed by the first </Answer>")
    return _as_verdict(inside.lower(), before)


def _as_verdict(word: str, before: str) -> StepVerdict:
    if word not in _VERDICTS:
        raise ParseError("not_a_verdict", f"neither Correct nor Incorrect: {clip(word)}")
    return build(StepVerdict, {"correct": _VERDICTS[word], "critique": before.strip()})


_ASK_VERDICT = "End with `<Answer>Correct</Answer>` or `<Answer>Incorrect</Answer>`."
verdict: Parser[StepVerdict] = Parser("verdict", "1", _ASK_VERDICT, _verdict)
verdict_official: Parser[StepVerdict] = Parser("verdict/official", "1", _ASK_VERDICT, _verdict_official)

PARSERS: dict[str, Parser[Any]] = {
    item.name: item
    for item in (
        *ANSWER_FORMATS.values(),
        *(statement(name) for name in ANSWER_FORMATS),
        *(conclusion, note, moderator, judge, candidates, stated, comparison, verdict, verdict_official),
    )
}


def parser(name: str) -> Parser[Any]:
    """The parser of this name. Raises `UserError` for an unknown one, listing those that exist."""
    if name not in PARSERS:
        raise unknown("parser", name, PARSERS)
    return PARSERS[name]
