"""Is this answer right? One function, `check`, over five kinds of reference.

A check never raises because of what a model wrote: no answer, an endless one and an unparsable one
are incorrect, with the reason. It compares whole answers; cutting the answer out of a reply is a
parser's work.

| kind | equal means |
| --- | --- |
| `math` | the same number, or math-verify finds the expressions equal |
| `exact` | the same text after `plain_text` |
| `choice` | the same option letter |
| `any_of` | equal to one of a list, by the kind named in `each` (default `exact`) |
| `code` | a program that passes the tests, run in the sandbox (`programs`) |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sparring.errors import SandboxUnavailable, UserError, unknown
from sparring.tools import programs
from sparring.tools.equality import MAX_CHARS, bare_math, choice_letter, plain_text, same_math
from sparring.tools.mathworker import SECONDS, Comparison, MathWorker, shared
from sparring.tools.sandbox.box import blocking

REVISION = "1"
"""Raise it when a rule of this file changes: verdicts of two versions are not comparable."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of one check, as the journal keeps it."""

    correct: bool
    verifier: str
    version: str
    extracted: str | None
    """What was compared: the answer after normalisation, or its parsed form; None without one."""
    reference: Any
    reason: str


@dataclass(frozen=True, slots=True)
class Finding:
    correct: bool
    extracted: str | None
    reason: str


Ask = Callable[[str, str], Comparison]
"""(reference, answer) -> what the math worker says."""
Check = Callable[[str, Any, str, "Ask | None"], "Finding | None"]
"""(answer, reference, kind for each, ask) -> finding. Without `ask`, None = cannot be told in process."""


def check(
    kind: str, answer: str | None, reference: Any, *, each: str = "exact", seconds: float = SECONDS
) -> Verdict:
    """Judge `answer` against `reference`; blocks for up to `seconds` per symbolic comparison.

    Args:
        kind: a name in `CHECKS`.
        answer: the extracted answer; None or blank is incorrect with the reason "no answer".
        reference: text or number; for `any_of` a list of them.
        each: for `any_of`, the kind by which each accepted answer is compared.

    Raises:
        UserError: unknown kind, or a reference that this kind cannot use.
        SandboxUnavailable: kind `code`, and no sandbox holds here.
        SandboxFailed: kind `code`, and the sandbox did not come about: no verdict, not a wrong answer.
    """
    worker = shared()
    finding = _find(kind, answer, reference, each, _asking(worker, seconds))
    assert finding is not None
    return _verdict(kind, reference, finding)


async def acheck(
    kind: str, answer: str | None, reference: Any, *, each: str = "exact", seconds: float = SECONDS
) -> Verdict:
    """`check` for coroutines: what can be told in process is told at once, the rest off the event loop."""
    finding = _find(kind, answer, reference, each, None)
    if finding is None and kind == "code":
        assert answer is not None  # otherwise there were a finding
        finding = await _try(answer, reference)
    elif finding is None:
        worker = shared()
        finding = await worker.run(_find, kind, answer, reference, each, _asking(worker, seconds))
    assert finding is not None
    return _verdict(kind, reference, finding)


def _asking(worker: MathWorker, seconds: float) -> Ask:
    return lambda reference, answer: worker.compare(reference, answer, seconds=seconds)


def _find(kind: str, answer: str | None, reference: Any, each: str, ask: Ask | None) -> Finding | None:
    run = _named(kind)
    if answer is None or not answer.strip():
        return Finding(False, None, "no answer")
    most = programs.LONGEST if kind == "code" else MAX_CHARS
    if len(answer) > most:
        return Finding(False, None, f"answer too long: {len(answer)} characters, at most {most}")
    return run(answer, reference, each, ask)


def _named(kind: str) -> Check:
    if kind not in CHECKS:
        raise unknown("check", kind, CHECKS)
    return CHECKS[kind]


def _verdict(kind: str, reference: Any, finding: Finding) -> Verdict:
    if kind == "code":  # long; the task has them
        reference = {"tests": programs.Tests.of(reference).digest}
    return Verdict(finding.correct, kind, _version(), finding.extracted, reference, finding.reason)


