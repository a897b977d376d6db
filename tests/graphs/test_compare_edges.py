"""What a comparison must not get wrong at its edges: labels, shared lists, strange scores, caps, ties."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_compare import EVERY, SCORED, Seats, answers, calls, play, tasks

import sparring
from sparring.agents.engines.base import Capabilities, Rated, Solved
from sparring.errors import UserError
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.compare import load_comparison
from sparring.graphs.comparison import compared
from sparring.graphs.context import Limits
from sparring.memory.journal import Journal

REFINE: dict[str, Any] = {"method": "refine", "mean": 1.9, "deviation": 0.1, "gate": "all"}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db", "normal") as opened:
        yield opened


class Rater:
    """An engine of somebody else's that rates: by the number of the solution and the solution."""

    spec = "mine"

    def __init__(self, says: Callable[[int, Solved], tuple[float, ...]], rates: str = "") -> None:
        self.says, self.rates, self.asked = says, rates, 0

    def capabilities(self) -> Capabilities:
        return Capabilities(rates=self.rates, base="b")

    async def rate(self, solutions: list[Solved]) -> list[Rated]:
        first, self.asked = self.asked, self.asked + len(solutions)
        return [Rated(self.says(first + n, one), 10) for n, one in enumerate(solutions)]

    async def generate(self, request: Any) -> Any:
        raise NotImplementedError

    async def score(self, request: Any) -> Any:
        raise NotImplementedError

    async def close(self) -> None:
        pass


def rated(journal: Journal, rater: Rater, methods: list[Any]) -> Any:
    given = {"n": 6, "methods": methods, "outcome": "orm:x", "process": "rollouts?n=2"}
    roles = {**Seats().roles(*make_protocol("compare", given).seats()), "outcome": rater}
    return sparring.play("compare", tasks(1), memory=journal, run="r", concurrency=1, roles=roles, **given)


@pytest.mark.parametrize("label", ["refine", "zz"])
def test_what_a_method_is_called_breaks_no_tie(journal: Journal, label: str) -> None:
    """Of two equally good chains the first one's answer wins, as in the protocol."""
    said = iter(["4", "3"] * 2)
    roles = {
        **Seats(refiner="Answer: 9").roles("continuer", "reviewer", "refiner"),
        "solver": lambda *_: f"Answer: {next(said)}",
    }
    given = {"outcome": "orm:x", "process": "rollouts?n=2&against=own"}
    options = {name: value for name, value in REFINE.items() if name != "method"}

    def seated() -> dict[str, Any]:
        return {**roles, "outcome": Rater(lambda n, _: (0.1 if n % 2 else 0.9,))}

    (first,) = sparring.play(
        "compare", tasks(1), memory=journal, run="r", n=2, concurrency=1, roles=seated(),
        methods=[{**REFINE, "label": label}], **given,
    )  # fmt: skip
    common = {"memory": journal, "concurrency": 1, **given, **options}
    (whole,) = sparring.play("refine", tasks(1), run="whole", k=2, roles=seated(), **common)
    assert whole.outcome["tied"] and whole.answer == "4"
    assert first.answer == "4"


@pytest.mark.parametrize("label", ["sample", "checklist", "", " "])
def test_a_label_that_begins_keys_of_others_is_refused(label: str) -> None:
    with pytest.raises(UserError, match="cannot be a `label`"):
        make_protocol("compare", {"methods": [{"method": "gsa", "label": label}]}).seats()


def test_labels_that_begin_alike_pay_each_for_itself(journal: Journal) -> None:
    labels = ["a", "a b", "0", "method", "sampl", "sample 0", "日本", "ab"]
    methods = [{"method": "gsa", "label": label} for label in labels]
    play(journal, Seats(), *methods, names="aggregator")
    assert {row.label: row.cost.calls for row in compared(journal, "r")} == dict.fromkeys(labels, 7)


def test_checklists_of_two_lengths_do_not_share_a_list(journal: Journal) -> None:
    """Questions and their answers are the samples', so one list holds for all that check."""
    with pytest.raises(UserError, match="`stick` would have `checklister` reply as checklist/6"):
        make_protocol("compare", {"methods": [{"method": "tick", "items": 2}, "stick"]}).seats()
    seats = Seats(checklister="\n".join(f"Is it {n}?" for n in range(5)))
    methods = [{"method": "tick", "items": 2}, {"method": "stick", "items": 2}]
    play(journal, seats, *methods, names="checklister ticker rewriter")
    assert compared(journal, "r")[0].cost.calls == 6 + 1 + 6 * 2


@pytest.mark.parametrize("field", ["growth", "mean", "deviation"])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_options_are_finite(field: str, value: float) -> None:
    method = {"method": "deepening", field: value} if field == "growth" else {**REFINE, field: value}
    with pytest.raises(UserError, match=r"finite|greater"):
        make_protocol("compare", {"methods": [method], **SCORED}).seats()


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_score_that_is_no_number_is_none(journal: Journal, value: float) -> None:
    methods = ["weighted", "best_of_n", {"method": "glore", "threshold": 0.6}, REFINE]
    (result,) = rated(journal, Rater(lambda n, _: (value if n % 2 else 0.5,)), methods)
    assert result.status == "done"  # samples 0, 2 and 4, which are scored, say 5, 5 and nothing
    assert (answers([result])["weighted"], answers([result])["best_of_n"]) == ("5", "5")
    rows = {row.label: row for row in compared(journal, "r")}
    assert rows["weighted"].cost.rated_tokens == 60  # by whatever name the engine goes


