"""Demonstrations: what a teacher wrote becomes a turn with the agent's own token ids, once and for all."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select
from tf_support import SIZES, logs_of, reference, save_tokenizer

from sparring.agents.engines.base import PolicyVersion, Sampling, encode
from sparring.agents.engines.layer import ManagedEngine
from sparring.agents.engines.registry import EnginePool
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.agents.engines.transformers import TransformersEngine
from sparring.agents.parsing import parser
from sparring.agents.roles import TEACHER, Agent, Role
from sparring.errors import CapabilityError, UserError
from sparring.graphs.context import Context
from sparring.memory.journal import Journal
from sparring.memory.queries import mean_logprobs
from sparring.memory.records import TaskRecord, VersionRecord
from sparring.memory.samples import training_turns
from sparring.memory.schema import Agent as AgentTable
from sparring.memory.schema import Message, Turn
from sparring.tools.equality import equality

SHOWN = {"problem": "Start with 7. Add 5.", "partial": [], "step": "7 + 5 = 12"}
SAID = "The sum is 12 – ✓.\n<Answer>Correct</Answer>"
TASK = TaskRecord("t", "Start with 7. Add 5.", "12")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, tf_one_thread: None) -> Path:
    """A random llama that takes whole prompts, a byte a token."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("tiny")
    sizes = {**SIZES, "max_position_embeddings": 4096, "hidden_size": 48, "num_hidden_layers": 2}
    LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture
async def engine(tiny: Path) -> AsyncIterator[ManagedEngine]:
    made = ManagedEngine(TransformersEngine(str(tiny), dtype="float32"))
    yield made
    await made.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db", "normal") as opened:
        yield opened


def critic(engine: Any, journal: Journal) -> Agent:
    role = Role.of("critic", {"judge": parser("verdict")}, ["problem", "partial", "step"])
    version = journal.version(VersionRecord("p", "base", engine.spec))
    return Agent(role, engine, PolicyVersion("p"), Sampling(temperature=0.7), version)


class Scene:
    """An episode of a run, open for as long as the `with` goes."""

    def __init__(self, journal: Journal, engine: Any) -> None:
        self.run = journal.drive("r", kind="test", protocol="x", config={}, seed=0)
        episode = self.run.episode(TASK, seats={})
        self.context = Context(episode, {"critic": critic(engine, journal)}, equality("exact"), task=TASK)

    async def demonstrate(self, text: str = SAID, key: str = "judge/0", **how: Any) -> Any:
        return await self.context.demonstrate("critic", key, "judge", SHOWN, text, **how)

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self.run.release()


async def test_ids_are_those_of_the_models_own_tokenizer_and_template(
    engine: ManagedEngine, tiny: Path, journal: Journal
) -> None:
    from transformers import AutoTokenizer

    with Scene(journal, engine) as scene:
        turn = await scene.demonstrate()
        messages = scene.context.agents["critic"].messages("judge", SHOWN)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    [held] = training_turns(journal, run="r")
    assert held.id == turn.id
    assert held.prompt_ids.tolist() == tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(held.completion_ids[:-1]) == SAID
    assert held.completion_ids[-1] == tokenizer.eos_token_id == 257
    assert 257 not in held.completion_ids[:-1], "the stop token ends it and is there once"


async def test_the_ids_are_those_of_a_generated_turn(engine: ManagedEngine) -> None:
    """The prompt a demonstration is trained behind is, to the token, the one that is generated from."""
    from sparring.agents.engines.base import Request

    messages: Any = ({"role": "system", "content": "S"}, {"role": "user", "content": "q?"})
    [completion] = await engine.generate(Request(messages, Sampling(max_tokens=3), (1,)))
    prompt, said = encode(engine, messages, "")
    assert completion.prompt_ids is not None and prompt.tolist() == completion.prompt_ids.tolist()
    assert (said.tolist(), prompt.dtype, said.dtype) == ([257], np.int32, np.int32)


async def test_it_is_journaled_as_given_by_a_teacher(engine: ManagedEngine, journal: Journal) -> None:
    with Scene(journal, engine) as scene:
        turn = await scene.demonstrate()
        assert scene.context.meter.completion_tokens == len(SAID.encode()) + 1
        assert scene.context.meter.calls == 0, "nobody was asked"
    query = select(Turn, AgentTable.role).join(AgentTable, AgentTable.id == Turn.agent_id)
    [row] = journal.read(query)
    assert (row.logprob_kind, row.engine, row.status, row.role) == ("given", TEACHER, "ok", "critic")
    assert (row.final, row.finish_reason, row.logprobs) == (True, "stop", None)
    assert row.completion_tokens == len(row.completion_ids)
    assert turn.parsed == {"correct": True, "critique": "The sum is 12 – ✓."}
    assert engine.ledger.snapshot()["total"]["calls"] == 0
    assert mean_logprobs(journal, "r") == {}


