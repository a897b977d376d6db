"""MAgICoRe on a real journal: who is asked what, the gate's events, the pool, cost, phases, resumption."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

import sparring
from benchmarks.gate import questions_of, told
from sparring.agents.engines.base import Request
from sparring.errors import UserError
from sparring.graphs.catalogue import make_protocol
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Event, Score, Turn

Reply = Callable[[Request, int], str]
SPREAD = ["4", "5", "6", "7"]
"""Answers of four chains: four groups of one, which is more than the gate trusts."""


def asked(request: Request) -> str:
    return str(request.messages[-1]["content"])


def solved(answer: str) -> str:
    return f"Step 1: 2 + 2 is {answer}.\nStep 2: So it is {answer}.\nAnswer: {answer}"


class Agents:
    """Scripted seats. The k-th solution to a question that says `spread` is another one; else all say 4."""

    def __init__(
        self, grades: Mapping[str, int] | None = None, refined: str = "4", continued: str = "4"
    ) -> None:
        self.grades, self.refined, self.continued = dict(grades or {}), refined, continued
        self.solutions = 0
        self.prompts: dict[str, list[str]] = {}

    def roles(self, *names: str) -> dict[str, Reply]:
        every = ("solver", "reviewer", "refiner", "grader", "continuer")
        return {name: self._seat(name) for name in names or every}

    def _seat(self, name: str) -> Reply:
        def reply(request: Request, seed: int) -> str:
            self.prompts.setdefault(name, []).append(asked(request))
            return str(getattr(self, name)(asked(request)))

        return reply

    def solver(self, text: str) -> str:
        self.solutions += 1
        return solved(SPREAD[(self.solutions - 1) % 4] if "spread" in text else "4")

    def reviewer(self, text: str) -> str:
        return "Step 1 is wrong."

    def refiner(self, text: str) -> str:
        return solved(self.refined)

    def grader(self, text: str) -> str:
        found = re.findall(r"Answer: (\w+)", text) or ["none"]
        return f"<score>{self.grades.get(found[-1], 5) + ('dull' in text)}</score>"

    def continuer(self, text: str) -> str:
        return f"Answer: {self.continued}"


OPTIONS: dict[str, Any] = {"k": 4, "outcome": "judge", "process": "rollouts?n=2"}
HARD = {"mean": 1.9, "deviation": 0.1}
"""No question that is spread comes near this mean."""


def tasks(*questions: str) -> list[dict[str, Any]]:
    return [{"id": f"t{n}", "question": q, "answer": "4", "check": "math"} for n, q in enumerate(questions)]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db", "normal") as opened:
        yield opened


def play(journal: Journal, agents: Agents, *questions: str, **options: Any) -> Any:
    given = {**OPTIONS, "roles": agents.roles(), "concurrency": 1, **options}
    return sparring.play("refine", tasks(*questions), memory=journal, **given)


def events(journal: Journal, run: str, kind: str) -> list[dict[str, Any]]:
    query = select(Event.key, Event.payload).join(Episode, Episode.number == Event.episode_number)
    rows = journal.read(query.where(Episode.run_id == run, Event.kind == kind).order_by(Event.id))
    return [{"key": row.key, **row.payload} for row in rows]


def keys(journal: Journal, run: str) -> list[str]:
    query = select(Turn.key).join(Episode, Episode.number == Turn.episode_number)
    return sorted(row.key for row in journal.read(query.where(Episode.run_id == run)))


def test_an_easy_question_is_scored_and_voted(journal: Journal) -> None:
    agents = Agents()
    (result,) = play(journal, agents, "easy", run="r", **HARD)
    assert result.answer == "4" and result.correct and result.outcome["detail"]["refined"] == 0
    (gate,) = events(journal, "r", "gate")
    assert (
        gate["hard"] is False and gate["confident"] and not gate["majority_good"]
    )  # one answer, however poor
    assert (gate["mean"], gate["deviation"], gate["supporters"]) == (1.9, 0.1, 4)
    assert "reviewer" not in agents.prompts


def test_a_hard_question_is_reviewed_and_refined_chain_by_chain(journal: Journal) -> None:
    agents = Agents({"4": 2})
    (result,) = play(journal, agents, "spread", run="r", **HARD)
    assert result.outcome["detail"]["refined"] == 1 and result.answer == "4"
    (gate,) = events(journal, "r", "gate")
    assert gate["hard"] and gate["quality"] == pytest.approx(
        (0.2 + 1.0 - 1.9) / 0.1
    )  # o + p of the one that said 4
    spoken = [key for key in keys(journal, "r") if "grade" not in key and "from" not in key]
    assert spoken == [f"0/solver/{n}" for n in range(4)] + [
        f"1/{role}/{n}" for role in ("refiner", "reviewer") for n in range(4)
    ]
    review, refine = agents.prompts["reviewer"], agents.prompts["refiner"]
    # Roll-outs from step 1 all come to 4, the majority; the last step is right in the first chain alone.
    assert (
        "Step 1: 2 + 2 is 4. (Score: 10/10)" in review[0]
        and "Step 2: So it is 4. (Score: 10/10)" in review[0]
    )
    assert any("Step 2: So it is 7. (Score: 0/10)" in text for text in review)
    assert (
        all("Step 1 is wrong." in text for text in refine) and "Answer:" not in review[0].split("Solution")[1]
    )


@pytest.mark.parametrize(("iterations", "refined"), [(0, 0), (1, 1), (3, 3)])
def test_calls_are_k_times_1_and_2_for_each_refinement(
    journal: Journal, iterations: int, refined: int
) -> None:
    agents = Agents(refined="9")
    (result,) = play(journal, agents, "spread", run="r", gate="all", iterations=iterations)
    spoken = [key for key in keys(journal, "r") if "grade" not in key and "from" not in key]
    assert len(spoken) == 4 * (1 + 2 * refined)
    protocol = make_protocol("refine", {**OPTIONS, "gate": "all", "iterations": iterations})
    assert result.calls <= protocol.max_calls


def test_refinement_stops_where_a_question_turns_easy(journal: Journal) -> None:
    (result,) = play(journal, Agents(refined="4"), "spread", run="r", iterations=3, **HARD)
    gates = events(journal, "r", "gate")
    assert [(gate["key"], gate["hard"]) for gate in gates] == [("0", True), ("1", False)]
    assert gates[1]["entropy_outcome"] == 0 and result.outcome["detail"]["refined"] == 1


def test_the_pool_holds_all_iterations_and_the_official_one_the_last_two(journal: Journal) -> None:
    # First chains are graded best, so the pool of k that remembers them all is theirs.
    def agents() -> Agents:
        return Agents({"4": 10, "5": 9, "6": 9, "7": 9, "9": 1}, refined="9")

    given = {"iterations": 2, "gate": "all"}
    result, _ = play(journal, agents(), "spread", "dull spread", run="all", **given)
    assert result.answer == "4" and set(result.outcome["detail"]["pool"]) == {
        f"0/solver/{n}" for n in range(4)
    }
    result, _ = play(journal, agents(), "spread", "dull spread", run="two", compat="official", **given)
    assert result.answer == "9" and all(key[0] in "12" for key in result.outcome["detail"]["pool"])


def test_scores_are_rows_of_the_turns_they_judge(journal: Journal) -> None:
    play(journal, Agents({"4": 2}), "spread", run="r", gate="all")
    query = select(Turn.key, Score.scorer, Score.step, Score.value).join(Turn, Turn.id == Score.turn_id)
    rows = {(row.key, row.scorer, row.step): row.value for row in journal.read(query)}
    assert rows["0/solver/0", "judge", None] == 0.2 and rows["0/solver/1", "judge", None] == 0.5
    assert [rows["0/solver/1", "rollouts?n=2", step] for step in (0, 1)] == [1.0, 0.0]
    assert len(rows) == 2 * 4 * (1 + 2)  # two iterations of four chains: the grade and two steps


def test_a_calibration_is_another_run_frozen_with_the_first_question(journal: Journal) -> None:
    given = {"iterations": 0, "roles": Agents({"4": 6}).roles("solver", "grader", "continuer")}
    play(journal, Agents(), "easy 1", "easy 2", "spread", run="cal", **given)
    play(journal, Agents(), "easy", run="r", calibration="cal", chains="all")
    row = next(iter(journal.read(select(Event.payload).where(Event.run_id == "r", Event.kind == "facts"))))
    rewards = [1.6] * 9 + [0.5] * 3  # 0.6 + 1 for each 4; of the other three chains the last step is 0
    mean = sum(rewards) / 12
    assert row.payload["mean"] == pytest.approx(mean) and row.payload["n"] == 12
    assert row.payload["source"] == "run `cal`"
    assert row.payload["deviation"] == pytest.approx((sum((r - mean) ** 2 for r in rewards) / 12) ** 0.5)
    assert events(journal, "r", "gate")[0]["mean"] == pytest.approx(mean)


def test_the_first_chain_of_each_question_is_what_the_released_code_takes(journal: Journal) -> None:
    roles = Agents({"4": 6}).roles("solver", "grader", "continuer")
    play(journal, Agents(), "easy", "dull", "spread", run="cal", iterations=0, roles=roles)
    play(journal, Agents(), "easy", run="r", calibration="cal")
    (facts,) = journal.read(select(Event.payload).where(Event.run_id == "r", Event.kind == "facts"))
    assert facts.payload["mean"] == pytest.approx((1.6 + 1.7 + 1.6) / 3) and facts.payload["n"] == 3


@pytest.mark.parametrize("concurrency", [1, 8])
def test_the_official_calibration_is_a_barrier_over_the_whole_set(journal: Journal, concurrency: int) -> None:
    agents = Agents({"4": 6})
    results = play(
        journal,
        agents,
        "easy",
        "dull",
        "spread",
        "dull spread",
        run="r",
        compat="official",
        concurrency=concurrency,
    )
    assert [result.status for result in results] == ["done"] * 4
    solving = [key for key in _order(journal, "r") if key.startswith("0/")]
    assert _order(journal, "r")[: len(solving)] == solving  # nothing is refined before all is scored
    (facts,) = journal.read(select(Event.payload).where(Event.run_id == "r", Event.kind == "facts"))
    firsts = [row["rewards"][0] for row in events(journal, "r", "rewards") if row["key"] == "0"]
    assert facts.payload["mean"] == pytest.approx(sum(firsts) / 4) and facts.payload["n"] == 4
    assert {gate["mean"] for gate in events(journal, "r", "gate")} == {facts.payload["mean"]}


def _order(journal: Journal, run: str) -> list[str]:
    query = select(Turn.key).join(Episode, Episode.number == Turn.episode_number).where(Episode.run_id == run)
    return [row.key for row in journal.read(query.order_by(Turn.id))]


def test_a_chain_without_an_answer_has_no_process_score_and_does_not_vote(journal: Journal) -> None:
    class Mute(Agents):
        def solver(self, text: str) -> str:
            return said if (said := super().solver(text)) == solved("4") else "I do not know."

    (result,) = play(journal, Mute(), "spread", run="r", **HARD)
    (rewards,) = events(journal, "r", "rewards")
    assert rewards["rewards"] == [1.5, 0.5, 0.5, 0.5] and result.answer == "4"


def test_nobody_has_an_answer(journal: Journal) -> None:
    class Mute(Agents):
        def solver(self, text: str) -> str:
            return "No idea."

        def refiner(self, text: str) -> str:
            return "None either."

    (result,) = play(journal, Mute(), "spread", run="r", **HARD)
    assert result.answer is None and result.correct is False and result.status == "done"
    assert events(journal, "r", "gate")[0]["quality"] is None


def test_where_no_grade_can_be_read_the_majority_decides(journal: Journal) -> None:
    class Unreadable(Agents):
        def grader(self, text: str) -> str:
            return "Very good!"

    (result,) = play(journal, Unreadable(), "easy", run="r", **HARD)
    assert result.answer == "4" and result.outcome["detail"]["unscored"] == 4
    assert result.outcome["detail"]["rule"] == "majority" and events(journal, "r", "gate")[0]["hard"] is False


def test_one_chain(journal: Journal) -> None:
    (result,) = play(journal, Agents(), "easy", run="r", k=1, **HARD)
    assert result.answer == "4" and events(journal, "r", "gate")[0]["confidence_outcome"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "name a `calibration`"),
        ({"mean": 1.0}, "come together"),
        ({"mean": 1.0, "deviation": 0.0}, "greater than 0"),
        ({"mean": 1.0, "deviation": 1.0, "compat": "official"}, "give one of"),
        (
            {"outcome": "rollouts", "gate": "all"},
            "outcome scores are needed; those that give them: orm, judge",
        ),
        ({"process": "nobody", "gate": "all"}, "unknown scorer `nobody`"),
        ({"process": "rollouts?n=0", "gate": "all"}, "option `n`"),
        ({"process": "rollouts?m=1", "gate": "all"}, "unknown option of scorer `rollouts` `m`"),
        ({"calibration": "nowhere"}, "no run `nowhere`"),
    ],
)
def test_what_cannot_work_says_so_before_any_call(
    journal: Journal, options: dict[str, Any], message: str
) -> None:
    agents = Agents()
    with pytest.raises(UserError, match=re.escape(message)):
        play(journal, agents, "easy", run="r", **options)
    assert not agents.prompts


def test_a_calibration_by_other_scorers_is_refused(journal: Journal) -> None:
    roles = Agents().roles("solver", "grader", "continuer")
    play(journal, Agents(), "easy", "dull", run="cal", iterations=0, process="rollouts?n=3", roles=roles)
    with pytest.raises(UserError, match="was scored by process `rollouts\\?n=3`"):
        play(journal, Agents(), "easy", run="r", calibration="cal")
    roles["grader"] = lambda *_: 1 / 0
    with suppress(Exception):
        play(journal, Agents(), "easy", run="cut", iterations=0, roles=roles)
    with pytest.raises(UserError, match=r"run `cut` is failed, and .*`sparring resume cut`"):
        play(journal, Agents(), "easy", run="r", calibration="cut")
    sparring.play("sample", tasks("a"), memory=journal, run="s", engine="scripted:hash")
    with pytest.raises(UserError, match="played `sample`"):
        play(journal, Agents(), "easy", run="r", calibration="s")


def test_figures_of_a_run_that_refined_all(journal: Journal) -> None:
    agents = Agents({"4": 4, "5": 1, "6": 9, "7": 1}, continued="6")
    results = play(journal, agents, "easy", "spread", run="r", gate="all", mean=1.9, deviation=0.1)
    # The vote of the spread chains goes to 6, the refined ones put it right.
    assert [r.outcome["detail"]["answers"] for r in results] == [["4", "4"], ["6", "4"]]
    found = make_protocol("refine", {**OPTIONS, "gate": "all"}).figures(journal, "r")
    assert found == pytest.approx(
        {
            "hard": 0.5, "refined": 1.0, "refinements": 1.0,
            "first_vote": 0.5, "vote": 1.0, "fixed": 1.0, "broken": 0.0,
            "oracle": 1.0, "oracle_gap": 0.0, "gated_vote": 1.0,
            "chain_first": 5 / 8, "chain_second": 1.0, "confidence": 1.0, "critique": 1.0,
            "rss": (1 - 25 / 64) / (2 * 15 / 64),
        }
    )  # fmt: skip


def test_the_gates_benchmark_tells_hard_from_easy_and_counts_calls(journal: Journal) -> None:
    agents = Agents({"4": 4, "5": 1, "6": 9, "7": 1}, continued="6")
    play(journal, agents, "easy", "spread", run="r", gate="all", **HARD)
    found = told(questions_of(journal, "r"))
    assert found["questions"] == 2 and found["single"].mean == 5 / 8 and found["majority"].mean == 1
    assert [found[name].mean for name in ("first", "gated", "refined", "hard")] == [0.5, 1, 1, 0.5]
    assert (found["gate precision"].mean, found["gate recall"].mean) == (1, 1)
    assert found["hard fixed, broken"] == [1, 0] and found["easy fixed, broken"] == [0, 0]
    assert found["hard chains"]["critique"] == 1 and found["gated - first"].mean == 0.5
    assert found["calls"] == {"chains": 4, "refining": 8, "scoring": 8 * (1 + 2)}
    play(journal, agents, "easy", run="gated", **HARD)
    with pytest.raises(UserError, match="no run of `refine` with `gate=all`"):
        questions_of(journal, "gated")


def test_figures_say_what_refining_an_easy_question_breaks(journal: Journal) -> None:
    agents = Agents({"9": 9}, refined="9", continued="9")
    play(journal, agents, "easy", run="r", gate="all", mean=0.1, deviation=0.1)
    found = make_protocol("refine", {**OPTIONS, "gate": "all"}).figures(journal, "r")
    assert (found["broken"], found["hard"], found["gated_vote"], found["vote"]) == (1.0, 0.0, 1.0, 0.0)
    assert found["oracle_gap"] == 1.0 and found["confidence"] == 0.0


class Dying(Agents):
    """Says by the seed what it says, so that order is nothing; after some calls everything stops, and nothing
    of what was being said is journaled."""

    def __init__(self, calls: float = float("inf")) -> None:
        super().__init__({"4": 2, "9": 6})
        self.left, self.made = calls, 0

    def _seat(self, name: str) -> Reply:
        def reply(request: Request, seed: int) -> str:
            if self.left <= 0:
                raise UserError("cut off")
            self.left -= 1
            self.made += 1
            if name == "grader":
                return f"<score>{seed % 11}</score>"
            return "Look again." if name == "reviewer" else solved(str(seed % 5))

        return reply


@pytest.mark.parametrize("options", [{"compat": "official"}, {"mean": 1.2, "deviation": 0.3}])
def test_a_run_that_is_cut_off_anywhere_takes_the_same_decisions(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    def ended(folder: str, *cuts: int) -> tuple[Any, int]:
        made = 0
        with Journal.open(tmp_path / f"{folder}.db", "normal") as journal:
            for cut in (*cuts, float("inf")):
                agents = Dying(cut)
                with suppress(UserError) if cut in cuts else nullcontext():
                    results = play(
                        journal, agents, "a", "b", "c", run="r", iterations=2, concurrency=4, **options
                    )
                made += agents.made
            told = {kind: events(journal, "r", kind) for kind in ("rewards", "gate", "vote")}
            scores = len(journal.read(select(Score.id)))
        assert [result.status for result in results] == ["done"] * 3
        kinds = {kind: sorted(map(repr, rows)) for kind, rows in told.items()}
        return ([result.outcome for result in results], kinds, scores), made

    whole, calls = ended("whole")
    assert any(len(outcome["detail"]["answers"]) > 1 for outcome in whole[0])  # something was refined
    for cut in range(3, calls, 13):
        found, made = ended(f"cut{cut}", cut, 5)
        # Three questions side by side, each with at most four grades and eight continuations on their way.
        assert found == whole and calls <= made <= calls + 2 * 3 * (4 + 8)


def test_scorers_that_nobody_named_are_those_of_a_calibration_too(journal: Journal) -> None:
    given: dict[str, Any] = {"k": 2, "memory": journal, "chains": "all", "concurrency": 1}
    scoring = Agents().roles("solver", "grader", "continuer")
    sparring.play("refine", tasks("easy", "dull"), run="before", roles=scoring, iterations=0, **given)
    for number, average in enumerate(({"calibration": "before"}, {"compat": "official"})):
        (first, _) = sparring.play(
            "refine", tasks("easy", "dull"), run=f"r{number}", roles=Agents().roles(), **given, **average
        )
        assert first.status == "done" and len(events(journal, f"r{number}", "gate")) == 2
