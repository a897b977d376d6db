"""Games that both sides learn from: who plays whom, the same after any kill; and when to stop."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from evolve_support import Fault, Life, difference, journaled, model, nursery, save_tasks
from game_support import FAVOUR, SIDES
from sqlalchemy import select
from typer.testing import CliRunner

from sparring.cli import app
from sparring.errors import UserError
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Event, PolicyVersion, Turn
from sparring.memory.versions import journal_names
from sparring.training.config import OpponentsConfig, load_config
from sparring.training.console import Watch, readability
from sparring.training.preflight import preflight, sides
from sparring.training.story import CHOICE, read_story

RUN, ROUND0 = "games", "round0"
TASKS, PROBE, STEPS = 6, 2, 3
EVENT = "sparring.memory.run:RunHandle.event"
CLOSE = "sparring.graphs.player:Player._close"
TEAM = "sparring.training.team"
TRAINER = "sparring.training.trainer:PolicyTrainer"


def common(folder: Path) -> dict[str, Any]:
    prompt = str(Path(model().split("?")[0]) / "solver.md")
    return {
        "seed": 5,
        "options": {"prompts": dict.fromkeys(SIDES, prompt)},
        "engine": model(),
        "sampling": {"max_tokens": 4, "temperature": 1.0},
        "tasks": save_tasks(folder / "train.jsonl", 0, 8),
        "play": {"tasks": TASKS},
        "concurrency": 1,
    }


def side(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "roles": [name],
        "objective": "offline",
        "reward": "game_support:Even",
        "loss": "spc",
        "lora": {"rank": 2, "alpha": 4},
        "train": {"learning_rate": 5e-3, "minibatches": 2, "tokens": 64},
        **changes,
    }


def lessons(folder: Path, **changes: Any) -> dict[str, Any]:
    """Round 0: both sides are told what to say."""
    policies = {name: side(name) for name in SIDES}
    return common(folder) | {
        "run": ROUND0, "protocol": "game_support:Taught", "policies": policies, "steps": 1, **changes,
    }  # fmt: skip


def games(folder: Path, **changes: Any) -> dict[str, Any]:
    data = {"lessons": [ROUND0], "lessons_per_turn": 0.5}
    return common(folder) | {
        "run": RUN,
        "protocol": "game_support:Shout",
        "policies": {name: side(name, restart=True, data=data) for name in SIDES},
        "opponents": {"probe": PROBE},
        "steps": STEPS,
        **changes,
    }


def ended(life: Life) -> None:
    assert (life.status, life.error) == (0, None)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal in which both sides have had their lessons, to be copied."""
    folder = tmp_path_factory.mktemp("taught")
    ended(nursery().live(lessons(folder), folder / "journal.db"))
    return folder


def copied(taught: Path, folder: Path) -> Path:
    """A journal of its own with the lessons and the versions that came of them."""
    folder.mkdir(exist_ok=True)
    shutil.copy(taught / "journal.db", folder / "journal.db")
    shutil.copytree(taught / "journal.db.policies", folder / "journal.db.policies")
    return folder / "journal.db"


