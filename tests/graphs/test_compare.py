"""Methods on one pool: what each is shown and says, what it costs, and that nothing is asked for twice."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import select
from typer.testing import CliRunner

import sparring
from sparring.agents.engines.base import Request
from sparring.cli import app
from sparring.errors import UserError
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.compare import draw, load_comparison
from sparring.graphs.comparison import compared, compared_and_voted
from sparring.graphs.selection.base import make_methods
from sparring.graphs.selection.deepening import Deepening
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Event, Turn

Reply = Callable[[Request, int], str]
POOL = ("5", "4", "5", "4", "none", "4")
"""Answers of the six samples of every question; the majority is 4, as is the truth."""


def asked(request: Request) -> str:
    return str(request.messages[-1]["content"])


class Seats:
    """Scripted agents, and what they were shown."""

    def __init__(self, **replies: str) -> None:
        self.given = {
            "selector": "Both. Response 0",
            "aggregator": "I think more.\nAnswer: 4",
            "agreer": "Answer: 5",
            "self_critic": "Step 1 is wrong. <Answer>Incorrect</Answer>",
            "rewriter": "2 + 2 = 4\nAnswer: 4",
            "continuer": "Answer: 4",
            "reviewer": "Step 1 is wrong.",
            "refiner": "Step 1: 2 + 2 is 4\nAnswer: 4",
            "checklister": "1. Is there an answer?\n2. Is every step right?\nThat is all.",
            **replies,
        }
        self.prompts: dict[str, list[str]] = {}
        self.samples = 0

    def roles(self, *names: str) -> dict[str, Reply]:
        return {name: self._seat(name) for name in names}

    def _seat(self, name: str) -> Reply:
        def reply(request: Request, seed: int) -> str:
            self.prompts.setdefault(name, []).append(asked(request))
            if name == "solver":
                self.samples += 1
                answer = POOL[(self.samples - 1) % len(POOL)]
                return (
                    f"Step 1: 2 + 2 is {answer}\nStep 2: so {answer}\nAnswer: {answer}"
                    if answer != "none"
                    else "?"
                )
            if name == "grader":
                grades = {"4": 3, "5": 8, "none": 0}
                found = re.findall(r"Answer: (\w+)", asked(request)) or ["none"]
                return f"<score>{grades[found[-1]]}</score>"
            if name == "ticker":  # only the right answer meets the second question
                met = "every step" not in asked(request) or "is 4" in asked(request)
                return f"I looked. <answer>{'Yes' if met else 'No'}</answer>"
            return self.given[name]

        return reply


def tasks(count: int = 2) -> list[dict[str, Any]]:
    return [
        {"id": f"t{n}", "question": f"2 + 2? ({n})", "answer": "4", "check": "math"} for n in range(count)
    ]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db", "normal") as opened:
        yield opened


def play(journal: Journal, seats: Seats, *methods: Any, names: str = "", **options: Any) -> Any:
    given = {"n": 6, "roles": seats.roles("solver", *names.split()), "run": "r", "concurrency": 1, **options}
    return sparring.play("compare", tasks(), memory=journal, methods=list(methods), **given)


def answers(results: Any) -> dict[str, str | None]:
    first: dict[str, str | None] = results[0].outcome["detail"]["answers"]
    return first


def calls(journal: Journal, run: str = "r") -> Counter[str]:
    query = select(Turn.key).join(Episode, Episode.number == Turn.episode_number).where(Episode.run_id == run)
    return Counter(row.key for row in journal.read(query))


def events(journal: Journal, run: str, kind: str) -> list[tuple[str, dict[str, Any]]]:
    query = select(Event.key, Event.payload).join(Episode, Episode.number == Event.episode_number)
    rows = journal.read(query.where(Episode.run_id == run, Event.kind == kind).order_by(Event.id))
    return [(row.key, row.payload) for row in rows]


def test_methods_that_ask_nobody(journal: Journal) -> None:
    methods = [
        "single",
        "majority",
        "weighted",
        "best_of_n",
        {"method": "majority", "samples": 3, "label": "three"},
    ]
    results = play(journal, Seats(), *methods, names="grader", outcome="judge")
    assert answers(results) == {
        "single": "5",
        "majority": "4",
        "weighted": "5",
        "best_of_n": "5",
        "three": "5",
    }
    assert results[0].answer == "5" and results[0].correct is False  # that of the first method
    assert results[0].outcome["detail"]["right"]["majority"] is True


def test_methods_that_ask_once_are_shown_every_sample_once(journal: Journal) -> None:
    seats = Seats()
    names = "selector aggregator agreer"
    results = play(journal, seats, "usc", "gsa", "self_agreement", names=names)
    assert answers(results) == {"usc": "5", "gsa": "4", "self_agreement": "5"}
    for name in names.split():
        prompt = seats.prompts[name][0]
        assert prompt.count("2 + 2 is 4") == 3 and prompt.count("2 + 2 is 5") == 2
    own = {key: n for key, n in calls(journal).items() if not key.startswith("sample/")}
    assert own == {"usc/select": 2, "gsa/write": 2, "self_agreement/agree": 2}  # two questions


def test_self_refine_stops_where_its_critic_is_content(journal: Journal) -> None:
    results = play(journal, Seats(), "self_refine", names="self_critic rewriter")
    assert answers(results) == {"self_refine": "4"}


def test_self_refine_keeps_what_passes_and_what_nobody_asked_to_change(journal: Journal) -> None:
    for run, said in (("passes", "Fine. <Answer>Correct</Answer>"), ("unread", "Hm.")):
        seats = Seats(self_critic=said)
        results = play(journal, seats, "self_refine", names="self_critic rewriter", run=run)
        assert answers(results) == {"self_refine": "5"} and "rewriter" not in seats.prompts
    again = {"method": "self_refine", "iterations": 3}
    play(journal, Seats(), again, names="self_critic rewriter", run="thrice")
    assert sum(n for key, n in calls(journal, "thrice").items() if key.endswith("rewrite")) == 2 * 3


def test_glore_rewrites_globally_and_from_the_first_bad_step_and_reranks(journal: Journal) -> None:
    seats = Seats(continuer="Answer: 5")  # the majority is 4: no step leads there
    options = {"outcome": "judge", "process": "rollouts?n=2", "names": "grader continuer rewriter"}
    sure = play(journal, seats, "glore", run="sure", **options)
    assert answers(sure) == {"glore": "5"} and "rewriter" not in seats.prompts  # 0.8 is good enough
    doubtful = {"method": "glore", "threshold": 0.9}
    results = play(journal, seats, doubtful, run="doubtful", **options)
    shown = seats.prompts["rewriter"][:2]
    assert sorted("the first error is here" in prompt for prompt in shown) == [False, True]
    local = next(prompt for prompt in shown if "error is here" in prompt)
    assert re.search(r"Step 1: 2 \+ 2 is 5 +<-- the first error is here", local)
    assert answers(results) == {"glore": "5"}  # 0.8 against 0.3 for both rewritten ones
    graded = {key for key in calls(journal, "doubtful") if key.endswith("grade") and key.startswith("glore/")}
    assert graded == {"glore/global/grade", "glore/local/grade"}


def test_refine_on_the_pool_decides_as_the_protocol_does(journal: Journal) -> None:
    seated = "grader continuer reviewer refiner"
    seats = Seats(continuer="Answer: 5")  # the majority is 4: no first step leads there
    for gate, average in (("magicore", 1.5), ("magicore", 0.1), ("all", 1.5)):
        options = {"mean": average, "deviation": 0.1, "gate": gate}
        run = f"{gate}-{average}"
        (first, _) = play(journal, seats, {"method": "refine", **options}, names=seated, run=run, **SCORED)
        given = {"roles": seats.roles("solver", *seated.split()), "concurrency": 1, **SCORED, **options}
        whole = sparring.play("refine", tasks(1), memory=journal, run=f"{run}-whole", k=6, **given)
        ((_, kept),) = events(journal, f"{run}-whole", "gate")
        assert events(journal, run, "gate")[0] == ("refine/0", kept)
        detail = events(journal, run, "method")[0][1]["detail"]
        assert detail["votes"] == whole[0].outcome["detail"]["votes"] and detail["refined"] == int(
            gate == "all"
        )
        assert first.answer == whole[0].answer


def test_refine_on_the_pool_is_held_against_a_run_that_was_played_before(journal: Journal) -> None:
    seated = "grader continuer reviewer refiner"
    roles = Seats().roles("solver", "grader", "continuer")
    given = {"roles": roles, "concurrency": 1, "k": 2, "iterations": 0, "chains": "all", **SCORED}
    sparring.play("refine", tasks(2), memory=journal, run="before", **given)
    method = {"method": "refine", "calibration": "before", "chains": "all"}
    play(journal, Seats(), "single", method, names=seated, **SCORED)
    (facts,) = [row.payload for row in journal.read(select(Event.payload).where(Event.kind == "facts"))]
    assert facts["refine"]["source"] == "run `before`" and facts["refine"]["n"] == 4
    assert events(journal, "r", "gate")[0][1]["mean"] == facts["refine"]["mean"]
    with pytest.raises(UserError, match="was scored by outcome `judge`, this one is by `oracle`"):
        play(
            journal,
            Seats(),
            method,
            names="continuer reviewer refiner",
            run="other",
            outcome="oracle",
            process="rollouts?n=2",
        )


def test_a_larger_pool_is_drawn_for_the_vote_alone(journal: Journal) -> None:
    play(journal, Seats(), "weighted", "usc", names="grader selector", n=3, pool=6, outcome="judge")
    assert sorted(key for key in calls(journal) if "grade" in key) == [f"sample/{n}/grade" for n in range(3)]
    rows = {row.label: row for row in compared(journal, "r")}
    assert rows["weighted"].cost.calls == 6 and not rows["weighted"].short
    assert rows["weighted"].equal_calls == 1  # all six say 4; the first three say 5


def test_only_samples_that_a_method_takes_are_scored(journal: Journal) -> None:
    options = {"outcome": "judge", "process": "rollouts?n=2", "names": "grader continuer rewriter"}
    play(journal, Seats(), "glore", {"method": "weighted", "samples": 2}, **options)
    about = {key.split("/")[1] for key in calls(journal) if key.startswith("sample/") and "grade" in key}
    assert about == {"0", "1"}
    assert {key.split("/")[1] for key in calls(journal) if "/from/" in key} == {"0"}


EVERY: list[Any] = [
    "single", "majority", "weighted", "best_of_n", "usc", "gsa", "self_agreement", "self_refine", "glore",
    "tick", "stick", {"method": "refine", "mean": 1.5, "deviation": 0.1},
]  # fmt: skip
SEATED = (
    "grader continuer selector aggregator agreer self_critic rewriter checklister ticker reviewer refiner"
)
SCORED = {"outcome": "judge", "process": "rollouts?n=2"}


def test_tick_takes_what_meets_most_of_a_list_that_saw_no_response(journal: Journal) -> None:
    seats = Seats()
    results = play(journal, seats, "tick", "stick", names="checklister ticker rewriter")
    assert answers(results) == {"tick": "4", "stick": "4"}
    events = journal.read(select(Event.key, Event.payload).where(Event.kind == "method"))
    details = {row.key: row.payload["detail"] for row in events}
    assert details["tick"]["met"] == [1, 2, 1, 2, 1, 2] and details["tick"]["chosen"] == "sample/1"
    assert details["tick"]["items"] == ["Is there an answer?", "Is every step right?"]
    assert details["stick"]["failed"] == ["Is every step right?"]
    assert "2 + 2 is" not in seats.prompts["checklister"][0]
    rewritten = seats.prompts["rewriter"][0]
    assert "Is every step right?" in rewritten and "Is there an answer?" not in rewritten
    # Both asked the same list about the first sample: it was written and answered once.
    assert calls(journal)["checklist/6"] == 2 and calls(journal)["sample/0/tick/1"] == 2


def test_stick_leaves_alone_what_meets_the_list_and_what_has_none(journal: Journal) -> None:
    for run, said in (("met", "Is there an answer?"), ("none", "I see no question here.")):
        seats = Seats(checklister=said)
        results = play(journal, seats, "stick", names="checklister ticker rewriter", run=run)
        assert answers(results) == {"stick": "5"} and "rewriter" not in seats.prompts


@pytest.mark.parametrize(
    ("options", "budgets"),
    [
        ({"budget": 10, "limit": 80}, [10, 20, 40, 80]),
        ({"budget": 10, "limit": 10}, [10]),
        ({"budget": 10, "growth": 3, "limit": 50}, [10, 30, 50]),
        ({"budget": 1, "growth": 1.1, "limit": 4}, [1, 2, 3, 4]),
    ],
)
def test_budgets_grow_to_the_limit(options: dict[str, Any], budgets: list[int]) -> None:
    (method,) = make_methods([{"method": "deepening", **options}]).values()
    assert isinstance(method, Deepening) and method.budgets == budgets
    if "growth" not in options:  # triggers are at most ceil(log(limit / budget) / log(growth))
        assert len(budgets) - 1 <= math.ceil(math.log2(options["limit"] / options["budget"]))


def test_a_response_that_does_not_end_is_made_to_think_again(journal: Journal) -> None:
    asked_for: list[tuple[int, list[str]]] = []

    def deepener(request: Request, seed: int) -> Any:
        roles = [message["role"] for message in request.messages]
        asked_for.append((request.sampling.max_tokens, roles))
        if len(roles) < 5:
            return (f"part {len(roles)}\nAnswer: 5", "length")
        return "All in all:\nAnswer: 4"

    roles = {**Seats().roles("solver"), "deepener": deepener}
    methods = [{"method": "deepening", "budget": 10, "limit": 160}]
    results = sparring.play("compare", tasks(1), n=1, methods=methods, roles=roles, memory=journal, run="r")
    assert answers(results) == {"deepening": "4"}
    # 10, then 10 more to 20, then 20 more to 40; there it ended.
    assert [tokens for tokens, _ in asked_for] == [10, 10, 20]
    assert asked_for[2][1] == ["user", "assistant", "user", "assistant", "user"]
    (row,) = compared(journal, "r")
    assert row.cost.calls == 3  # its own parts, and none of the pool


def test_what_was_cut_off_at_the_limit_keeps_its_last_answer(journal: Journal) -> None:
    roles = {**Seats().roles("solver"), "deepener": lambda *_: ("so far\nAnswer: 5", "length")}
    methods = [{"method": "deepening", "budget": 8, "limit": 16, "n": 2}]
    results = sparring.play("compare", tasks(1), n=1, methods=methods, roles=roles, memory=journal, run="r")
    assert answers(results) == {"deepening": "5"} and compared(journal, "r")[0].cost.calls == 4


def test_all_together_cost_no_more_than_the_union_of_what_they_need(journal: Journal) -> None:
    """Played alone each of them makes these calls; together the pool and its scores are made once."""
    apart: set[str] = set()
    for place, method in enumerate(EVERY):
        seats = make_protocol("compare", {"n": 6, "methods": [method], **SCORED}).seats()
        names = " ".join(seat for seat in seats if seat != "solver")
        play(journal, Seats(), method, names=names, run=f"r{place}", **SCORED)
        apart |= set(calls(journal, f"r{place}"))
    play(journal, Seats(), *EVERY, names=SEATED, run="together", **SCORED)
    together = calls(journal, "together")
    assert set(together) == apart and set(together.values()) == {2}  # once for each of the two questions


def test_a_method_costs_what_it_would_alone(journal: Journal, tmp_path: Path) -> None:
    play(journal, Seats(), *EVERY, names=SEATED, **SCORED)
    rows = {row.label: row for row in compared(journal, "r")}
    assert {label: row.cost.calls for label, row in rows.items()} == {
        "single": 1, "majority": 6, "weighted": 12, "best_of_n": 12, "usc": 7, "gsa": 7, "self_agreement": 7,
        "self_refine": 1 + 2, "glore": 6 + 1 + 2, "tick": 6 + 1 + 6 * 2, "stick": 1 + 1 + 2 + 1,
        "refine": 6 + 6 + 2 * 5,
    }  # fmt: skip
    assert rows["majority"].accuracy.mean == 1 and rows["single"].accuracy.mean == 0
    assert not rows["majority"].short and rows["usc"].short
    assert not rows["majority"].short_tokens and rows["tick"].short_tokens
    assert rows["gsa"].difference.mean == pytest.approx(1 - rows["gsa"].equal_calls)
    line = compared_and_voted(journal, "r")[1]
    assert [vote.calls for vote in line] == [1, 2, 3, 4, 5, 6] and line[-1].accuracy == 1
    assert line[0].accuracy == pytest.approx(1 / 2, abs=0.05)  # three of the six samples
    assert draw(list(rows.values()), tmp_path / "all.png", "r", line).is_file()  # shares of 0 and 1 too
    alone = Seats()
    play(journal, alone, "weighted", names="grader", run="alone", outcome="judge")
    assert compared(journal, "alone")[0].cost == rows["weighted"].cost


def test_a_comparison_goes_on_where_it_was_stopped(journal: Journal) -> None:
    class Stopped(Seats):
        left = 0

        def _seat(self, name: str) -> Reply:
            whole = super()._seat(name)

            def reply(request: Request, seed: int) -> str:
                Stopped.left -= 1
                if Stopped.left < 0:
                    raise UserError("stopped")
                return whole(request, seed)

            return reply

    for left in (9, 6, 1000):
        Stopped.left = left
        try:
            results = play(journal, Stopped(), *EVERY, names=SEATED, **SCORED)
        except UserError as error:
            assert "stopped" in str(error)
    assert [result.status for result in results] == ["done"] * 2
    assert set(calls(journal).values()) <= {1, 2}


def test_a_pool_in_which_nobody_answers(journal: Journal) -> None:
    roles = {**Seats().roles(*SEATED.split()), "solver": lambda *_: "who knows"}
    given = {"n": 3, "methods": EVERY, "roles": roles, **SCORED}
    (result,) = sparring.play("compare", tasks(1), memory=journal, run="r", **given)
    assert result.status == "done" and answers([result])["majority"] is None
    assert {row.label: row.no_answer for row in compared(journal, "r")}["best_of_n"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["nobody"]}, "unknown method `nobody`"),
        ({"methods": []}, "at least one"),
        ({"methods": ["majority", "majority"]}, "label"),
        ({"methods": ["weighted"]}, "needs outcome scores: give `outcome`"),
        ({"methods": ["glore"], "outcome": "judge"}, "needs process scores"),
        ({"methods": [{"method": "majority", "samples": 9}]}, "takes 9 samples of a pool of 6"),
        ({"methods": ["majority"], "pool": 5}, "a pool of 5 samples is less than the 6"),
        ({"methods": ["refine"], **{"outcome": "judge", "process": "rollouts"}}, "against an average"),
        ({"methods": [{"method": "borda", "power": -1}]}, "greater than or equal"),
        ({"methods": [{"method": "deepening", "budget": 9, "limit": 8}]}, "below the first budget"),
        ({"methods": ["weighted"], "outcome": "rollouts"}, "gives process scores where outcome"),
    ],
)
def test_what_cannot_work_says_so(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        make_protocol("compare", {"n": 6, **options}).seats()


def test_the_command_prints_a_table_and_draws(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text("\n".join(json.dumps(task) for task in tasks(3)))
    values = {
        "run": "mine", "tasks": "tasks.jsonl", "engine": "scripted:hash", "n": 4, "answer": "number",
        "outcome": "judge", "methods": ["single", "majority", "best_of_n", "gsa"],
    }  # fmt: skip
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    command = ["compare", str(tmp_path / "c.yaml"), "--memory", str(tmp_path / "m.db")]
    first = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "rows.jsonl")])
    assert first.exit_code == 0, first.output
    assert "best_of_n" in first.output and "3 questions" in first.output
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == values["methods"] and rows[1]["cost"]["calls"] == 4
    assert (tmp_path / "mine.plots" / "compare.png").read_bytes()[:4] == b"\x89PNG"
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 0 and "best_of_n" in again.output


def test_a_configuration_with_a_mistake_names_the_field(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="methodz"):
        load_comparison({"run": "r", "tasks": "demo", "methodz": []})
    with pytest.raises(UserError, match="holds `prompts` alone"):
        load_comparison({"run": "r", "tasks": "demo", "options": {"n": 3}})