async def test_a_replay_returns_it_without_another_encode(
    engine: ManagedEngine, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Scene(journal, engine) as scene:
        first = await scene.demonstrate(score=True)
        again = await scene.demonstrate(score=True)
        assert again.id == first.id
    asked: list[Any] = []
    monkeypatch.setattr(ManagedEngine, "encode", lambda *given: asked.append(given))
    monkeypatch.setattr(ManagedEngine, "score", lambda *given: asked.append(given))
    with Scene(journal, engine) as scene:
        replayed = await scene.demonstrate(score=True)
    assert (replayed.id, replayed.replayed, asked) == (first.id, True, [])
    assert len(journal.read(select(Turn.id))) == 1


@pytest.mark.parametrize("text", ["", "It is right.", "<Answer>Correctly</Answer>"])
async def test_a_text_that_the_role_cannot_read_writes_nothing(
    engine: ManagedEngine, journal: Journal, text: str
) -> None:
    with Scene(journal, engine) as scene:
        with pytest.raises(UserError, match="a demonstration of role `critic` does not parse"):
            await scene.demonstrate(text)
        assert journal.read(select(Turn.id)) == [] and journal.read(select(Message.id)) == []
        assert (await scene.demonstrate()).text == SAID, "the episode goes on"


async def test_scores_are_the_engines_and_those_of_a_plain_forward_pass(
    engine: ManagedEngine, tiny: Path, journal: Journal
) -> None:
    from sparring.agents.engines.base import ScoreRequest

    with Scene(journal, engine) as scene:
        await scene.demonstrate(score=True)
    [held] = training_turns(journal, run="r")
    scored = await engine.score(ScoreRequest(held.prompt_ids, held.completion_ids))
    assert held.logprob_kind == "given" and held.logprobs is not None
    np.testing.assert_allclose(held.logprobs, scored.logprobs, atol=1e-5)
    logs = logs_of(reference(tiny), held.prompt_ids, held.completion_ids, 1.0)
    want = logs[np.arange(len(logs)), held.completion_ids.astype(np.int64)].numpy()
    np.testing.assert_allclose(held.logprobs, want, atol=1e-4)
    mean, count = mean_logprobs(journal, "r")["critic"]
    assert (mean, count) == (pytest.approx(float(want.mean()), abs=1e-4), len(want))


@pytest.mark.parametrize("spec", ["http://127.0.0.1:9/v1#m", "langchain:openai:m"])
async def test_an_engine_of_somebody_elses_cannot(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    """It would be trained on ids that were made elsewhere: refused before anything is asked or written."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    async with EnginePool() as pool:
        refused = pytest.raises(CapabilityError, match="cannot take demonstrations; use an embedded model")
        with Scene(journal, pool.get(spec)) as scene, refused:
            await scene.demonstrate()
        assert pool.get(spec).ledger.snapshot()["total"]["calls"] == 0
    assert journal.read(select(Turn.id)) == []


async def test_a_script_gives_the_ids_that_it_generates(journal: Journal) -> None:
    from sparring.agents.engines.base import Request

    script = ScriptedEngine(lambda request, seed: SAID)
    messages: Any = ({"role": "user", "content": "q?"},)
    [completion] = await script.generate(Request(messages, Sampling(), (1,)))
    prompt, said = encode(script, messages, SAID)
    assert completion.prompt_ids is not None and completion.completion_ids is not None
    assert prompt.tolist() == completion.prompt_ids.tolist()
    assert said.tolist() == completion.completion_ids.tolist()
    with pytest.raises(CapabilityError, match="no token ids"):
        encode(ScriptedEngine(lambda request, seed: SAID, ids=False), messages, SAID)


async def test_a_play_of_lessons_on_such_an_engine_begins_nothing(tmp_path: Path) -> None:
    from sparring.graphs.play import aplay, plan

    task = {
        "id": "t", "question": "7 + 5?", "answer": "12", "steps": ["7 + 5 = 12"], "step": 0,
        "wrong": "7 + 5 = 13", "error": 2, "thought": "a slip",
        "critique_correct": "<Answer>Correct</Answer>", "critique_wrong": "<Answer>Incorrect</Answer>",
    }  # fmt: skip
    file = tmp_path / "lessons.jsonl"
    file.write_text(json.dumps(task) + "\n")
    play = plan("sneaky_lesson", file, engine="scripted:hash?ids=off")
    with pytest.raises(CapabilityError, match="cannot take demonstrations"):
        await aplay(play, tmp_path / "j.db", run="r")
    with Journal.open(tmp_path / "j.db") as journal:
        assert journal.read(select(Turn.id)) == []
