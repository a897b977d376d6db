"""The case of a question: the decisions at hand, and the arguments about them as they are stated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

from sparring.errors import UserError
from sparring.memory.records import TaskRecord
from sparring.tools.argumentation import SCHEMES, Answer, Argument, Framework

DECIDING, HARM, BETTER, OBJECTION = "decision making", "side effects", "better alternative", "objection"
LETTERS = "ABCDEFGHIJ"
"""What `tools.equality.choice_letter` reads."""
CHARS = 300
"""Of the words that one argument quotes from another."""
CLAIMS = {
    (DECIDING, "evidence"): "{decision} promotes {goal}, in view of {fact}",
    (HARM, "evidence"): "{decision} brings about {effect}",
    (HARM, "remedy"): "{effect} is beyond what can be prevented or made good",
    (HARM, "weight"): "{effect} outweighs what {decision} does for {goal}",
    (BETTER, "evidence"): "{decision} promotes {goal} better than {other}",
    (OBJECTION, "evidence"): "{reason}",
    (OBJECTION, "relevance"): "{reason} speaks against {claim}",
}
"""What an objection denies where this question of this scheme failed; the other questions ask for an argument
of a scheme of its own."""
_MARK = re.compile(r"[ \t]*[(\[]?([A-J])[)\].:][ \t]*(.*)", re.DOTALL)


class Option(TypedDict):
    """A decision at hand."""

    letter: str
    text: str
    answer: str
    """In the task's answer form: the letter where its check is `choice`, else the text."""


class Stated(TypedDict):
    """An argument and how it came about."""

    id: str
    scheme: str
    slots: dict[str, str]
    text: str
    decision: str | None
    answers: list[list[str]]
    """Of each argument that it attacks: id, and the critical question that fails by it."""
    iteration: int
    level: int
    """Attacks between it and a decision: 0 is an argument stated for an option."""


class Failed(NamedTuple):
    """A critical question that was answered with no."""

    argument: Stated
    question: str
    reason: str


def phrase(text: str) -> str:
    """Words to be quoted within a sentence: one line, not too long, no full stop."""
    line = " ".join(text.split())
    line = line if len(line) <= CHARS else f"{line[:CHARS].rstrip()} ..."
    return (line if line.endswith(" ...") else line.rstrip(".")) or line


def named(option: Option) -> str:
    """A decision within a sentence."""
    return f"answer {option['letter']} ({phrase(option['text'])})"


def listed(question: str, options: Sequence[Option]) -> str:
    """The question with its options, a line each, unless it ends in them already."""
    if _trailing(question):
        return question
    return "\n".join([question, *(f"{option['letter']}) {option['text']}" for option in options)])


def options_of(question: Any, task: TaskRecord | None, most: int) -> list[Option]:
    """The options of a task: its `choices`, or lines `A) ...` in which its question ends; none where it has
    neither.

    Raises:
        UserError: `choices` that are no list of at least two texts, more than `most`, or a `choice` task
            without any.
    """
    name = f"task `{task.id}`" if task else "the question"
    choices = ((task.meta or {}) if task else {}).get("choices")
    if choices is None:
        texts = _trailing(question)
    elif not isinstance(choices, list) or len(choices) < 2:
        raise UserError(f"{name}: `choices` must be a list of at least two texts")
    else:
        texts = choices
    if any(not isinstance(text, str) or not text.strip() for text in texts):
        raise UserError(f"{name}: a choice is no text, or blank")
    check = task.check if task else None
    if not texts and check == "choice":
        raise UserError(
            f"{name}: its check is `choice`, but it has no options; give them as a list `choices`, or as "
            "lines `A) ...` at the end of the question"
        )
    if len(texts) > most:
        raise UserError(
            f"{name} has {len(texts)} options, and {most} may be argued for; raise `decisions` (10 at most)"
        )
    return options_from(texts, letters=check == "choice")


def options_from(texts: Sequence[str], *, letters: bool) -> list[Option]:
    """Options in order, lettered as they are if all of them bear a letter of their own."""
    marks = [_MARK.fullmatch(text) for text in texts]
    own = [mark[1] for mark in marks if mark]
    if len(set(own)) == len(texts):
        found = [(mark[1], mark[2].strip() or mark[1]) for mark in marks if mark]
    else:
        found = [(letter, text.strip()) for letter, text in zip(LETTERS, texts, strict=False)]
    return [Option(letter=letter, text=text, answer=letter if letters else text) for letter, text in found]


