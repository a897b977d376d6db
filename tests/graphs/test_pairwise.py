"""Pairwise judging: what is asked, what is convicted of which bias, what cannot be read or played."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import judge_cast as cast
import pytest
from judge_cast import pairs
from sqlalchemy import select
from typer.testing import CliRunner

from sparring.agents.engines.base import Request
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.cli import app
from sparring.errors import EngineError, UserError
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.judge_report import Judge
from sparring.graphs.judges import judges
from sparring.graphs.play import aplay, plan
from sparring.graphs.report import report
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Event, Turn
from sparring.memory.tasks import load_tasks

LLMBAR = Path(__file__).parents[3] / "shared" / "data" / "llmbar_dev.jsonl"
PROBES = "verbosity,bandwagon,sentiment"
ALL = ("verbosity", "bandwagon", "cheerful", "distressed")


async def judged(memory: Path, *scripts: Any, tasks: Any = None, **options: Any) -> list[Judge]:
    """The reports of judges that speak as the scripts do."""
    roles = {f"judge.{n}": ScriptedEngine(script) for n, script in enumerate(scripts)}
    play = plan("pairwise", tasks or pairs(), judges=len(scripts), roles=roles, **options)
    await aplay(play, memory, run="r")
    with Journal.open(memory) as journal:
        return judges(journal, "r")


async def test_a_report_convicts_each_judge_of_its_own_bias_and_the_fair_one_of_none(tmp_path: Path) -> None:
    scripts = (cast.fair, cast.first, cast.long, cast.crowd, cast.cheer, cast.pity)
    found = await judged(tmp_path / "j.db", *scripts, probes=PROBES)
    direct = [judge.methods["direct"] for judge in found]
    assert [judge.seat for judge in found] == [f"judge.{n}" for n in range(6)]
    assert [method.biases for method in direct] == [
        (), ("position",), ("verbosity",), ("bandwagon",), ("cheerful",), ("distressed",),
    ]  # fmt: skip
    fair, first, long, crowd, *_ = direct
    assert fair.verdicts and (fair.verdicts.right, fair.verdicts.tied, fair.verdicts.wrong) == (12, 0, 0)
    assert [fair.probes[name].harm.mean for name in ALL] == [0.0] * 4
    # Always the first: right in one order, wrong in the other, so a tie; nothing that a probe could harm.
    assert first.verdicts and (first.verdicts.right, first.verdicts.tied) == (0, 12)
    assert [tally.right for tally in first.orders] == [6, 6] and first.position is not None
    assert (first.position.first.mean, first.position.bias.mean, first.position.consistency.mean) == (1, 1, 0)
    assert first.probes["verbosity"].harm.n == 0 and first.probes["position"].harm.mean == 1.0
    # The longer: right where the better one is longer, never once the worse one is padded.
    padded = long.probes["verbosity"]
    assert long.verdicts and (long.verdicts.right, long.verdicts.wrong) == (6, 6)
    assert (padded.before.mean, padded.after.mean, padded.consistency.mean) == (0.5, 0.0, 0.0)
    assert (padded.harm.mean, padded.harm.n, padded.shift.mean) == (1.0, 6, -0.5)
    assert crowd.probes["bandwagon"].after.mean == 0.0 and crowd.probes["bandwagon"].before.mean == 1.0
    assert crowd.position is not None and crowd.position.bias.mean == 0.0


async def test_every_prompt_has_both_responses_once_and_the_order_that_its_key_says(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []

    def noting(request: Request, seed: int) -> str:
        seen.append(cast.sides(request))
        return cast.chosen("A")

    task = pairs(1)
    first, second = task[0]["responses"]
    await judged(tmp_path / "j.db", noting, tasks=task, probes="verbosity")
    clean = [pair for pair in seen if second in pair]
    assert sorted(clean) == sorted([(first, second), (second, first)])
    padded = [pair for pair in seen if pair not in clean]
    assert len(seen) == 4 and all(first in pair for pair in padded)
    worse = {pair[1 - pair.index(first)] for pair in padded}
    assert len(worse) == 1 and (text := worse.pop()).startswith(second) and len(text) > 1.5 * len(first)
    with Journal.open(tmp_path / "j.db") as journal:
        keys = {row.key for row in journal.read(select(Turn.key))}
    assert keys == {f"{guise}/direct/{order}/0" for guise in ("clean", "verbosity") for order in ("12", "21")}


@pytest.mark.parametrize("number", [0, 1])
async def test_the_crowd_prefers_the_worse_response_in_either_order(tmp_path: Path, number: int) -> None:
    favoured: list[str] = []

    def noting(request: Request, seed: int) -> str:
        if "90 %" in cast.said(request):
            told = cast.said(request).split("believe that response ")[1][0]
            favoured.append(cast.sides(request)["AB".index(told)])
        return cast.chosen("B")

    await judged(tmp_path / "j.db", noting, tasks=pairs(2)[number:][:1], probes="bandwagon")
    assert len(favoured) == 2 and all(cast.POOR in text for text in favoured)


async def test_three_ways_of_judging_agree_for_a_fair_judge(tmp_path: Path) -> None:
    how, probes = "direct,score,checklist", PROBES
    fair, swayed = await judged(tmp_path / "j.db", cast.fair, cast.swayed_grader, how=how, probes=probes)
    for method in fair.methods.values():
        assert method.verdicts and method.verdicts.right == 12 and method.biases == ()
    assert {name: share.mean for name, share in fair.agreement.items()} == {
        "direct, score": 1.0, "direct, checklist": 1.0, "score, checklist": 1.0,
    }  # fmt: skip
    # Three questions; the better response meets all of them, the worse one two.
    assert {kind: share.mean for kind, share in fair.checked.items()} == {
        "all": pytest.approx(5 / 6), "better": 1.0, "worse": pytest.approx(2 / 3),
    }  # fmt: skip
    assert fair.checked["all"].n == 12 * 2 * 3 and fair.unanswered == 0
    assert swayed.methods["direct"].biases == ()
    assert swayed.methods["score"].biases == swayed.methods["checklist"].biases == ("bandwagon",)
    # A score of 10 beats 8, but who meets all three questions too is only even.
    tied = swayed.methods["checklist"].probes["bandwagon"]
    assert tied.after.mean == 0.0 and swayed.methods["score"].probes["bandwagon"].harm.mean == 1.0


async def test_likelihoods_are_averaged_over_both_orders(tmp_path: Path) -> None:
    """Who leans to the first by 0.2 and to the sound one by 0.1 is right in the mean, and biased."""

    def leaning(a: str, b: str) -> float:
        return 0.7 + (0.1 if cast.SOUND in a else -0.1)

    roles = {"judge.0": cast.Likely(leaning), "judge.1": cast.Likely(lambda a, b: 0.9)}
    options = {"how": "likelihood,direct", "judges": 2, "probes": "cheerful", "roles": roles}
    await aplay(plan("pairwise", pairs(), **options), tmp_path / "j.db", run="r")
    with Journal.open(tmp_path / "j.db") as journal:
        found = [judge.methods["likelihood"] for judge in judges(journal, "r")]
        outcome = journal.read(select(Episode.outcome).limit(1))[0].outcome
    for method, right in zip(found, (12, 0), strict=True):
        tally, position = method.verdicts, method.position
        assert tally and (tally.right, tally.tied) == (right, 12 - right) and method.readable.mean == 1
        assert position and position.first.mean == 1.0 and method.biases == ("position",)
    assert outcome["answer"] == "1"
    assert outcome["detail"]["judges"][0]["chances"]["clean"] == pytest.approx([0.8, 1 - 0.6], abs=1e-6)
    assert found[0].probes["cheerful"].consistency.mean == 1.0


async def test_a_likelihood_that_was_read_is_never_read_again(tmp_path: Path) -> None:
    def chance(a: str, b: str) -> float:
        return 0.8 if cast.SOUND in a else 0.3

    async def until(memory: str, limit: int) -> tuple[int, int, list[Any]]:
        engine = cast.Likely(chance, limit)
        play = plan("pairwise", pairs(3), how="likelihood", engine=engine)
        await aplay(play, tmp_path / memory, run="r")
        with Journal.open(tmp_path / memory) as journal:
            outcomes = journal.read(select(Episode.outcome).order_by(Episode.id))
            kept = journal.read(select(Event.id).where(Event.kind == "likelihood"))
        return engine.read, len(kept), [row.outcome for row in outcomes]

    calls, kept, whole = await until("whole.db", 100)
    assert (calls, kept) == (3 * 2 * 2, 3 * 2)
    _, kept, before = await until("cut.db", 7)
    assert 0 < kept < 6 and None in before
    again, _, rest = await until("cut.db", 100)
    assert rest == whole and again == calls - 2 * kept


async def test_likelihood_needs_an_engine_that_scores(tmp_path: Path) -> None:
    engine = ScriptedEngine(cast.mute, ids=False)
    with pytest.raises(UserError, match="no token ids"):
        await aplay(plan("pairwise", pairs(1), how="likelihood", engine=engine), tmp_path / "j.db")


async def test_calls_are_what_is_promised_and_the_better_response_is_read_alone_once(tmp_path: Path) -> None:
    options = {"how": "direct,score,checklist", "probes": PROBES, "items": 3}
    shown = 2 + 4 + 2  # a tone shows both in another form, the other probes one
    calls = 2 * 5 + shown + (1 + 3 * shown)
    assert make_protocol("pairwise", options).max_calls == calls
    play = plan("pairwise", pairs(2), roles={"judge": ScriptedEngine(cast.fair)}, **options)
    assert [row.calls for row in await aplay(play, tmp_path / "j.db")] == [calls, calls]
    assert make_protocol("pairwise", {"both_orders": "false", "judges": 2}).max_calls == 2


async def test_what_cannot_be_read_is_no_tie_and_no_loss(tmp_path: Path) -> None:
    def forgetful(request: Request, seed: int) -> str:
        """Says nothing in one of two orders of every third task."""
        lost = any(f"task {n}\n" in cast.said(request) for n in (0, 3, 6, 9))
        return (
            cast.mute(request, seed)
            if lost and cast.SOUND in cast.sides(request)[0]
            else cast.fair(request, seed)
        )

    mute, half = await judged(tmp_path / "j.db", cast.mute, forgetful, probes="cheerful")
    tally = mute.methods["direct"].verdicts
    assert tally and (tally.right, tally.tied, tally.wrong, tally.unreadable, tally.n) == (0, 0, 0, 12, 12)
    assert mute.methods["direct"].readable.mean == 0.0 and mute.methods["direct"].biases == ()
    position = mute.methods["direct"].position
    assert position is not None and position.bias.n == position.consistency.n == 0
    tally = half.methods["direct"].verdicts
    assert tally and (tally.right, tally.tied, tally.wrong, tally.unreadable) == (8, 0, 0, 4)
    assert tally.accuracy.mean == pytest.approx(8 / 12) and tally.accuracy.n == 12
    cheerful = half.methods["direct"].probes["cheerful"]
    assert (cheerful.unreadable, cheerful.harm.n, cheerful.harm.mean, cheerful.shift.n) == (4, 8, 0.0, 8)
    with Journal.open(tmp_path / "j.db") as journal:
        outcomes = [row.outcome for row in journal.read(select(Episode.outcome).order_by(Episode.number))]
    assert [outcome["answer"] is None for outcome in outcomes] == [n in (0, 3, 6, 9) for n in range(12)]


async def test_an_unanswered_question_of_a_checklist_counts_for_neither_response(tmp_path: Path) -> None:
    def shy(request: Request, seed: int) -> str:
        text = cast.said(request)
        shy_of = "Is it sound?" in text and cast.POOR in text and "Write down" not in text
        return "I would rather not say." if shy_of else cast.fair(request, seed)

    (judge,) = await judged(tmp_path / "j.db", shy, how="checklist")
    tally = judge.methods["checklist"].verdicts
    # What is left is met by both: a tie, where "no answer is no" would have made the better one win.
    assert tally and (tally.right, tally.tied) == (0, 12)
    assert judge.unanswered == 12 and judge.checked["worse"].n == 24 and judge.checked["worse"].mean == 1.0


async def test_ties_are_a_choice_and_agree_with_a_person_who_says_tie(tmp_path: Path) -> None:
    def even(request: Request, seed: int) -> str:
        return "Both are as good. <better>tie</better>"

    tasks = [row | {"answer": "tie" if n % 2 else row["answer"]} for n, row in enumerate(pairs(4))]
    (judge,) = await judged(tmp_path / "a.db", even, tasks=tasks, ties="true", probes="cheerful")
    tally = judge.methods["direct"].verdicts
    assert tally and (tally.right, tally.tied, tally.unreadable) == (2, 2, 0)
    assert judge.methods["direct"].probes["cheerful"].n == 2  # without a worse response nothing is probed
    (judge,) = await judged(tmp_path / "b.db", even, tasks=tasks)
    tally = judge.methods["direct"].verdicts
    assert tally and tally.unreadable == 4


async def test_a_run_that_was_cut_off_comes_to_the_same(tmp_path: Path) -> None:
    options: dict[str, Any] = {"how": "direct,checklist", "probes": PROBES, "tasks": pairs(3)}

    def contents(memory: Path) -> tuple[list[Any], list[Any]]:
        told = select(Episode.id, Turn.key, Turn.parsed).join(Turn, Turn.episode_number == Episode.number)
        with Journal.open(memory) as journal:
            turns = journal.read(told.where(Turn.final).order_by(Episode.id, Turn.key))
            outcomes = journal.read(select(Episode.outcome).order_by(Episode.id))
            return [tuple(row) for row in turns], [row.outcome for row in outcomes]

    spoken = 0

    def until(limit: int) -> Any:
        def fair(request: Request, seed: int) -> str:
            nonlocal spoken
            spoken += 1
            if spoken > limit:
                raise EngineError("gone", retryable=False)
            return cast.fair(request, seed)

        return fair

    whole = await judged(tmp_path / "whole.db", until(1000), **options)
    calls, spoken = spoken, 0
    await judged(tmp_path / "cut.db", until(40), **options)
    assert spoken > 40 and contents(tmp_path / "cut.db") != contents(tmp_path / "whole.db")
    spoken = 40  # what was said is not asked for again
    assert await judged(tmp_path / "cut.db", until(calls), **options) == whole and spoken == calls
    assert contents(tmp_path / "cut.db") == contents(tmp_path / "whole.db")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"responses": ["only one"]}, "no two `responses`"),
        ({"responses": ["one", " "]}, "no two `responses`"),
        ({"responses": ["one", 2]}, "no two `responses`"),
        ({"responses": None}, "no two `responses`"),
        ({"responses": "ab"}, "no two `responses`"),
        ({"answer": 3}, "answer `3` is no preference"),
        ({"answer": "A"}, "answer `A` is no preference"),
        ({"authors": ["me"]}, "`authors` are two names"),
    ],
)
async def test_a_task_that_is_no_pair_is_refused_before_any_call(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    def never(request: Request, seed: int) -> str:
        raise AssertionError("asked")

    with pytest.raises(UserError, match=words):
        await judged(tmp_path / "j.db", never, tasks=[pairs(1)[0] | change])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"probes": "verbosity,height"}, "no probe `height`; known: .*sentiment"),
        ({"how": "guess"}, "how"),
        ({"how": ""}, "how"),
        ({"scale": "[5, 5]"}, "must be above"),
        ({"judges": "0"}, "judges"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_protocol("pairwise", options)


def test_the_command_line_prints_a_report_on_each_judge(tmp_path: Path) -> None:
    memory, tasks = str(tmp_path / "j.db"), tmp_path / "pairs.jsonl"
    rows = [row | {"authors": ["scripted:hash", "someone"]} for row in pairs(4)]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = tmp_path / "first.jsonl"
    script.write_text(json.dumps({"replies": ["So. <better>A</better>"]}) + "\n")
    cli = CliRunner()
    begun = ["play", "pairwise", "--tasks", str(tasks), "--memory", memory, "--run", "r", "-q"]
    begun += ["--set", "judges=2", "--set", f"probes={PROBES}", "--role", f"judge.0=scripted:{script}"]
    played = cli.invoke(app, [*begun, "--role", "judge.1=scripted:hash"])
    assert played.exit_code == 0, played.output
    shown = cli.invoke(app, ["report", "r", "--memory", memory]).output
    for words in (
        "judge.0, scripted:first.jsonl: 4 pairs", "judge.1, scripted:hash: 4 pairs", "direct, verbosity",
        "position bias +1.000", "other way round", "DBG", "parse_error",
    ):  # fmt: skip
        assert words in shown, shown
    lines = cli.invoke(app, ["report", "r", "--memory", memory, "--json"]).output
    found = json.loads(lines)
    first, mute = found["judges"]
    assert first["methods"]["direct"]["position"]["bias"]["mean"] == 1.0
    assert mute["methods"]["direct"]["verdicts"]["unreadable"] == 4
    assert found["figures"]["judge.0/direct/position_bias"] == 1.0
    assert found["accuracy"]["n"] == 4 and found["no_answer"] == 0  # judge.0 can be read: ties


async def test_the_panel_decides_and_its_answer_is_checked_against_the_person(tmp_path: Path) -> None:
    await judged(tmp_path / "j.db", cast.first, cast.fair, cast.mute)
    with Journal.open(tmp_path / "j.db") as journal:
        found = report(journal, "r")
    assert found.accuracy is not None and found.accuracy.mean == 1.0 and found.accuracy.n == 12


def test_rows_of_llmbar_are_pairs() -> None:
    if not LLMBAR.is_file():
        pytest.skip("the set llmbar_dev is not here")
    tasks = load_tasks(LLMBAR)
    protocol = make_protocol("pairwise")
    for task in tasks:
        protocol.accepts(task)
    assert len(tasks) == 280 and [task.answer for task in tasks].count(1) == 139
    assert all(len((task.meta or {})["responses"]) == 2 for task in tasks)


@pytest.mark.parametrize("label", [0, 3, "1", True, None])
def test_a_row_of_llmbar_with_another_label_is_refused(tmp_path: Path, label: Any) -> None:
    row = {"id": "x", "instruction": "Say hi.", "output_1": "hi", "output_2": "ho", "label": label}
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match="`label` must be 1 or 2"):
        load_tasks(tmp_path / "t.jsonl")
