"""Sample: one request, one turn a sample, the majority of those that can be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from stage import Call, Stage

from sparring.errors import EngineError, UserError
from sparring.graphs.protocols.sample import Sample
from sparring.memory.journal import Journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db", "normal") as opened:
        yield opened


async def test_samples_of_one_prompt_vote(journal: Journal) -> None:
    said = ["Answer: 8", "no idea", "Answer: 7", "Answer: 7.0", "Answer: 9"]
    stage = Stage(Sample(n=5), journal, lambda call: said[call.nth], check="math")
    outcome = await stage.play()
    assert (outcome["answer"], outcome["tied"], outcome["detail"]["invalid"]) == ("7", False, 1)
    assert outcome["distribution"] == {"8": 0.25, "7": 0.5, "9": 0.25}
    assert len({call.text for call in stage.calls}) == 1
    rows = stage.turns()
    assert [row.key for row in rows] == [f"sample/{n}" for n in range(5)]
    assert len({row.seed for row in rows}) == 5


async def test_a_tie_goes_to_the_earliest_sample_also_beyond_ten(journal: Journal) -> None:
    stage = Stage(Sample(n=12), journal, lambda call: f"Answer: {12 - call.nth // 2}")
    outcome = await stage.play()
    assert (outcome["answer"], outcome["tied"]) == ("12", True)


async def test_a_failed_request_is_asked_again_whole_and_a_done_one_never(journal: Journal) -> None:
    def fails(call: Call) -> str | Exception:
        return EngineError("gone") if call.nth == 1 else "Answer: 7"

    with pytest.raises(EngineError, match="gone"):
        await Stage(Sample(n=3), journal, fails).play()
    again = Stage(Sample(n=3), journal, lambda call: "Answer: 7")
    assert (await again.play())["answer"] == "7"
    assert len(again.calls) == 3
    third = Stage(Sample(n=3), journal, lambda call: "Answer: 8")
    assert (await third.play())["answer"] == "7" and not third.calls
    assert [(row.attempt, row.status) for row in third.turns()] == [(0, "engine_error"), (1, "ok")] * 3


def test_limits_follow_the_samples() -> None:
    assert Sample(n=64).max_calls == 64
    with pytest.raises(UserError, match="option `n`"):
        Sample.configure({"n": 0})