def _trailing(question: Any) -> list[str]:
    """The last lines of a question if they are options A, B, ... in order."""
    lines = str(question).rstrip().splitlines()
    first = next((n for n in reversed(range(len(lines))) if lines[n].lstrip(" \t([")[:1] == "A"), None)
    if first is None:
        return []
    marks = [_MARK.fullmatch(line) for line in lines[first:]]
    letters = [mark[1] if mark else "" for mark in marks]
    in_order = "".join(letters) == LETTERS[: len(marks)] and len(marks) > 1
    return lines[first:] if in_order else []


@dataclass
class Case:
    """All that was stated so far."""

    arguments: list[Stated]

    def add(
        self,
        scheme: str,
        slots: dict[str, str],
        decision: str | None,
        at: tuple[int, int],
        against: tuple[str, str] | None = None,
    ) -> bool:
        """State an argument at (iteration, level), against (argument, question); whether it is a new one.

        One that was stated before, word for word, is the same argument, which may attack another one more.
        """
        text = _worded(scheme, slots)
        answers = [list(against)] if against else []
        for number, old in enumerate(self.arguments):
            if (old["scheme"], old["decision"], _folded(old["text"])) == (scheme, decision, _folded(text)):
                more = [answer for answer in answers if answer not in old["answers"]]
                self.arguments[number] = {**old, "answers": [*old["answers"], *more]}
                return False
        id, (iteration, level) = f"a{len(self.arguments) + 1}", at
        stated = Stated(
            id=id, scheme=scheme, slots=slots, text=text, decision=decision,
            answers=answers, iteration=iteration, level=level,
        )  # fmt: skip
        self.arguments.append(stated)
        return True

    def at(self, iteration: int, level: int) -> list[Stated]:
        """Those that were new there."""
        return [one for one in self.arguments if (one["iteration"], one["level"]) == (iteration, level)]

    def framework(self) -> Framework:
        """Dung's framework, the arguments in the order in which they were stated."""
        return Framework(
            arguments=tuple(
                Argument(
                    id=one["id"],
                    scheme=one["scheme"],
                    text=one["text"],
                    decision=one["decision"],
                    answers=tuple(Answer(argument=id, question=question) for id, question in one["answers"]),
                )
                for one in self.arguments
            )
        )


def _worded(scheme: str, slots: dict[str, str]) -> str:
    """The scheme's sentence, and the reason where the sentence has no place for it."""
    form = SCHEMES[scheme].form
    reason = f" This is because {slots['reason']}." if "reason" in slots and "{reason}" not in form else ""
    return form.format(**slots) + reason


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def critical_questions(argument: Stated, *, rivals: bool) -> dict[str, str]:
    """Name -> critical question of an argument's scheme, in its words; without rivals none asks for a better
    alternative."""
    questions = SCHEMES[argument["scheme"]].questions
    return {
        name: question.format(**argument["slots"])
        for name, question in questions.items()
        if rivals or name != "alternative"
    }


def in_turn(failed: Iterable[Failed]) -> list[Failed]:
    """The first failed question of every argument, then the second: a cap spares none for its place."""
    ranks: dict[str, int] = {}
    ranked = []
    for one in failed:
        rank = ranks[one.argument["id"]] = ranks.get(one.argument["id"], -1) + 1
        ranked.append((rank, one))
    return [one for _, one in sorted(ranked, key=lambda pair: pair[0])]


def most_calls(decisions: int, rounds: int, width: int) -> int:
    """The most calls of one iteration. What is stated next is what makes most calls later: a better
    alternative (1 to be stated, 3 questions, and so on), then a side effect (1, 3), an objection (0, 2)."""
    deciding, harms, objections, calls = decisions, 0, 0, decisions
    rivals = decisions > 1
    for _ in range(rounds):
        calls += deciding * (2 + rivals) + 3 * harms + 2 * objections
        better = min(width, deciding * rivals)
        harm = min(width - better, deciding)
        rest = min(width - better - harm, deciding + 3 * harms + 2 * objections)
        calls += better + harm
        deciding, harms, objections = better, harm, rest
    return calls
