"""A budget of a whole run: it stops by itself, loses nothing, and goes on under a larger one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from sparring.agents.engines.base import Request, Usage
from sparring.agents.engines.budget import Budget, Purse
from sparring.agents.engines.layer import ManagedEngine
from sparring.agents.engines.registry import EnginePool, make_engine, priced
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.errors import BudgetSpent, EngineError, UserError
from sparring.graphs.budget import affordable, spent
from sparring.graphs.play import Play, PlayResult, aplay, plan
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Run, Turn

TASKS = [{"id": f"t{i}", "question": f"{i} + 1?", "answer": str(i + 1), "check": "math"} for i in range(12)]
PRICES = {"price_in": 1000.0, "price_out": 1000.0}


class Stand:
    """A priced engine that counts its calls, and how many of them are in flight at most."""

    def __init__(self, delay_s: float = 0.002) -> None:
        self.calls = self.now = self.most = 0
        self.delay_s = delay_s

    async def reply(self, request: Request, seed: int) -> str:
        self.calls += 1
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self.delay_s)
        self.now -= 1
        return "Answer: 7"

    def engine(self, **options: Any) -> ManagedEngine:
        return make_engine(self.reply, **PRICES, **options)


def debate(engine: Any, **options: Any) -> Play:
    return plan("debate", TASKS, engine=engine, agents=3, rounds=2, **options)


def play(path: Path, planned: Play, budget: Budget | None, concurrency: int = 4) -> PlayResult:
    return asyncio.run(aplay(planned, path, run="r", concurrency=concurrency, budget=budget))


def bill(path: Path) -> tuple[float, int, int, str]:
    """Money, dearest call in tokens, turns and status of the run."""
    with Journal.open(path) as journal:
        money, _ = spent(journal, "r")
        tokens = func.max(Turn.prompt_tokens + Turn.completion_tokens)
        [(dearest, turns)] = journal.read(select(tokens, func.count()))
        return money, int(dearest), int(turns), str(journal.run_row("r").status)


def test_it_stops_keeps_what_was_paid_and_goes_on(tmp_path: Path) -> None:
    whole = tmp_path / "whole.db"
    play(whole, debate(Stand().engine()), None)
    full, dearest, turns, _ = bill(whole)
    assert turns == 12 * 6

    path, cap, stand = tmp_path / "j.db", full / 3, Stand()
    with pytest.raises(BudgetSpent, match=f"the run's budget is spent: .* of {cap:g} in money"):
        play(path, debate(stand.engine()), Budget(cost=cap))
    money, _, turns, status = bill(path)
    assert status == "interrupted" and turns == stand.calls, "every call that was paid is journaled"
    assert cap <= money <= cap + dearest * PRICES["price_in"] / 1e6
    with Journal.open(path) as journal:
        states = {row.status for row in journal.read(select(Episode.status))}
    assert states <= {"open", "done"}, "nothing is given up"

    again = Stand()
    with pytest.raises(BudgetSpent):  # an earlier life has spent it
        play(path, debate(again.engine()), Budget(cost=cap))
    assert again.calls == 0

    with pytest.raises(BudgetSpent):
        play(path, debate(again.engine()), Budget(cost=2 * cap))
    money, _, turns, _ = bill(path)
    assert 2 * cap <= money <= 2 * cap + dearest * PRICES["price_in"] / 1e6
    assert turns == stand.calls + again.calls

    last = Stand()
    assert play(path, debate(last.engine()), Budget(cost=2 * full)).complete
    money, _, turns, status = bill(path)
    assert (turns, status) == (12 * 6, "done") and money == pytest.approx(full)
    assert stand.calls + again.calls + last.calls == 12 * 6, "nothing was asked for twice"


def test_calls_under_way_are_in_the_budget(tmp_path: Path) -> None:
    """Many are made at once as long as all of them fit, and one too many at most."""
    path, stand = tmp_path / "j.db", Stand(delay_s=0.01)
    with pytest.raises(BudgetSpent):
        play(path, debate(stand.engine(), max_tokens=20), Budget(tokens=6000), concurrency=12)
    with Journal.open(path) as journal:
        assert 6000 <= spent(journal, "r")[1] <= 6000 + bill(path)[1]
    assert stand.most > 12


def test_calls_that_fit_no_more_are_not_made(tmp_path: Path) -> None:
    """Those that stand in line for the backend neither; nobody knows what a call takes, so one is made."""
    path, stand = tmp_path / "j.db", Stand()
    with pytest.raises(BudgetSpent):
        play(path, debate(stand.engine(concurrency=2)), Budget(tokens=1), concurrency=12)
    assert stand.calls == 1


async def test_a_call_that_fails_makes_room_for_another() -> None:
    purse = Purse(Budget(tokens=100))
    with pytest.raises(EngineError), purse.hold(Usage(60, 40)):
        waiting = asyncio.ensure_future(purse.admit(Usage(60, 40)))
        await asyncio.sleep(0)
        assert not waiting.done()
        raise EngineError("it fell down")
    await asyncio.wait_for(waiting, 1)


def test_samples_that_are_asked_for_one_by_one_are_not_lost_between_them(tmp_path: Path) -> None:
    """A server takes the samples of a prompt as separate calls, which are journaled together."""
    path, stand = tmp_path / "j.db", Stand(delay_s=0.01)

    async def uneven(request: Request, seed: int) -> str:
        await asyncio.sleep(0.001 * (seed % 7))  # so that the purse is empty while others are in line
        return await stand.reply(request, seed)

    class Server(ScriptedEngine):
        one_sample_per_call = True

    def planned() -> Play:
        return plan("sample", TASKS, engine=make_engine(Server(uneven), concurrency=3, **PRICES), n=5)

    with pytest.raises(BudgetSpent):
        play(path, planned(), Budget(tokens=1500), concurrency=6)
    _, _, turns, _ = bill(path)
    assert turns == stand.calls < 12 * 5, "every call that was paid is journaled"
    assert play(path, planned(), None).complete
    assert stand.calls == bill(path)[2] == 12 * 5, "nothing was asked for twice"


def test_tokens_are_a_budget_too_and_need_no_price(tmp_path: Path) -> None:
    path, stand = tmp_path / "j.db", Stand()
    with pytest.raises(BudgetSpent, match=r"of 1500 tokens"):
        play(path, debate(make_engine(stand.reply)), Budget(tokens=1500), concurrency=1)
    with Journal.open(path) as journal:
        _, tokens = spent(journal, "r")
    dearest = bill(path)[1]
    assert 1500 <= tokens <= 1500 + 3 * dearest


def test_the_pool_of_a_baseline_is_paid_from_the_same_purse(tmp_path: Path) -> None:
    path, stand = tmp_path / "j.db", Stand()
    play(path, debate(stand.engine()), None)
    money = bill(path)[0]
    with pytest.raises(BudgetSpent):
        play(path, debate(stand.engine(), baseline=True), Budget(cost=1.2 * money))
    with Journal.open(path) as journal:
        assert journal.run_row("r.baseline").status == "interrupted"
        assert spent(journal, "r")[0] >= 1.2 * money > money
    assert play(path, debate(stand.engine(), baseline=True), Budget(cost=100 * money)).complete


def test_answers_of_the_cache_are_free(tmp_path: Path) -> None:
    cache, stand = tmp_path / "cache.sqlite", Stand()
    first = debate(stand.engine(cache=cache))
    play(tmp_path / "a.db", first, None)
    asked = stand.calls
    assert play(tmp_path / "b.db", debate(stand.engine(cache=cache)), Budget(cost=1e-9, tokens=1)).complete
    assert stand.calls == asked
    with Journal.open(tmp_path / "b.db") as journal:
        assert spent(journal, "r") == (0.0, 0)


def test_an_engine_without_a_price_is_refused_before_the_run_has_a_row(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of its engines has a price.*price_in"):
        play(tmp_path / "j.db", debate("scripted:hash"), Budget(cost=1.0))
    with Journal.open(tmp_path / "j.db") as journal:
        assert journal.runs() == []


def test_a_server_without_a_price_is_not_used_under_a_budget_of_money(tmp_path: Path) -> None:
    """Beside a priced engine too: its calls would be free by our count and by nobody else's."""

    def with_judge(options: str) -> Play:
        judge = f"http://127.0.0.1:9/v1#m?{options}"
        return plan("mad", TASKS, engine="scripted:hash?price_in=1", roles={"judge": judge})

    async def afford(planned: Play) -> None:
        async with EnginePool(purse=Purse(Budget(cost=1.0), run="r")) as pool:
            for spec in (planned.engine, *planned.roles.values()):
                pool.get(spec)
            affordable(pool.purse, "r", pool.priced, pool.unpriced)

    with pytest.raises(UserError, match=r"`http://127.0.0.1:9/v1#m\S*` has no price.*price_in=0"):
        asyncio.run(afford(with_judge("tries=1")))
    asyncio.run(afford(with_judge("price_in=0")))
    asyncio.run(afford(with_judge("price_out=1")))