@pytest.fixture(scope="module")
def undisturbed(taught: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("undisturbed")
    config, memory = games(folder), copied(taught, folder / "it")
    ended(nursery().live(config, memory))
    return config, memory


def test_the_report_of_lessons_has_no_words_to_read(taught: Path, undisturbed: Any) -> None:
    with Journal.open(str(taught / "journal.db")) as journal:
        assert readability(read_story(journal, ROUND0)) == "readable: all words were a teacher's"
    with Journal.open(str(undisturbed[1])) as journal:
        story = read_story(journal, RUN)
    assert set(story.readable) == set(SIDES)
    elsewhere = replace(story, readable={}, taught=False, rewarded=0.9)  # it learned from another run's words
    assert readability(elsewhere) == "readable: nothing was said; rewards not NULL: 0.900"


def opponents(memory: Path, run: str = RUN) -> dict[int, dict[str, Any]]:
    """Step -> what was decided about its opponents."""
    with Journal.open(str(memory)) as journal:
        rows = journal.read(
            select(Event.key, Event.payload).where(Event.run_id == run, Event.kind == "opponents")
        )
    return {int(row.key): row.payload for row in rows}


def played(memory: Path, run: str = RUN) -> dict[int, list[tuple[tuple[int, int], str, int]]]:
    """Step -> (versions of the seats, task, copy) of its games; the turns were said by exactly those."""
    with Journal.open(str(memory)) as journal:
        numbers = {row.id: row.number for row in journal.read(select(PolicyVersion.id, PolicyVersion.number))}
        episodes = journal.read(select(Episode).where(Episode.run_id == run).order_by(Episode.number))
        said = {
            (row.episode_number, row.key): numbers[row.policy_version_id]
            for row in journal.read(select(Turn.episode_number, Turn.key, Turn.policy_version_id))
        }
    found: dict[int, list[Any]] = {}
    for row in episodes:
        assert row.status == "done"
        seats = tuple(numbers[row.seats[name]["version"]] for name in SIDES)
        assert tuple(said[row.number, name] for name in SIDES) == seats
        found.setdefault(row.iteration, []).append((seats, row.task_id, row.copy))
    return found


def test_each_step_probes_what_is_not_known_and_plays_what_is_chosen(undisturbed: Any) -> None:
    """Versions are 1 after the lessons and one more with each step; FAVOUR says who wins how much."""
    memory = undisturbed[1]
    chosen, games_ = opponents(memory), played(memory)
    assert [tuple(chosen[step]["versions"]) for step in range(STEPS)] == [(1, 1), (2, 1), (3, 1)]
    wanted = {
        0: {(1, 1): TASKS},
        1: {(2, 2): PROBE, (2, 1): TASKS, (1, 2): PROBE},
        2: {(3, 3): PROBE, (3, 2): PROBE, (2, 3): PROBE, (3, 1): TASKS, (1, 3): PROBE},
    }
    assert {step: Counter(pair for pair, _, _ in rows) for step, rows in games_.items()} == wanted
    for step in (1, 2):
        tasks: dict[Any, set[str]] = {}
        for pair, task, _ in games_[step]:
            tasks.setdefault(pair, set()).add(task)
        assert all(tasks[pair] <= tasks[tuple(chosen[step]["versions"])] for pair in tasks), "the same ones"
        assert len({frozenset(tasks[p]) for p in tasks if len(tasks[p]) == PROBE}) == 1


def test_the_choice_is_journaled_with_its_reasons(undisturbed: Any) -> None:
    memory = undisturbed[1]
    with Journal.open(str(memory)) as journal:
        numbers = {row.id: row.number for row in journal.read(select(PolicyVersion.id, PolicyVersion.number))}
        rows = journal.read(
            select(Episode.seats, Episode.outcome, Episode.iteration).where(Episode.run_id == RUN)
        )
    assert any(row.outcome["scores"] is None for row in rows), "void games are none"
    for step, record in opponents(memory).items():
        assert record["policies"] == ["red", "blue"] and record["mode"] == "band"
        assert record["band"] == [0.2, 0.35]
        if step == 0:
            assert record["candidates"] == [], "there was no choice"
            continue
        assert len(record["candidates"]) == 2 * step + 1
        probed = set()
        for candidate in record["candidates"]:
            pair = candidate["versions"]
            first = [row.outcome["scores"]["red"] for row in rows if row.outcome["scores"] is not None
                     and row.iteration <= step
                     and [numbers[row.seats[name]["version"]] for name in SIDES] == pair]  # fmt: skip
            rate = candidate["points"] / candidate["games"]
            assert rate == pytest.approx(FAVOUR[pair[0] - pair[1]], abs=0.021)
            known = first[: candidate["games"]]  # those of the chosen pairing went on after the choice
            assert candidate["points"] == pytest.approx(sum(known)) or tuple(pair) == tuple(
                record["versions"]
            )
            probed.add(candidate["games"])
        assert max(probed) <= PROBE


def test_the_figures_of_a_step_are_the_chosen_pairings(undisturbed: Any) -> None:
    """And what the others came to is beside them."""
    memory = undisturbed[1]
    chosen = opponents(memory)
    with Journal.open(str(memory)) as journal:
        story = read_story(journal, RUN)
        numbers = {row.id: row.number for row in journal.read(select(PolicyVersion.id, PolicyVersion.number))}
        rows = journal.read(select(Episode).where(Episode.run_id == RUN))
    assert [row["step"] for row in story.played] == [1, 2, 3]
    for step, row in enumerate(story.played):
        assert {name: row[name] for name in CHOICE} == {name: chosen[step][name] for name in CHOICE}
        scores = [
            game.outcome["scores"]
            for game in rows
            if game.iteration == step
            and [numbers[game.seats[name]["version"]] for name in SIDES] == row["versions"]
        ]
        won = [score["red"] for score in scores if score is not None]
        assert (row["red_share"], row["games"]) == (pytest.approx(sum(won) / len(won)), TASKS)
    printed = CliRunner().invoke(app, ["report", RUN, "--memory", str(memory)]).stdout
    lines = [line.split() for line in printed.splitlines()]
    assert ["step", "1", "@1", "@1", "2", "@2", "@1", "3", "@3", "@1"] in lines
    assert ["red", "share", *(f"{row['red_share']:.3g}" for row in story.played)] in lines
    table = [line for line in lines if line[1:2] and line[1].startswith("red@")]
    assert len(table) == 3 + 5 and sum(line[-1] == "chosen" for line in table) == 2
    for known in chosen[2]["candidates"]:
        red, blue = known["versions"]
        (line,) = (line for line in table if line[0] == "3" and line[1:3] == [f"red@{red}", f"blue@{blue}"])
        weaker = min(known["points"] / known["games"], 1 - known["points"] / known["games"])
        assert line[3:6] == [f"{known['points']:.3g}", str(known["games"]), f"{weaker:.3f}"]
        assert (line[-1] == "chosen") == (known["versions"] == chosen[2]["versions"])


def test_progress_says_which_pairing_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    watch = Watch(quiet=False)
    known = [{"versions": [3, 3], "points": 0.5, "games": 4}, {"versions": [3, 1], "points": 1.0, "games": 4}]
    watch("opponents", {"step": 2, "policies": SIDES, "versions": [3, 1], "candidates": known})
    watch("step", {"step": 2, "policies": {}, "versions": [3, 1], "figures": {"win_rate": 0.3}})
    watch("step", {"step": 3, "policies": {}, "figures": {"win_rate": 0.4}})
    err = " ".join(capsys.readouterr().err.split())
    assert "step 3 plays red@3 against blue@1; @3 @3 had 0.5 of 4 for red; @3 @1 had 1 of 4 for red" in err
    assert "@3 @1: win rate 0.3" in err and "0:00 win rate 0.4" in err


@pytest.mark.timeout(120)
def test_after_the_gate_went_back_the_training_head_plays_as_the_newest(taught: Path, tmp_path: Path) -> None:
    """Versions are 1 after the lessons, and 0 is live: the gate sets each new one back to 0."""
    gate = {"tasks": save_tasks(tmp_path / "gate.jsonl", 40, 2), "every": 1, "margin": 0.0, "half_width": 1.0}
    config = games(
        tmp_path, opponents={"mode": "latest"}, steps=2, gate={**gate, "block": 2, "rejected": "go_back"}
    )
    memory = copied(taught, tmp_path / "it")
    killed = nursery().live(config, memory, [Fault(f"{TEAM}:publish", "after", nth=3)])  # one head moved on
    assert killed.killed
    ended(nursery().live(config, memory))
    assert [r["versions"] for r in opponents(memory).values()] == [[1, 1], [0, 0]]
    assert {step: Counter(pair for pair, _, _ in rows) for step, rows in played(memory).items()} == {
        0: {(1, 1): TASKS}, 1: {(0, 0): TASKS},
    }  # fmt: skip


def test_a_rejected_version_stays_as_an_older_opponent(undisturbed: Any, monkeypatch: Any) -> None:
    """The last of a pool is the head that a step began with, whatever moved since."""
    from sparring.training.game_feed import GameFeed

    feed, start = GameFeed.__new__(GameFeed), SimpleNamespace(number=1)
    feed.team = SimpleNamespace(start=lambda member: start, members=dict.fromkeys(SIDES))  # type: ignore[assignment]  # its start alone
    feed.asked = OpponentsConfig()
    with Journal.open(str(undisturbed[1])) as journal:
        feed.run = SimpleNamespace(journal=journal, id=RUN)  # type: ignore[assignment]  # only read
        assert [feed._pool("red", step) for step in range(4)] == [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]
        monkeypatch.setattr(
            "sparring.training.game_feed.find", lambda journal, policy, head: SimpleNamespace(number=2)
        )
        assert feed._pool("red", 3) == [1, 3, 4, 2]
        assert feed._pool("red", 2) == [1, 2, 3]
        feed.asked = OpponentsConfig(pool=1)
        assert feed._pool("red", 3) == [1, 4, 2]


def test_each_update_restarts_from_the_lessons(undisturbed: Any) -> None:
    said = journaled(undisturbed[1], RUN)
    assert [u[:4] for u in said["updates"]] == [
        (n, s, "done", 1) for n in ("blue", "red") for s in range(STEPS)
    ]
    for name in SIDES:
        assert [parent for _, parent, _ in said["versions"][name]] == [None, 0, 1, 1, 1]
        assert said["heads"][name] == {"live": 0, "training": 4}
        assert [m[3] for m in said["moves"][name]] == [(name, number) for number in (1, 2, 3, 4)]
    sizes = Counter(update for update, _ in said["taken"])
    all_games = [TASKS, 2 * PROBE + TASKS, 4 * PROBE + TASKS]
    for name in SIDES:
        for step in range(STEPS):
            # Turns said by every version of a policy in the run so far, and half as many lessons.
            turns = sum(all_games[: step + 1])
            assert sizes[name, step] == turns + min(TASKS, round(turns / 2))


def test_latest_is_always_the_newest_against_the_newest(taught: Path, tmp_path: Path) -> None:
    config = games(tmp_path, opponents={"mode": "latest"}, steps=2)
    memory = copied(taught, tmp_path / "it")
    ended(nursery().live(config, memory))
    assert [r["versions"] for r in opponents(memory).values()] == [[1, 1], [2, 2]]
    assert {step: Counter(pair for pair, _, _ in rows) for step, rows in played(memory).items()} == {
        0: {(1, 1): TASKS}, 1: {(2, 2): TASKS},
    }  # fmt: skip


def test_a_side_that_does_not_move_is_not_probed_again(tmp_path: Path) -> None:
    """Blue is never paid, so it stays; its games against the old red are known from the step before."""
    reward = {"name": "game_support:Even", "paid": ["red"]}
    policies = {name: side(name, restart=True, reference="base", reward=reward) for name in SIDES}
    memory = tmp_path / "journal.db"
    ended(nursery().live(games(tmp_path, policies=policies, steps=2), memory))
    games_ = {step: Counter(pair for pair, _, _ in rows) for step, rows in played(memory).items()}
    assert games_[0] == {(0, 0): TASKS}
    first, second = (1, 0), (0, 0)
    assert opponents(memory)[1]["versions"] == [1, 0], "the nearest to the band: 0.15, not 0.1"
    assert games_[1] == {first: TASKS} and second not in games_[1]
    said = journaled(memory, RUN)
    assert [u[2] for u in said["updates"] if u[0] == "blue"] == ["empty", "empty"]


KILLS = {
    "nothing chosen": Fault(EVENT, given="opponents"),
    "chosen, and playing": Fault(CLOSE, nth=3),
    "an update opened": Fault(f"{TEAM}:open_update", "after"),
    "in the middle of an update": Fault(f"{TRAINER}._clip_grad_norm", nth=2),
    "between the two publishes": Fault(f"{TEAM}:publish", "after"),
    "in the second step's probes": Fault(CLOSE, nth=4),
    "after the probes, chosen and not written": Fault("sparring.training.game_feed:choose", "after"),
    "chosen and written": Fault(EVENT, "after", given="opponents"),
    "in the games": Fault(CLOSE, nth=2),
    "played, not paid": Fault("sparring.training.feed:derive"),
    "between the publishes again": Fault(f"{TEAM}:publish", "after"),
    "in the third step's probes": Fault(CLOSE, nth=5),
}
"""In the order in which a life after the last kill comes to them."""


@pytest.mark.timeout(300)
def test_killed_at_every_turn_it_comes_to_the_same(undisturbed: Any, taught: Path, tmp_path: Path) -> None:
    """The same pairings, words, choices of turns, weights and heads."""
    config, reference = undisturbed
    memory = copied(taught, tmp_path / "it")
    for stage, fault in KILLS.items():
        life = nursery().live(config, memory, [fault])
        assert life.killed, f"{stage}: the run ended with {life.status} {life.error} before it came there"
    ended(nursery().live(config, memory))
    assert opponents(memory) == opponents(reference)
    ours, theirs = played(memory), played(reference)
    assert {step: sorted(rows) for step, rows in ours.items()} == {
        n: sorted(rows) for n, rows in theirs.items()
    }
    assert difference(journaled(memory, RUN), journaled(reference, RUN)) is None


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no game": ({"protocol": "game_support:Solo"}, "`opponents`: protocol `shout` is no game"),
    "a side that nobody learns": (
        {"policies": {"red": side("red")}, "roles": {"blue": "scripted:hash"}},
        "`opponents`: side `blue` is played by no learning policy (red)",
    ),
    "both sides one policy": (
        {"policies": {"both": side("red", roles=["red", "blue"])}},
        "`opponents`: policy `both` plays both sides",
    ),
    "a band out of order": ({"opponents": {"band": [0.4, 0.2]}}, "`opponents.band`: the weaker side's"),
    "an unknown mode": ({"opponents": {"mode": "old"}}, "`opponents.mode`"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_any_work(tmp_path: Path, case: str) -> None:
    parts, message = REFUSED[case]
    config = games(tmp_path) | parts
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace(")", r"\)")):
        preflight(load_config(config))


def test_a_refused_run_leaves_nothing(tmp_path: Path) -> None:
    memory = tmp_path / "journal.db"
    life = nursery().live(games(tmp_path, protocol="game_support:Solo"), memory)
    assert life.status == 2 and "is no game between two sides" in str(life.error)
    with Journal.open(str(memory)) as journal:
        assert journal.runs() == [] and journal_names(journal) == []


def test_sides_are_found_by_seat_and_by_role(tmp_path: Path) -> None:
    assert list(sides(load_config(games(tmp_path))).items()) == [("red", "red"), ("blue", "blue")]


def test_copies_of_a_task_never_meet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The copy that takes the place of an abandoned episode is none that another pairing plays."""
    from sparring.training.game_feed import GameFeed

    feed = GameFeed.__new__(GameFeed)
    feed.config = load_config(games(tmp_path, play={"tasks": 2, "copies": 3, "copies_unsolved": 2}))
    feed.tasks = ()
    pairs = [(2, 2), (2, 1), (1, 2), (2, 0), (0, 2)]
    lineup = feed._lineup({"red": 1.0, "blue": 1.0}, {"red": 2, "blue": 0}, len(pairs))
    booked = {copy * len(pairs) + place for copy in range(3) for place in range(len(pairs))}
    assert {copy + lineup.copies for copy in booked}.isdisjoint(booked)
    assert lineup.roles == {"red": "policy:red@2", "blue": "policy:blue@0"}
    assert feed._lineup({"red": 1.0, "blue": 1.0}, {}).copies == 3


def test_no_version_that_may_be_played_or_restarted_from_is_deleted(taught: Path, tmp_path: Path) -> None:
    """`keep` is for weights that nobody comes back to."""
    config = games(tmp_path, keep=2, steps=4, play={"tasks": 2}, opponents={"probe": 1})
    memory = copied(taught, tmp_path / "it")
    ended(nursery().live(config, memory))
    assert [len(v) for v in journaled(memory, RUN)["versions"].values()] == [6, 6]


# --- early stopping ---------------------------------------------------------------------------------------


def measured(folder: Path, figure: str, values: Sequence[float], **changes: Any) -> dict[str, Any]:
    """Plays `Solo`, evaluated by `Pull` after every step."""
    part = {
        "tasks": save_tasks(folder / "held.jsonl", 20, 1),
        "protocol": "game_support:Pull",
        "options": {**common(folder)["options"], "figure": figure, "values": list(values)},
        "every": 1,
        "patience": 2,
    }
    policies = {name: side(name, reference="base") for name in SIDES}
    return games(
        folder, protocol="game_support:Solo", opponents=None, policies=policies, steps=6,
        evaluate=part, play={"tasks": 2}, **changes,
    )  # fmt: skip


STOPPED = [
    ("loss", (2.0, 1.5, 1.6, 1.5, 0.1, 0.1, 0.1), 3, 1),  # as good as the best is no better
    ("loss_red", (1.0, 1.1, 1.2, 0.0, 0.0, 0.0, 0.0), 2, 0),  # nothing was better than before all
    ("balanced", (0.5, 0.6, 0.5, 0.4, 1.0, 1.0, 1.0), 3, 1),  # upwards
]


@pytest.mark.parametrize(("figure", "values", "steps", "best"), STOPPED)
def test_evaluations_that_get_no_better_stop_it_and_the_best_line_up_returns(
    tmp_path: Path, figure: str, values: tuple[float, ...], steps: int, best: int
) -> None:
    memory = tmp_path / "journal.db"
    config = measured(tmp_path, figure, values)
    ended(nursery().live(config, memory))
    said = journaled(memory, RUN)
    assert sorted(u[1] for u in said["updates"] if u[0] == "red") == list(range(steps))
    for name in SIDES:
        assert said["heads"][name]["training"] == best
        back = said["moves"][name][-1]
        assert back[2:] == (
            (name, steps), (name, best), "gate", f"early stopping: the best evaluation was after step {best}",
        )  # fmt: skip
        assert len(said["moves"][name]) == steps + 1, "once"
    record = said["events"][f"evaluation {best}"]
    assert (record["measured"], record["accuracy"]["mean"]) == (figure, values[best])
    assert record["lineup"] == {"red": best, "blue": best} and record["figures"]["number"] == best
    if figure == "loss":
        again = nursery().live(config, memory)
        assert (again.status, again.said) == (0, [])
        assert journaled(memory, RUN)["moves"] == said["moves"]


def test_without_patience_it_goes_on(tmp_path: Path) -> None:
    memory = tmp_path / "journal.db"
    config = measured(tmp_path, "loss", [1.0, 2.0, 3.0, 4.0])
    config["evaluate"]["patience"] = None
    ended(nursery().live(config | {"steps": 3}, memory))
    assert journaled(memory, RUN)["heads"]["red"]["training"] == 3


def test_early_stopping_after_a_kill(tmp_path: Path) -> None:
    figure, values, steps, best = STOPPED[0]
    memory, config = tmp_path / "journal.db", measured(tmp_path, figure, values)
    kills = [
        Fault(EVENT, given=f"{steps}"),  # before the last evaluation is written
        Fault(EVENT, "after", given=f"{steps}"),
        Fault("sparring.training.judging:move_head"),
        Fault("sparring.training.judging:move_head", "after"),  # one of the two heads is back
    ]
    for fault in kills:
        assert nursery().live(config, memory, [fault]).killed
    ended(nursery().live(config, memory))
    said = journaled(memory, RUN)
    for name in SIDES:
        assert said["heads"][name]["training"] == best
        assert len(said["moves"][name]) == steps + 1
    assert sorted(u[1] for u in said["updates"] if u[0] == "red") == list(range(steps))


def test_the_best_version_is_kept_on_disk(tmp_path: Path) -> None:
    memory = tmp_path / "journal.db"
    config = measured(tmp_path, "loss", [3.0, 1.0, 2.0, 2.0, 2.0, 2.0], keep=2)
    config["evaluate"]["patience"] = 4
    ended(nursery().live(config, memory))
    said = journaled(memory, RUN)
    assert said["heads"]["red"]["training"] == 1, "its weights are verified by `journaled`"


def test_nothing_to_measure_is_no_reason_to_stop(tmp_path: Path) -> None:
    """A protocol that gives no answers and no figures cannot be waited for."""
    config = measured(tmp_path, "loss", [1.0])
    config["evaluate"] |= {"protocol": "game_support:Solo", "options": common(tmp_path)["options"]}
    life = nursery().live(config, tmp_path / "journal.db")
    assert life.status == 2 and "nothing" in str(life.error)


def test_lessons_that_do_not_parse_are_one_line(tmp_path: Path) -> None:
    row = {
        "id": "t", "question": "7 + 5?", "answer": "12", "steps": ["7 + 5 = 12"], "step": 0, "error": 2,
        "wrong": "7 + 5 = 13", "thought": "x", "critique_correct": "?", "critique_wrong": "?",
    }  # fmt: skip
    (tmp_path / "lessons.jsonl").write_text(json.dumps(row) + "\n")
    config = common(tmp_path) | {
        "run": "l", "protocol": "sneaky_lesson", "options": {"pupils": ["critic"]}, "steps": 1,
        "tasks": str(tmp_path / "lessons.jsonl"), "policies": {"critic": side("critic")},
    }  # fmt: skip
    life = nursery().live(config, tmp_path / "journal.db")
    assert life.status == 2
    assert str(life.error).startswith("UserError: a demonstration of role `critic` does not parse")