@pytest.mark.parametrize("values", [(-1.0,), (1.5,), (0.5, 0.5), ()])
def test_a_score_out_of_bounds_fails_its_question_and_no_other(
    journal: Journal, values: tuple[float, ...]
) -> None:
    rater = Rater(lambda n, _: values if n < 6 else (0.5,))
    roles = {**Seats().roles("solver"), "outcome": rater}
    failed, done = sparring.play(
        "compare", tasks(2), methods=["weighted"], n=6, outcome="orm:x", roles=roles, memory=journal,
        concurrency=1,
    )  # fmt: skip
    assert (failed.status, done.status) == ("failed", "done")
    assert "1 scores in 0..1 are wanted" in failed.error


def test_a_reward_model_of_the_other_form_is_refused(journal: Journal) -> None:
    with pytest.raises(UserError, match="engine `mine` gives prm scores; seat `outcome` is for orm"):
        rated(journal, Rater(lambda n, one: (0.5,) * len(one.steps), "prm"), ["weighted"])


def test_an_episode_that_reached_its_cap_is_not_compared(journal: Journal) -> None:
    results = play(journal, Seats(), "majority", "gsa", names="aggregator", limits=Limits(calls=6))
    assert [result.status for result in results] == ["capped", "capped"]
    with pytest.raises(UserError, match="nothing to compare"):
        compared(journal, "r")


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        ("compare", {"methods": ["weighted"], "outcome": "oracle"}),
        ("refine", {"iterations": 0, "outcome": "oracle"}),
        ("refine", {"iterations": 0, "process": "rollouts?against=reference"}),
    ],
)
def test_a_scorer_that_looks_at_the_reference_needs_one(
    journal: Journal, protocol: str, options: dict[str, Any]
) -> None:
    rows = [*tasks(1), {"id": "open", "question": "What is love?"}]
    seats = make_protocol(protocol, options).seats()
    with pytest.raises(UserError, match="task `open` has no `answer`, and scorer"):
        sparring.play(protocol, rows, memory=journal, run="r", roles=Seats().roles(*seats), **options)
    assert not calls(journal)


def test_tasks_without_any_answer_are_refused_before_they_are_paid_for(tmp_path: Path) -> None:
    (tmp_path / "open.jsonl").write_text('{"id": "open", "question": "What is love?", "answer": null}\n')
    values = {"run": "r", "tasks": str(tmp_path / "open.jsonl"), "engine": "scripted:hash"}
    with pytest.raises(UserError, match="none has an `answer`, so there is nothing to compare by"):
        load_comparison(values).played()


def test_each_method_alone_costs_what_it_does_among_others(journal: Journal) -> None:
    """The same, for every method and some of their options, with samples of fewer than the pool."""
    options: list[Any] = [
        *EVERY,
        {"method": "weighted", "samples": 2, "label": "weigh"},
        {"method": "best_of_n", "samples": 5, "label": "best"},
        {"method": "tick", "samples": 3, "label": "tic"},
        {"method": "usc", "samples": 4, "label": "us"},
        {"method": "glore", "threshold": 1.0, "label": "glor"},
        {"method": "self_refine", "iterations": 3, "label": "self"},
        {**REFINE, "samples": 3, "iterations": 2, "label": "ref"},
    ]
    by_steps = [one for one in options if isinstance(one, dict) and one["method"] in ("glore", "refine")]
    for process, methods in (("rollouts?n=2", options), ("rollouts?n=1&against=own", by_steps)):
        scored = {**SCORED, "process": process}
        seated = make_protocol("compare", {"n": 6, "methods": methods, **scored}).seats()
        names = " ".join(seat for seat in seated if seat != "solver")
        play(journal, Seats(), *methods, names=names, run=process, **scored)
        together = {row.label: row.cost for row in compared(journal, process)}
        assert len(together) == len(methods)
        for method in methods:
            label = method if isinstance(method, str) else method.get("label", method["method"])
            seats = make_protocol("compare", {"n": 6, "methods": [method], **scored}).seats()
            names = " ".join(seat for seat in seats if seat != "solver")
            run = f"{process}-{label}"
            play(journal, Seats(), method, names=names, run=run, **scored)
            (alone,) = compared(journal, run)
            assert alone.cost == together[label], label


@pytest.mark.parametrize("name", ["seed", "methods", "limit", "baseline", "solver.nope", "temprature"])
def test_sampling_is_of_sampling_alone(name: str) -> None:
    with pytest.raises(UserError, match=f"`sampling`: unknown sampling option `{name}`"):
        load_comparison({"run": "r", "tasks": "demo", "sampling": {"temperature": 1, name: 1}})


def test_answers_without_a_score_count_where_none_with_one_has_an_answer(journal: Journal) -> None:
    said = iter(["no idea", "Answer: 4", "Answer: 5", "Answer: 4"])
    rater = Rater(lambda n, _: (math.nan,) if n else (0.9,))
    roles = {"solver": lambda *_: next(said), "outcome": rater}
    (result,) = sparring.play(
        "compare", tasks(1), methods=["best_of_n", "weighted"], n=4, outcome="orm:x", roles=roles,
        memory=journal, concurrency=1,
    )  # fmt: skip
    assert answers([result]) == {"best_of_n": "4", "weighted": "4"}


def test_a_reviewer_is_not_told_that_what_nobody_could_score_is_bad(journal: Journal) -> None:
    seats = Seats()
    process = Rater(lambda n, one: ((math.nan,) if n else (0.4,)) * len(one.steps), "prm")
    roles = {**seats.roles("solver", "grader", "reviewer", "refiner"), "process": process}
    sparring.play(
        "refine", tasks(1), k=2, outcome="judge", process="prm:x", gate="all", roles=roles, memory=journal,
        concurrency=1,
    )  # fmt: skip
    first, second = seats.prompts["reviewer"]
    assert first.count("(Score: 4/10)") == 2 and "Score:" not in second