@pytest.mark.parametrize(
    ("spec", "known"),
    [
        ("scripted:hash", False), ("scripted:hash?price_out=1", True), ("smollm2-135m", False),
        ("http://h/v1#m", None), ("http://h/v1#m?price_in=0", False),
        ("http://h/v1#m?price_cached=1&price_in=1", True), ("langchain:openai:gpt-4o", None),
    ],
)  # fmt: skip
def test_what_a_spec_says_of_its_price(spec: str, known: bool | None) -> None:
    assert priced(spec) is known


@pytest.mark.parametrize("cap", [{"cost": 0}, {"cost": -1.0}, {"tokens": 0}, {"cost": float("nan")}])
def test_a_budget_is_above_nothing(cap: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must be above 0"):
        Budget(**cap)


async def test_an_engine_that_was_handed_in_pays_only_where_there_is_a_purse() -> None:
    own = Stand().engine()
    async with EnginePool(purse=Purse(Budget(tokens=1))) as paying, EnginePool() as free:
        assert free.get(own) is own and own.purse is None
        assert paying.get(own).purse is paying.purse and paying.get(own) is paying.get(own)


def test_descendants_of_a_run_are_its_own(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    play(path, debate(Stand().engine()), None)
    asyncio.run(aplay(debate(Stand().engine(), seed=1), path, run="other"))
    with Journal.open(path) as journal:
        alone = spent(journal, "r")
        journal.execute(update(Run).where(Run.id == "other").values(parent_id="r"))
        both = spent(journal, "r")
        assert both[0] == pytest.approx(alone[0] + spent(journal, "other")[0]) and both[1] > alone[1]
        assert spent(journal, "absent") == (0.0, 0)