@cache
def _version() -> str:
    try:
        return f"{REVISION}+math-verify-{version('math-verify')}"
    except PackageNotFoundError:
        return REVISION


# --- the kinds ---------------------------------------------------------------------------------------


def _math(answer: str, reference: Any, each: str, ask: Ask | None) -> Finding | None:
    gold = _reference_text(reference)
    equal = same_math(gold, answer)
    if equal is not None:
        return Finding(equal, bare_math(answer), "equal" if equal else "different")
    if ask is None:
        return None
    found = ask(bare_math(gold), bare_math(answer))
    reason = {
        "": "symbolically equal" if found.equal else "symbolically different",
        "unparsable": "no mathematical value"
        if found.second is None
        else "the reference has no mathematical value",
        "timeout": "comparison ran out of time",
        "crash": "comparison crashed the verifier",
    }[found.problem]
    return Finding(found.equal, found.second or bare_math(answer), reason)


def _exact(answer: str, reference: Any, each: str, ask: Ask | None) -> Finding:
    mine = plain_text(answer)
    equal = mine == plain_text(_reference_text(reference))
    return Finding(equal, mine, "same text" if equal else "different text")


def _choice(answer: str, reference: Any, each: str, ask: Ask | None) -> Finding:
    gold = choice_letter(_reference_text(reference))
    if gold is None:
        raise UserError(f"the reference of a `choice` task must be one option letter, not {reference!r}")
    letter = choice_letter(answer)
    if letter is None:
        return Finding(False, None, "not an option letter")
    return Finding(letter == gold, letter, "same option" if letter == gold else "another option")


def _any_of(answer: str, reference: Any, each: str, ask: Ask | None) -> Finding | None:
    if not isinstance(reference, list | tuple) or not reference:
        raise UserError(f"the reference of an `any_of` task must be a non-empty list, not {reference!r}")
    if each in ("any_of", "code"):
        raise UserError(f"`any_of` cannot compare each answer by `{each}`; use another kind")
    findings = [_named(each)(answer, accepted, "exact", ask) for accepted in reference]
    for accepted, finding in zip(reference, findings, strict=True):
        if finding is not None and finding.correct:
            return Finding(True, finding.extracted, f"matches {accepted!r}")
    if None in findings:
        return None
    last = findings[-1]
    return Finding(False, last.extracted if last else None, f"matches none of {len(reference)}")


def _code(answer: str, reference: Any, each: str, ask: Ask | None) -> Finding | None:
    return None if ask is None else blocking(_try(answer, reference))


async def _try(answer: str, reference: Any) -> Finding:
    tried = await programs.try_program(answer, programs.Tests.of(reference))
    return Finding(tried.passed, answer, f"{tried.status}{': ' if tried.reason else ''}{tried.reason}")


def refuse_code(tasks: Iterable[tuple[str | None, Any]]) -> None:
    """Say of tasks (check, reference) before they are played what `check` would say of their first answer.

    Raises:
        SandboxUnavailable: one of these checks is `code`, and no sandbox holds here.
        UserError: the reference of such a task is not of its form.
    """
    code = [reference for kind, reference in tasks if kind == "code"]
    if not code:
        return
    try:
        programs.box()
    except SandboxUnavailable as error:
        raise SandboxUnavailable(
            f"check `code` runs model-written code and needs the sandbox: {error}"
        ) from None
    for reference in code:
        if reference is not None:
            programs.Tests.of(reference).job("", "")


CHECKS: dict[str, Check] = {
    "math": _math,
    "exact": _exact,
    "choice": _choice,
    "any_of": _any_of,
    "code": _code,
}


def _reference_text(reference: Any) -> str:
    if (
        isinstance(reference, bool)
        or not isinstance(reference, str | int | float)
        or not str(reference).strip()
    ):
        raise UserError(f"a reference answer must be a text or a number, not {reference!r}")
    text = str(reference)
    if len(text) > MAX_CHARS:
        raise UserError(
            f"the reference answer has {len(text)} characters; at most {MAX_CHARS} can be checked"
        )
    return text
