"""Rewards: who is paid what for which status, and that old rows stay as they are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from journal_support import SEEN, TASK, agent, drive, episode, says, version
from sqlalchemy import select

from sparring.errors import UserError
from sparring.memory.journal import Journal
from sparring.memory.records import Ask, Place, Produced, TaskRecord
from sparring.memory.run import RunHandle
from sparring.memory.schema import Reward, Turn
from sparring.memory.transfer import export, import_
from sparring.training.advantages import Batch, estimate
from sparring.training.experience import Source, experience
from sparring.training.losses import LossInputs, Totals, make_loss
from sparring.training.rewards import make_reward
from sparring.training.rewards.base import EpisodeRow, Paid, RewardFunction, RewardRef
from sparring.training.rewards.derive import derive, read_episodes
from sparring.training.rewards.verifier import Verifier

NOBODY = TaskRecord("q2", "Why?", None)
CUT = {"status": "truncated"}


def stored(journal: Journal, *columns: Any) -> list[Any]:
    return journal.read(select(*columns or (Reward.__table__,)).order_by(Reward.id))


def values(journal: Journal, function: RewardFunction | None = None) -> dict[tuple[str, int], Any]:
    """(key, attempt) -> value, of one function."""
    query = select(Turn.key, Turn.attempt, Reward.value).join(Turn, Turn.id == Reward.turn_id)
    if function is not None:
        ref = RewardRef.of(function)
        query = query.where(
            Reward.function == ref.function,
            Reward.version == ref.version,
            Reward.config_hash == ref.config_hash,
        )
    return {(row.key, row.attempt): row.value for row in journal.read(query)}


async def pay(journal: Journal, turns: dict[str, Any], function: RewardFunction, **more: Any) -> Any:
    """The rewards of one episode by one function: key -> (value, reason)."""
    with drive(journal) as run:
        number = await episode(run, turns, **more)
    derive(journal, function, episodes=[number])
    query = select(Turn.key, Reward.value, Reward.reason).join(Turn, Turn.id == Reward.turn_id)
    return {row.key: (row.value, row.reason) for row in journal.read(query.order_by(Turn.id))}


@pytest.mark.parametrize(
    ("said", "options", "value", "reason"),
    [
        (says("4"), {}, 1.0, "same text"),
        (says("5"), {}, 0.0, "different text"),
        (says(" "), {}, 0.0, "no answer"),
        (says(None), {}, None, "gives no `answer`"),
        (says(None, "parse_error"), {}, 0.0, "parse_error"),
        (says("4", "parse_error"), {}, 0.0, "parse_error"),
        (says(None, "refused"), {}, 0.0, "refused"),
        (says(None, **CUT), {}, 0.0, "truncated"),
        (says("4", **CUT), {}, 1.0, "same text"),
        (says("5", **CUT), {}, 0.0, "different text"),
        (says("4", **CUT), {"mask_truncated": True}, None, "truncated, masked"),
        (says(None, **CUT), {"mask_truncated": True}, None, "truncated, masked"),
        (says(None, "timeout"), {}, None, "the world's fault"),
        (says("4", "engine_error"), {"fault": -1.0}, None, "the world's fault"),
        (says("5"), {"right": 2.0, "wrong": -0.5}, -0.5, "different text"),
        (says("4"), {"right": 2.0, "wrong": -0.5}, 2.0, "same text"),
        (says(None, "parse_error"), {"wrong": -0.5}, -0.5, "parse_error"),
        (says(None, "refused"), {"wrong": -0.5, "fault": -1.0}, -1.0, "refused"),
        (says("4"), {"roles": ("judge",)}, "unpaid", ""),
        (says("4", parsed={"verdict": "4"}), {"field": "verdict"}, 1.0, "same text"),
        (says("4", parsed=["4"]), {}, None, "gives no `answer`"),
    ],
)
async def test_own_credit_by_status(
    journal: Journal, said: Any, options: dict[str, Any], value: Any, reason: str
) -> None:
    paid = await pay(journal, {"solver/0": said}, Verifier(**options))
    assert paid == ({} if value == "unpaid" else {"solver/0": (value, reason)})


@pytest.mark.parametrize(
    ("said", "correct", "outcome", "value"),
    [
        (says("5"), True, {"answer": "4"}, 1.0),
        (says("4"), False, {"answer": "5"}, 0.0),
        (says(None), True, {"answer": "4"}, 1.0),
        (says(None, "parse_error"), True, {"answer": "4"}, 0.0),
        (says("4", **CUT), True, {"answer": "4"}, 1.0),
        (says(None, **CUT), True, {"answer": "4"}, 0.0),
        (says(None, "timeout"), True, {"answer": "4"}, None),
        (says("4"), None, {"answer": "4"}, None),  # no verdict
        (says("4"), False, {"answer": None}, None),
        (says("4"), False, None, None),
    ],
)
async def test_outcome_credit_by_status(
    journal: Journal, said: Any, correct: bool | None, outcome: Any, value: float | None
) -> None:
    more = {"correct": correct, "outcome": outcome}
    paid = await pay(journal, {"solver/0": said}, Verifier(credit="outcome"), **more)
    assert paid["solver/0"][0] == value


async def test_without_a_reference_nothing_is_paid(journal: Journal) -> None:
    said = {"solver/0": says("4"), "solver/1": says(None, "parse_error")}
    paid = await pay(journal, said, Verifier(), task=NOBODY)
    assert {value for value, _ in paid.values()} == {None}


async def test_nobody_pays_for_an_unparsable_judge(journal: Journal) -> None:
    said = {"affirmative/0": says("4"), "negative/0": says("5"), "judge/0": says(None, "parse_error")}
    more = {"correct": False, "outcome": {"answer": None}}
    paid = await pay(journal, said, Verifier(credit="outcome", wrong=-1.0), **more)
    assert {key: value for key, (value, _) in paid.items()} == {
        "affirmative/0": None,
        "negative/0": None,
        "judge/0": -1.0,
    }


async def test_each_attempt_is_paid_for_itself(journal: Journal) -> None:
    said = {"solver/0": says(None, "timeout"), "solver/0'": says("4"), "solver/1": says("5")}
    with drive(journal) as run:
        number = await episode(run, said)
    done = derive(journal, Verifier(), episodes=[number])
    assert values(journal) == {("solver/0", 0): None, ("solver/0", 1): 1.0, ("solver/1", 0): 0.0}
    assert (done.episodes, done.rewards, done.null, done.already) == (1, 3, 1, 0)


class Greedy(RewardFunction):
    """Pays everyone, and a part of every completion besides."""

    name: ClassVar[str] = "greedy"
    version: ClassVar[str] = "1"
    value: float | None = 5.0
    spans: tuple[tuple[int, int], ...] = ()
    shift: int = 0
    reason: str = "all"

    def rewards(self, episode: EpisodeRow) -> Iterable[Paid]:
        for turn in episode.turns:
            yield Paid(turn.id + self.shift, self.value, self.reason, turns=(turn.id,))
            for span in self.spans:
                yield Paid(turn.id, 0.5, "part", span=span)


async def test_an_outage_never_pays_whatever_the_function_says(journal: Journal) -> None:
    said = {"a/0": says(None, "timeout"), "b/0": says(None, "engine_error"), "c/0": says()}
    paid = await pay(journal, said, Greedy())
    assert [value for value, _ in paid.values()] == [None, None, 5.0]


async def test_spans_are_rows_of_their_own_and_no_part_of_the_whole(journal: Journal) -> None:
    await pay(journal, {"solver/0": says()}, Greedy(spans=((0, 1), (1, 3))))
    rows = stored(journal, Reward.span_start, Reward.span_end, Reward.value)
    assert [tuple(row) for row in rows] == [(-1, -1, 5.0), (0, 1, 0.5), (1, 3, 0.5)]
    ref = RewardRef.of(Greedy(spans=((0, 1), (1, 3))))
    found = experience(journal, "base", ref, {version(journal): 0})
    assert [sample.reward for sample in found.samples] == [5.0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"spans": ((-1, 2),)}, "pays tokens -1 to 2 of turn"),
        ({"spans": ((1, 1),)}, "pays tokens 1 to 1"),
        ({"spans": ((1, 4),)}, "which has 3"),
        ({"spans": ((0, 1), (0, 1))}, "pays a turn twice"),
        ({"shift": 99}, "are not of the episode"),
        ({"value": float("nan")}, "None masks a turn"),
        ({"value": float("inf")}, "pays inf"),
        ({"value": "1"}, "pays '1' for turn"),
        ({"reason": None}, "for the reason None, no text"),
    ],
)
async def test_what_is_no_reward_is_refused(journal: Journal, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        await pay(journal, {"solver/0": says()}, Greedy.model_construct(**{**dict(Greedy()), **options}))
    assert stored(journal) == []


class Given(RewardFunction):
    name: ClassVar[str] = "given"
    version: ClassVar[str] = "1"
    rows: Any = None

    def rewards(self, episode: EpisodeRow) -> Iterable[Paid]:
        return self.rows  # type: ignore[no-any-return]  # what a user's untyped function may give


@pytest.mark.parametrize(("rows", "kind"), [(None, "NoneType"), ([1.0], "float"), (2.0, "float")])
async def test_what_is_no_row_is_refused(journal: Journal, rows: Any, kind: str) -> None:
    with pytest.raises(UserError, match=f"`given`, episode .*`Paid` rows, not {kind}"):
        await pay(journal, {"solver/0": says()}, Given(rows=rows))


async def test_deriving_again_adds_nothing_and_other_formulas_add_beside(journal: Journal) -> None:
    with drive(journal) as run:
        for copy in range(3):
            await episode(run, {"solver/0": says("4"), "solver/1": says("5")}, copy=copy)
    first = derive(journal, Verifier(), run="r")
    before = stored(journal)
    assert (first.rewards, first.already, first.changed) == (6, 0, [])
    again = derive(journal, Verifier(), run="r")
    assert (again.rewards, again.already, again.changed) == (0, 6, []) and stored(journal) == before

    class Newer(Verifier):
        version: ClassVar[str] = "2"

        def _value(self, correct: bool) -> float:
            return 10 * super()._value(correct)

    assert derive(journal, Newer(), run="r").rewards == 6
    assert derive(journal, Verifier(wrong=-1.0), run="r").rewards == 6
    rows = stored(journal)
    assert rows[:6] == before and len(rows) == 18
    assert set(values(journal, Newer()).values()) == {10.0, 0.0}
    assert set(values(journal, Verifier(wrong=-1.0)).values()) == {1.0, -1.0}


async def test_a_formula_that_changed_under_its_version_is_noticed(journal: Journal) -> None:
    await pay(journal, {"solver/0": says(), "solver/1": says()}, Greedy())

    class Changed(Greedy):
        def rewards(self, episode: EpisodeRow) -> Iterable[Paid]:
            yield from (replace(paid, value=6.0) for paid in super().rewards(episode))

    before = stored(journal)
    done = derive(journal, Changed(), run="r")
    assert sorted(done.changed) == [row.turn_id for row in before] and done.rewards == done.already == 0
    assert stored(journal) == before


async def test_rows_name_what_was_read(journal: Journal) -> None:
    with drive(journal) as run:
        number = await episode(run, {"solver/0": says(), "solver/1": says()}, correct=True)
    derive(journal, Verifier(credit="outcome"), episodes=[number])
    [row] = read_episodes(journal, [number])
    verdict = next(event.id for event in row.events if event.kind == "verdict")
    assert [reward.read_ids for reward in stored(journal)] == [
        {"turns": [turn.id], "events": [verdict]} for turn in row.turns
    ]


async def test_only_closed_episodes_of_the_run_and_iteration(journal: Journal) -> None:
    with drive(journal) as run:
        await episode(run, {"solver/0": says()}, iteration=0)
        await episode(run, {"solver/0": says()}, iteration=1)
        failed = await episode(run, {"solver/0": says()}, copy=1, status="failed")
        await episode(run, {"solver/0": says()}, copy=2, status="capped", outcome=None)
    with drive(journal, "other") as other:
        await episode(other, {"solver/0": says()})
    assert derive(journal, Verifier(), episodes=[failed]).rewards == 0
    assert derive(journal, Verifier(), run="r", iteration=1).rewards == 1
    assert derive(journal, Verifier(), run="r").rewards == 2
    with pytest.raises(UserError, match="say of which run"):
        derive(journal, Verifier())
    with pytest.raises(UserError, match="none"):
        derive(journal, Verifier(), run="none")


async def test_rewards_of_an_imported_journal(journal: Journal, database: Any, tmp_path: Path) -> None:
    with drive(journal) as run:
        await episode(run, {"solver/0": says("4"), "solver/1": says("5")}, correct=True)
    derive(journal, Verifier(), run="r")
    export(journal, "r", tmp_path / "r.jsonl")
    with Journal.open(database()) as other:
        with drive(other, "already") as run:
            await episode(run, {"solver/0": says("5")})
        import_(other, tmp_path / "r.jsonl")
        assert values(other) == {("solver/0", 0): 1.0, ("solver/1", 0): 0.0}
        again = derive(other, Verifier(), run="r")
        assert (again.rewards, again.already) == (0, 2)
        assert derive(other, Verifier(right=2.0), run="r").rewards == 2
        reading = [row.read_ids["turns"] for row in stored(other)]
        assert reading == [[row.turn_id] for row in stored(other)]


# --- by name --------------------------------------------------------------------------------------------


def test_functions_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_reward("verifier", {"right": 2}) == Verifier(right=2.0)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_reward.py").write_text("1 +\n")
    (tmp_path / "own_reward.py").write_text(
        "from sparring.training.rewards.base import RewardFunction\n"
        "from sparring.training.rewards.verifier import Verifier\n"
        "class Mine(Verifier):\n    name = 'mine'\n    version = '3'\n"
        "class Half(RewardFunction):\n    name = 'half'\n"
    )
    made = make_reward("own_reward:Mine", {"wrong": -1})
    assert (made.name, made.version) == ("mine", "3") and made.fault == -1.0  # type: ignore[attr-defined]  # Mine has it
    for name, options, said in [
        ("verifer", {}, "unknown reward function `verifer`; known: .*verifier"),
        ("own_reward:Nobody", {}, "module `own_reward` `Nobody`; known: Half, Mine"),
        ("nothing_there:X", {}, "cannot be imported"),
        (":X", {}, "cannot be imported"),
        ("broken_reward:X", {}, "cannot be imported .SyntaxError"),
        ("own_reward:Half", {}, "does not define version, rewards"),
        ("pathlib:Path", {}, "is no subclass of"),
        ("verifier", {"rihgt": 1}, "unknown option of reward function `verifier` `rihgt`"),
        ("verifier", {"right": "much"}, "option `right`"),
        ("verifier", {"credit": "shared"}, "option `credit`"),
        ("verifier", {"fault": 0.5}, "`fault` 0.5 pays more than `wrong` 0"),
    ]:
        with pytest.raises(UserError, match=said) as caught:
            make_reward(name, options)
        assert "\n" not in str(caught.value)


def test_a_fault_is_worth_as_much_as_a_wrong_answer_unless_said_otherwise() -> None:
    assert Verifier().fault == 0.0 and Verifier(wrong=-1.0).fault == -1.0
    assert Verifier(wrong=0.0).config_hash == Verifier().config_hash
    assert Verifier(wrong=-1.0, fault=-2.0).fault == -2.0


# --- a policy that could dodge --------------------------------------------------------------------------

UNREADABLE, LUCKY, WRONG = range(3)
LUCK = 0.3


class Lenient(Verifier):
    """What must not be: an unreadable answer gets away with less than a wrong one does."""

    name: ClassVar[str] = "lenient"
    instead: float | None = 0.0

    def rewards(self, episode: EpisodeRow) -> Iterable[Paid]:
        for paid in super().rewards(episode):
            yield replace(paid, value=self.instead) if paid.reason == "parse_error" else paid


async def group(run: RunHandle, step: int, ask: Ask, said: list[Produced]) -> None:
    """Samples of one prompt, as one request and one commit."""
    handle = run.episode(TASK, step, 0, seats={})

    async def produce(places: list[Place]) -> list[Produced]:
        return said

    await handle.turns([f"solver/{place}" for place in range(len(said))], ask, produce)
    await handle.close("done", {"answer": "4"}, None)


async def learned(
    journal: Journal, function: RewardFunction, *, compared: bool = True, updates: int = 14
) -> np.ndarray:
    """Probabilities of the three actions after updates from the journal; one token is one action.

    Not `compared`, a reward is its own advantage.
    """
    logits = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.SGD([logits], lr=1.5)
    loss, ref, rng = make_loss("grpo"), RewardRef.of(function), np.random.default_rng(1)
    now = version(journal)
    with drive(journal, function.name) as run:
        for step in range(updates):
            logs = torch.log_softmax(logits.detach().double(), 0).numpy()
            said = []
            for _ in range(48):
                action = int(rng.choice(3, p=np.exp(logs) / np.exp(logs).sum()))
                answer = "4" if action == LUCKY and rng.random() < LUCK else "5"
                drawn = {
                    "completion_ids": np.array([action], np.int32),
                    "logprobs": logs[[action]].astype(np.float32),
                    "completion_tokens": 1,
                }
                unread = action == UNREADABLE
                said.append(says(None, "parse_error", **drawn) if unread else says(answer, **drawn))
            await group(run, step, Ask(agent(), now, SEEN), said)
            derive(journal, function, run=run.id, iteration=step)
            source = Source(runs=(run.id,), iteration=step)
            batch = experience(journal, "base", ref, {now: 0}, source=source).samples
            if len({sample.reward for sample in batch}) < 2:
                continue
            columns = Batch(
                rewards=np.array([sample.reward for sample in batch]),
                lengths=np.ones(len(batch), np.int64),
                prompts=[sample.prompt for sample in batch],
                roles=[sample.role for sample in batch],
            )
            made = estimate("group", columns).values if compared else columns.rewards[:, None]
            advantages = np.array(made, np.float32)
            old = np.array([sample.turn.logprobs for sample in batch])
            actions = torch.tensor([int(sample.turn.completion_ids[0]) for sample in batch])
            inputs = LossInputs(
                torch.log_softmax(logits, 0)[actions][:, None],
                torch.from_numpy(old),
                torch.from_numpy(advantages),
                torch.ones(len(batch), 1, dtype=torch.bool),
            )
            optimizer.zero_grad()
            loss(inputs, Totals(len(batch), len(batch), 1)).loss.backward()
            optimizer.step()
    return torch.softmax(logits.detach(), 0).numpy()


@pytest.mark.parametrize("options", [{}, {"wrong": -1.0}, {"credit": "own", "right": 2.0}])
async def test_a_policy_does_not_learn_to_be_unreadable(journal: Journal, options: dict[str, Any]) -> None:
    after = await learned(journal, Verifier(**options))
    assert after[UNREADABLE] < 0.2 < 1 / 3 < 0.6 < after[LUCKY]


@pytest.mark.parametrize(("instead", "compared"), [(0.0, True), (None, False)])
async def test_the_control_learns_to_dodge(journal: Journal, instead: float | None, compared: bool) -> None:
    """Paid more than wrong ones, or masked where nothing is compared, unreadable answers take over."""
    fair = await learned(journal, Verifier(wrong=-1.0), compared=compared)
    dodging = await learned(journal, Lenient(wrong=-1.0, instead=instead), compared=compared)
    assert fair[UNREADABLE] < 1 / 3 and dodging[UNREADABLE] > 0.6
