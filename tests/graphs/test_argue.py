"""ArgMed on a real journal: who is asked what, what attacks what, what is accepted, and what a cut leaves."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, TypedDict

import pytest
from langgraph.graph import StateGraph
from sqlalchemy import select

import sparring
from sparring.agents.engines.base import Request
from sparring.errors import UserError
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.protocols import argue
from sparring.graphs.protocols.argue import Argue, framework_of
from sparring.graphs.protocols.argue_case import listed, options_of
from sparring.memory.journal import Journal
from sparring.memory.records import TaskRecord
from sparring.memory.schema import Episode, Event, Turn

YES = "It is so. <answer>Yes</answer>"


def evidence(letter: str = ".", fact: str = "fact") -> str:
    """A pattern of the critical question, of the argument for the option."""
    return rf"shown that answer {letter} \(\S+\) promotes the goal, in view of {fact}"


def effects(letter: str = ".") -> str:
    return rf"Can answer {letter} \(\S+\) be done without effects"


def better(letter: str = ".") -> str:
    return rf"Is answer {letter} \(\S+\) at least as good"


class Court:
    """Scripted seats. A critical question that fits one of the `no` is answered with no, for its reason."""

    def __init__(self, no: Mapping[str, str] | None = None, **said: str) -> None:
        self.no = dict(no or {})
        self.said = {"favour": "Answer: (B)", "alternative": "Decision: B\nReason: B is near", **said}
        self.prompts: list[tuple[str, str]] = []

    def roles(self) -> dict[str, Callable[[Request, int], Any]]:
        return {"generator": self._seat("generator"), "verifier": self._seat("verifier")}

    def _seat(self, name: str) -> Callable[[Request, int], Any]:
        def reply(request: Request, seed: int) -> Any:
            text = str(request.messages[-1]["content"])
            self.prompts.append((name, text))
            return getattr(self, name)(text)

        return reply

    def generator(self, text: str) -> Any:
        if "## To be argued for" in text:
            letter = re.findall(r"answer ([A-J]) \(", text)[-1]
            return self.said.get(letter, f"Fact: fact {letter}\nGoal: the goal")
        if "Name that effect" in text:
            return self.said.get("effect", "Effect: harm\nReason: it burns")
        if "Name its letter" in text:
            return self.said["alternative"]
        return self.said["propose" if "deserve" in text else "favour"]

    def verifier(self, text: str) -> Any:
        critical = text.split("## Critical question")[1]
        for words, reason in self.no.items():
            if re.search(words, critical):
                return f"{reason} <answer>No</answer>"
        return self.said.get("verdict", YES)


def task(*choices: str, **fields: Any) -> dict[str, Any]:
    options = {"choices": list(choices)} if choices else {}
    return {"id": "t", "question": "What is it?", "answer": "A", "check": "choice", **options, **fields}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db", "normal") as opened:
        yield opened


def play(journal: Journal, court: Court, *tasks: Any, **options: Any) -> Any:
    given = {"roles": court.roles(), "concurrency": 1, "run": "r", **options}
    return sparring.play("argue", list(tasks) or [task("A) x", "B) y")], memory=journal, **given)


def one(journal: Journal, court: Court, *tasks: Any, **options: Any) -> Any:
    (result,) = play(journal, court, *tasks, **options)
    assert result.status == "done", result.error
    return result


def keys(journal: Journal, run: str = "r") -> list[str]:
    query = select(Turn.key).join(Episode, Episode.number == Turn.episode_number)
    return sorted(row.key for row in journal.read(query.where(Episode.run_id == run)))


def attacks(journal: Journal, result: Any) -> set[tuple[str, str, str]]:
    """(attacker, target, question), rivals left out."""
    framework = framework_of(journal, result.episode).framework
    return {(a.attacker, a.target, a.question) for a in framework.attacks if a.question}


CHAIN = {
    effects("A"): "It has one.",
    evidence("B"): "Nothing shows it.",
    "Is harm beyond": "Water puts it out.",
}


def test_an_attack_that_is_attacked_leaves_the_decision_standing(journal: Journal) -> None:
    result = one(journal, Court(CHAIN), semantics="grounded")
    assert attacks(journal, result) == {
        ("a3", "a1", "side effects"), ("a4", "a2", "evidence"), ("a5", "a3", "remedy"),
    }  # fmt: skip
    found = framework_of(journal, result.episode)
    assert result.answer == "A" and result.correct and not result.outcome["tied"]
    assert found.decision and found.decision.extension == ("a1", "a4", "a5")
    texts = {argument.id: argument.text for argument in found.framework.arguments}
    assert texts["a1"] == "In view of fact A, answer A (x) promotes the goal; so answer A (x) should be done."
    assert texts["a3"].startswith("answer A (x) brings about harm, which works against the goal;")
    assert texts["a3"].endswith("This is because it burns.")
    assert texts["a5"].endswith(
        "harm is beyond what can be prevented or made good, because Water puts it out."
    )
    assert "Water puts it out" in result.outcome["detail"]["explanation"]
    assert keys(journal) == [
        "0/generator/A", "0/generator/B", "0/generator/a1/side_effects",
        *(f"0/verifier/a1/{name}" for name in ("alternative", "evidence", "side_effects")),
        *(f"0/verifier/a2/{name}" for name in ("alternative", "evidence", "side_effects")),
        *(f"0/verifier/a3/{name}" for name in ("evidence", "remedy", "weight")),
        *(f"0/verifier/a4/{name}" for name in ("evidence", "relevance")),
        "generator/favour",
    ]  # fmt: skip


@pytest.mark.parametrize("semantics", ["grounded", "preferred", "stable"])
def test_a_side_effect_defeats_a_decision(journal: Journal, semantics: str) -> None:
    result = one(journal, Court({effects("A"): "It burns."}), semantics=semantics)
    assert result.answer == "B" and not result.correct and not result.outcome["tied"]
    assert result.outcome["distribution"] == {"B": 1.0}


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"semantics": "grounded"}, None),
        ({"semantics": "preferred"}, "A"),
        ({"semantics": "stable"}, "A"),
        ({"semantics": "preferred", "mode": "skeptical"}, None),
    ],
)
def test_decisions_that_attack_each_other(journal: Journal, options: Any, answer: str | None) -> None:
    result = one(journal, Court(), **options)
    assert result.answer == answer and result.outcome["tied"] == (answer is not None)
    assert result.outcome["detail"]["settled"] and result.outcome["detail"]["depth"] == 0
    if options["semantics"] != "grounded":
        assert result.outcome["distribution"] == {"A": 0.5, "B": 0.5}


def test_a_tie_goes_to_the_option_that_was_argued_for_first(journal: Journal) -> None:
    court = Court({effects("A"): "It burns."}, A="Hm.")  # nothing readable for A
    result = one(journal, court, task("A) x", "B) y", "C) z", "D) w"))
    assert result.answer == "B" and result.outcome["tied"]
    assert result.outcome["distribution"] == pytest.approx({"B": 1 / 3, "C": 1 / 3, "D": 1 / 3})


def test_a_better_alternative_decides_and_attacks(journal: Journal) -> None:
    result = one(journal, Court({better("A"): "B is nearer."}))
    found = framework_of(journal, result.episode).framework
    assert attacks(journal, result) == {("a3", "a1", "alternative")}
    assert found.by_id["a3"].decision == "B" and found.by_id["a3"].scheme == "better alternative"
    assert found.by_id["a3"].text.startswith("answer B (y) promotes the goal better than answer A (x);")
    assert {"0/verifier/a3/evidence", "0/verifier/a3/side_effects"} <= set(keys(journal))


@pytest.mark.parametrize(
    "said", ["Decision: A\nReason: x", "Decision: C\nReason: x", "Decision: B", "I would not know."]
)
def test_what_is_no_alternative_attacks_nothing(journal: Journal, said: str) -> None:
    result = one(journal, Court({better("A"): "There is one."}, alternative=said))
    detail = result.outcome["detail"]
    assert attacks(journal, result) == set() and detail["arguments"] == 2
    assert (detail["failed"], detail["unstated"], detail["asked_to_state"]) == (1, 1, 3)


@pytest.mark.parametrize(
    "verdict", ["Hm.", "<answer>No</answer>", "So. <answer>No</answer><answer>Yes</answer>"]
)
def test_an_unreadable_verdict_neither_attacks_nor_passes(journal: Journal, verdict: str) -> None:
    result = one(journal, Court(verdict=verdict))
    detail = result.outcome["detail"]
    assert (detail["asked"], detail["unreadable"], detail["failed"]) == (6, 6, 0)
    assert attacks(journal, result) == set() and result.outcome["tied"]
    assert make_protocol("argue").figures(journal, "r")["unreadable"] == 1.0


def test_nothing_readable_is_no_answer(journal: Journal, tmp_path: Path) -> None:
    mute = Court(favour="Hm.", A="Hm.", B="Hm.", verdict="Hm.")
    result = one(journal, mute, iterations=2)
    assert result.answer is None and result.correct is False and result.outcome["distribution"] == {}
    detail = result.outcome["detail"]
    assert (detail["favourite"], detail["unstated"], detail["iterations"]) == (None, 4, 2)
    figures = make_protocol("argue").figures(journal, "r")
    assert (figures["decided"], figures["unstated"], figures["arguments"]) == (0.0, 1.0, 0.0)
    assert "agreement" not in figures and "decided_right" not in figures and "unreadable" not in figures
    assert framework_of(journal, result.episode).draw(tmp_path / "empty.png").stat().st_size > 1000


def test_where_none_is_accepted_the_next_iteration_knows_why(journal: Journal) -> None:
    class Learning(Court):
        def generator(self, text: str) -> Any:
            if "## What stands so far" in text:
                assert "Nothing shows it" in text.split("## What stands so far")[1]
                return f"Fact: proof {re.findall(r'answer ([A-J]) ', text)[-1]}\nGoal: the goal"
            return super().generator(text)

    no = {evidence(): "Nothing shows it."}
    once = one(journal, Learning(no), run="once")
    assert once.answer is None and once.outcome["detail"]["iterations"] == 1
    no |= {evidence("A", "proof"): "Nor this."}
    court = Learning(no)
    result = one(journal, court, iterations=3)
    # In the second iteration B's new argument stands; the old ones stay, and stay rejected.
    assert result.answer == "B" and result.outcome["detail"]["iterations"] == 2
    assert result.outcome["detail"]["arguments"] == 4 + 3
    assert [key for key in keys(journal) if key.startswith("1/generator")] == [
        "1/generator/A", "1/generator/B",
    ]  # fmt: skip
    assert not [key for key in keys(journal) if key.startswith("1/verifier/a1")]
    assert len(framework_of(journal, result.episode).framework.arguments) == 7  # of the last iteration


def test_an_objection_that_repeats_what_it_objects_to_closes_a_circle(journal: Journal) -> None:
    # not A's claim, because R <- not R, because S <- not S, because R <- not R, because S: said before
    no = {
        evidence("A"): "R",
        effects("B"): "It burns.",
        r"shown that R\?": "S",
        r"shown that S\?": "R",
    }
    result = one(journal, Court(no), rounds=6, semantics="preferred")
    assert {(a, b) for a, b, q in attacks(journal, result) if q == "evidence"} == {
        ("a3", "a1"), ("a5", "a3"), ("a6", "a5"), ("a5", "a6"),
    }  # fmt: skip
    assert result.outcome["detail"]["settled"] and result.outcome["detail"]["depth"] == 3
    # Either the objection to A stands or what refutes it: accepted in one of two extensions.
    assert result.answer == "A" and result.outcome["distribution"] == {"A": 0.5}
    assert one(journal, Court(no), rounds=6, semantics="grounded", run="g").answer is None


def test_a_cap_takes_one_attack_of_each_before_a_second_of_any(journal: Journal) -> None:
    court = Court({evidence(): "No.", effects(): "It burns."})
    result = one(journal, court, task("A) x", "B) y", "C) z"), width=4, rounds=1)
    assert attacks(journal, result) == {
        ("a4", "a1", "evidence"), ("a5", "a2", "evidence"), ("a6", "a3", "evidence"),
        ("a7", "a1", "side effects"),
    }  # fmt: skip
    assert result.outcome["detail"]["left"] == 2 and not result.outcome["detail"]["settled"]
    # Nothing new in the second round, and yet B's failed question was never argued out.
    result = one(journal, Court({evidence(): "No."}), width=1, run="narrow")
    assert attacks(journal, result) == {("a3", "a1", "evidence")} and result.answer == "B"
    assert result.outcome["detail"]["left"] == 1 and not result.outcome["detail"]["settled"]


def test_without_rounds_nobody_verifies(journal: Journal) -> None:
    court = Court()
    result = one(journal, court, rounds=0)
    assert {name for name, _ in court.prompts} == {"generator"} and result.calls == 3
    assert not result.outcome["detail"]["settled"]


# --- the decisions at hand ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "letters", "texts", "answers"),
    [
        ({"choices": ["A)10 km", "B) 20 km"]}, "AB", ["10 km", "20 km"], ["A", "B"]),
        ({"choices": ["ten", "B) 20"]}, "AB", ["ten", "B) 20"], ["A", "B"]),
        ({"choices": ["yes", "no", "maybe"], "check": "exact"}, "ABC", None, ["yes", "no", "maybe"]),
        ({"question": "What?\n(A) ten\n(B) 20"}, "AB", ["ten", "20"], ["A", "B"]),
        ({"question": "A) is a list.\nWhat?\nA.1\nB.2\nC.3"}, "ABC", ["1", "2", "3"], ["A", "B", "C"]),
        ({"question": "What?\nA) only", "check": "exact"}, "", [], []),
        ({"question": "What?\nA) 1\nC) 2", "check": "exact"}, "", [], []),
        ({"question": "What?\nA) 1\nB) 2\nSay why.", "check": "exact"}, "", [], []),
    ],
)
def test_options_of_a_task(fields: Any, letters: str, texts: Any, answers: list[str]) -> None:
    row = task(**fields)
    record = TaskRecord(
        "t", row["question"], "A", row["check"], {"choices": row["choices"]} if "choices" in row else None
    )
    found = options_of(record.question, record, 5)
    assert "".join(one["letter"] for one in found) == letters
    assert [one["text"] for one in found] == (answers if texts is None else texts)
    assert [one["answer"] for one in found] == answers
    shown = listed(record.question, found)
    assert shown.count("A) ") <= 2 and all(text in shown for text in answers if record.check == "exact")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (task(), "its check is `choice`, but it has no options; give them as a list `choices`"),
        (task("A) x"), "at least two texts"),
        (task("A) x", " "), "a choice is no text, or blank"),
        (task(choices="A) x, B) y"), "at least two texts"),
        (task(*"uvwxyz"), "has 6 options, and 5 may be argued for; raise `decisions`"),
    ],
)
def test_a_task_without_proper_options_is_refused_before_any_call(
    journal: Journal, row: Any, message: str
) -> None:
    court = Court()
    with pytest.raises(UserError, match=re.escape(message)):
        play(journal, court, row)
    assert not court.prompts


def test_without_options_the_generator_proposes_decisions(journal: Journal) -> None:
    court = Court(
        {effects("A"): "It burns."},
        propose="Decision: 1/2\nDecision: 0.5\nDecision: 3\nDecision: 4",
    )
    result = one(journal, court, task(answer="3", check="math"), decisions=3)
    # 0.5 is 1/2 once more, and 4 is beyond the three that count; the answer is a text, not a letter.
    assert result.answer == "3" and result.correct and result.outcome["detail"]["favourite"] == "1/2"
    assert next(text for _, text in court.prompts if "To be argued for" in text).count("A) 1/2") == 1
    assert [key for key in keys(journal) if "generator" in key] == [
        "0/generator/A", "0/generator/B", "0/generator/a1/side_effects", "generator/propose",
    ]  # fmt: skip
    none = one(journal, Court(propose="Maybe 3?"), task(answer="3", check="math"), run="none", iterations=2)
    assert none.answer is None and none.calls == 1
    alone = one(journal, Court(propose="Decision: 3"), task(answer="3", check="math"), run="alone")
    assert alone.answer == "3" and not [key for key in keys(journal, "alone") if "alternative" in key]


# --- cost, order, cuts --------------------------------------------------------------------------------


class Worst(Court):
    """Better alternatives all the time, beyond a `width` of 100 all else too; nothing is said twice."""

    def __init__(self, width: int = 1000) -> None:
        super().__init__()
        self.width, self.count = width, 0

    def generator(self, text: str) -> Any:
        self.count += 1
        if "Name its letter" in text:
            own = re.findall(r"than answer ([A-J]) \(", text)[-1]
            return f"Decision: {'B' if own == 'A' else 'A'}\nReason: r{self.count}"
        return f"Fact: f{self.count}\nGoal: g\nEffect: e{self.count}\nReason: r{self.count}"

    def verifier(self, text: str) -> Any:
        self.count += 1
        critical = text.split("## Critical question")[1]
        if re.search(better(), critical) or self.width > 100:
            return f"r{self.count} <answer>No</answer>"
        return YES


@pytest.mark.parametrize("iterations", [1, 2])
@pytest.mark.parametrize(("decisions", "rounds", "width"), [(2, 3, 1000), (3, 2, 1000), (3, 3, 3), (4, 0, 1)])
def test_the_most_calls_are_reached(
    journal: Journal, decisions: int, rounds: int, width: int, iterations: int
) -> None:
    options = {"decisions": decisions, "rounds": rounds, "width": width, "iterations": iterations}
    row = task(*(f"{letter}) {letter}." for letter in "ABCD"[:decisions]))
    result = one(journal, Worst(width), row, **options, semantics="grounded")
    assert result.answer is None and result.outcome["detail"]["unstated"] <= 1
    assert result.calls == Argue(**options).max_calls


def test_the_most_calls_by_hand() -> None:
    assert Argue(decisions=5, rounds=0).max_calls == 1 + 5
    assert Argue(decisions=5, rounds=1, width=8).max_calls == 1 + 5 + 15 + 8
    assert Argue(decisions=5, rounds=2, width=8).max_calls == 1 + 5 + 15 + 8 + 24 + 8
    assert Argue(decisions=1, rounds=1, width=8, iterations=2).max_calls == 1 + 2 * (1 + 2 + 1)


@pytest.mark.parametrize("seed", range(6))
def test_never_more_calls_than_the_most(journal: Journal, seed: int) -> None:
    rng = random.Random(seed)

    class Whims(Worst):
        def verifier(self, text: str) -> Any:
            self.count += 1
            return rng.choice([YES, "Hm.", *[f"r{self.count} <answer>No</answer>"] * 4])

    options: Any = {"decisions": 3, "rounds": 3, "width": rng.choice([1, 2, 4, 7, 30]), "iterations": 2}
    result = one(journal, Whims(), task("A) x", "B) y", "C) z"), **options)
    assert 4 < result.calls <= Argue(**options).max_calls


def test_calls_of_one_level_are_made_together(journal: Journal) -> None:
    class Counting(Court):
        now, most = 0, 0

        async def _slow(self, said: str) -> str:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.01)
            self.now -= 1
            return said

        def generator(self, text: str) -> Any:
            return self._slow(super().generator(text))

        def verifier(self, text: str) -> Any:
            return self._slow(super().verifier(text))

    court = Counting()
    one(journal, court, task("A) x", "B) y", "C) z"))
    assert court.most == 9  # three questions of three arguments


class Dying(Court):
    """Says by seed and place what it says; after some calls everything stops."""

    def __init__(self, calls: float = float("inf")) -> None:
        super().__init__()
        self.left, self.made = calls, 0

    def _seat(self, name: str) -> Callable[[Request, int], Any]:
        def reply(request: Request, seed: int) -> str:
            if self.left <= 0:
                raise UserError("cut off")
            self.left, self.made = self.left - 1, self.made + 1
            if name == "verifier":
                return ["Hm.", YES, *[f"r{seed % 7} <answer>No</answer>"] * 4][seed % 6]
            if "Name its letter" in str(request.messages[-1]["content"]):
                return f"Decision: {'ABC'[seed % 3]}\nReason: r{seed % 5}"
            return f"Fact: f{seed % 9}\nGoal: g\nEffect: e{seed % 5}\nReason: r{seed % 5}\nAnswer: (A)"

        return reply


@pytest.mark.parametrize("options", [{"semantics": "grounded", "iterations": 2, "width": 4}, {"width": 6}])
def test_a_run_that_is_cut_off_anywhere_decides_the_same(tmp_path: Path, options: Any) -> None:
    rows = [task("A) x", "B) y", "C) z", id=f"t{n}") for n in range(2)]

    def ended(folder: str, *cuts: float) -> tuple[Any, int]:
        made = 0
        with Journal.open(tmp_path / f"{folder}.db", "normal") as journal:
            for cut in (*cuts, float("inf")):
                court = Dying(cut)
                with suppress(UserError) if cut in cuts else nullcontext():
                    results = play(journal, court, *rows, concurrency=2, **options)
                made += court.made
            query = select(Event.kind, Event.key, Event.payload).where(Event.kind != "verdict")
            told = sorted(repr(tuple(row)) for row in journal.read(query))
        assert [result.status for result in results] == ["done"] * 2
        return ([result.outcome for result in results], told), made

    whole, calls = ended("whole")
    assert any(outcome["detail"]["attacks"] > 3 for outcome in whole[0])
    for cut in range(1, calls, 17):
        found, made = ended(f"cut{cut}", cut, 4)
        assert found == whole and calls <= made <= calls + 2 * 2 * 24


# --- what is kept -------------------------------------------------------------------------------------


def test_figures_by_hand(journal: Journal) -> None:
    class Three(Court):
        def generator(self, text: str) -> Any:
            return "Hm." if "third" in text else super().generator(text)

        def verifier(self, text: str) -> Any:
            if "second" in text and re.search(effects("A"), text):
                return "It burns. <answer>No</answer>"
            if "second" in text and "weight" not in text and "Is harm beyond" in text:
                return "Hm."
            return super().verifier(text)

    rows = [task("A) x", "B) y", id="1"), task("A) x", "B) y", id="2", question="second?", answer="B")]
    play(journal, Three(), *rows, task("A) x", "B) y", id="3", question="third?"), rounds=2)
    assert make_protocol("argue").figures(journal, "r") == pytest.approx(
        {
            # 1: A, tied with B, right; 2: B, against A's side effect, right; the favourite is B in both.
            # 3: nothing readable, no favourite either.
            "decided": 2 / 3, "decided_right": 1.0, "tied": 0.5, "agreement": 0.5, "favourite_right": 1 / 3,
            "arguments": 5 / 3, "attacks": 1 / 3, "depth": 1 / 3, "iterations": 1.0, "settled": 1.0,
            "unreadable": 1 / 15, "failed": 1 / 15, "left": 0.0, "unstated": 2 / 7,
        }
    )  # fmt: skip


def test_framework_text_and_drawing_come_from_the_journal(journal: Journal, tmp_path: Path) -> None:
    result = one(journal, Court(CHAIN))
    found = framework_of(journal, result.episode)
    assert found.text == result.outcome["detail"]["explanation"] and "`a3` (side effects)" in found.text
    assert found.decision and found.decision.decision == "A" and found.decision.semantics == "preferred"
    path = found.draw(tmp_path / "it" / "argued.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(UserError, match="episode `nobody` has no framework"):
        framework_of(journal, "nobody")


def test_a_reasoner_that_gives_up_leaves_the_arguments(journal: Journal, monkeypatch: Any) -> None:
    monkeypatch.setattr(argue, "STEPS", 2)
    result = one(journal, Court(CHAIN))
    assert result.answer is None and result.outcome["detail"]["given_up"]
    found = framework_of(journal, result.episode)
    assert found.decision is None and len(found.framework.arguments) == 5 and "goes beyond" in found.text


def test_a_favourite_that_cannot_be_read_is_no_part_of_the_agreement(journal: Journal) -> None:
    one(journal, Court(favour="I like them all."))
    figures = make_protocol("argue").figures(journal, "r")
    assert "agreement" not in figures and figures["favourite_right"] == 0.0 and figures["decided"] == 1.0


class Asking(TypedDict, total=False):
    asked: str
    said: str


async def test_in_a_graph_of_ones_own(journal: Journal) -> None:
    node = make_protocol("argue").node(
        agents=Court({effects("A"): "It burns."}).roles(),
        memory=journal,
        task=lambda state: state["asked"],
        result=lambda outcome: {"said": outcome["answer"]},
    )
    graph = StateGraph(Asking)
    graph.add_node("argue", node)
    graph.set_entry_point("argue")
    found = await graph.compile().ainvoke({"asked": "What is it?\nA) near\nB) far"})
    assert found["said"] == "far"  # without a check of its own an answer is a text
