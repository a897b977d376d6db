"""Specs and options: what they give, and what a wrong one says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sparring.agents.engines.base import Request, Sampling
from sparring.agents.engines.layer import ManagedEngine
from sparring.agents.engines.registry import EnginePool, make_engine
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.errors import UserError

REQUEST = Request(({"role": "user", "content": "What is 3 + 4?"},), Sampling(), (1,))


async def test_a_script_file(tmp_path: Path) -> None:
    path = tmp_path / "script.jsonl"
    path.write_text(json.dumps({"replies": ["Answer: 7"]}))
    engine = make_engine(f"scripted:{path}?ids=off")
    (completion,) = await engine.generate(REQUEST)
    assert completion.text == "Answer: 7" and completion.completion_ids is None
    assert isinstance(engine.inner, ScriptedEngine)


def test_options_reach_the_policy_and_win_over_the_spec() -> None:
    engine = make_engine("scripted:hash?rpm=60&timeout=30&price_in=0.5&tries=2", timeout=5, concurrency=None)
    policy = engine.policy
    assert (policy.rpm, policy.timeout, policy.price_in, policy.tries) == (60.0, 5.0, 0.5, 2)
    assert policy.concurrency is None and policy.cache is None


def test_servers_get_the_policy_for_servers() -> None:
    engine = make_engine("http://127.0.0.1:9/v1#some/model?rpm=60&logprobs=off")
    assert (engine.policy.tries, engine.policy.concurrency, engine.policy.rpm) == (5, 64, 60.0)
    assert engine.capabilities().base == "remote:some/model" and not engine.capabilities().logprobs


def test_the_shown_spec_has_what_changes_answers_and_no_more() -> None:
    assert make_engine("scripted:hash?rpm=6&ids=off&delay_s=0").spec == "scripted:hash?ids=off"
    secret = make_engine("http://127.0.0.1:9/v1#m", api_key="sk-secret", logprobs=True)
    assert secret.spec == "http://127.0.0.1:9/v1#m?logprobs=on"
    assert make_engine("scripted:hash?tries=2").spec == make_engine("scripted:hash").spec


def test_the_cache_is_off_on_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path))
    assert make_engine("scripted:hash?cache=off").policy.cache is None
    assert make_engine("scripted:hash?cache=on").policy.cache == tmp_path / "responses.sqlite"
    assert make_engine(f"scripted:hash?cache={tmp_path}/mine").policy.cache == tmp_path / "mine"


async def test_objects_and_functions() -> None:
    scripted = ScriptedEngine("hash")
    managed = make_engine(scripted, tries=3)
    assert managed.inner is scripted and managed.policy.tries == 3
    assert make_engine(managed) is managed
    with pytest.raises(UserError, match="has its options already"):
        make_engine(managed, tries=2)
    (completion,) = await make_engine(lambda request, seed: f"seed {seed}").generate(REQUEST)
    assert completion.text == "seed 1"
    with pytest.raises(UserError, match="int is no engine; give an Engine"):
        make_engine(7)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            "scripted:hash?colour=red",
            r"unknown option `colour` of a scripted engine; known: .*rpm \(number\)",
        ),
        ("scripted:hash?ids=maybe", r"ids=maybe: must be on\|off"),
        ("scripted:hash?tries=2.5", r"tries=2.5: must be whole number"),
        ("scripted:hash?tries=0", "tries must be at least 1"),
        ("scripted:hash?rpm", r"write options as \?name=value"),
        ("scripted:hash?bytes_per_token=9", "between 1 and 8"),
        ("scripted:nowhere", "known: echo, hash"),
        ("smollm2-135m?rpm=a", "rpm=a: must be number"),
        (
            "smollm2-135m?ids=off",
            r"unknown option `ids` of a transformers engine; known: .*max_batch \(whole",
        ),
        ("anthropic:claude", r"unknown engine `anthropic:claude`; known forms: scripted:FILE.*http://HOST"),
        ("", "unknown engine ``"),
        ("vllm:some/model?max_batch=3", "unknown option `max_batch` of a vllm engine; known: .*max_num_seqs"),
        ("http://127.0.0.1:9/v1", "name the model after #, as in http://127.0.0.1:9/v1#MODEL"),
        ("http://me:pw@127.0.0.1/v1#m", "hold no password"),
        ("http://127.0.0.1:9/v1,ftp://x#m", "`ftp://x` must start with http"),
        ("http://127.0.0.1:9/v1#m?api_key=sk-1", "would end up in the journal"),
        ("http://127.0.0.1:9/v1?rpm=60#m", r"options stand behind the model's name: URL#MODEL\?name=value"),
        ("langchain:openai", "name provider and model"),
    ],
)
def test_wrong_specs_say_what_to_do(spec: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        make_engine(spec)
    assert "\n" not in str(caught.value)


async def test_a_pool_shares_one_engine_per_spec_and_closes_all(tmp_path: Path) -> None:
    log = tmp_path / "calls"
    async with EnginePool() as pool:
        one = pool.get(f"scripted:hash?call_log={log}&tries=2")
        assert (
            one
            is pool.get(f"scripted:hash?tries=2&call_log={log}")
            is pool.get("scripted:hash", call_log=str(log), tries="2")
        )
        assert one is not pool.get("scripted:hash")
        mine = ScriptedEngine("echo")
        assert pool.get(mine) is pool.get(mine) is not pool.get(ScriptedEngine("echo"))
    assert isinstance(one, ManagedEngine) and isinstance(one.inner, ScriptedEngine)
    assert one.inner._log is None


async def test_service_options_alone_share_the_backend() -> None:
    async with EnginePool() as pool:
        patient, hasty = pool.get("scripted:hash"), pool.get("scripted:hash?timeout=5")
        assert patient is not hasty and patient.inner is hasty.inner and hasty.policy.timeout == 5
        assert pool.get("scripted:hash?ids=off").inner is not patient.inner
        await patient.generate(REQUEST)
        await hasty.generate(REQUEST)
        assert pool.ledgers()["scripted:hash"]["total"]["calls"] == 2


async def test_specs_that_differ_in_capacity_are_one_model() -> None:
    async with EnginePool() as pool:
        small = pool.get("smollm2-135m?dtype=float32&max_batch=8&prefix_cache_gib=0.1")
        assert pool.get("smollm2-135m?dtype=float32") is small, "the canonical spec leads to the same model"
        assert pool.get("smollm2-135m?dtype=float32&timeout=5").inner is small.inner
        assert pool.get("smollm2-135m").inner is not small.inner, "another dtype is another model"


async def test_a_discarded_engine_is_made_anew(tmp_path: Path) -> None:
    async with EnginePool() as pool:
        first, other = pool.get("scripted:hash"), pool.get("scripted:echo")
        hasty = pool.get("scripted:hash?timeout=5")
        await pool.discard("scripted:hash")
        again = pool.get("scripted:hash")
        assert again.inner is not first.inner and pool.get("scripted:hash?timeout=5") is not hasty
        assert pool.get("scripted:echo") is other
        await pool.discard("scripted:nothing")


async def test_a_pool_closes_the_others_when_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    async def close(engine: ScriptedEngine) -> None:
        closed.append(engine.spec)
        if engine.spec == "scripted:hash":
            raise OSError("cannot close")

    monkeypatch.setattr(ScriptedEngine, "close", close)
    pool = EnginePool()
    pool.get("scripted:hash")
    pool.get("scripted:echo")
    with pytest.raises(OSError, match="cannot close"):
        await pool.close()
    assert closed == ["scripted:hash", "scripted:echo"]


async def test_an_engine_that_was_handed_in_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[ScriptedEngine] = []

    async def close(engine: ScriptedEngine) -> None:
        closed.append(engine)

    monkeypatch.setattr(ScriptedEngine, "close", close)
    mine = ScriptedEngine("hash")
    async with EnginePool() as pool:
        pool.get(mine)
        pool.get(make_engine(mine))
        ours = pool.get("scripted:hash").inner
    assert closed == [ours]


def test_the_registry_imports_no_heavy_library() -> None:
    code = (
        "import sys; import sparring.agents.engines.registry as r; r.make_engine('scripted:hash');"
        "print([m for m in ('torch', 'transformers', 'langchain', 'openai', 'langgraph', 'sqlalchemy')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.model
@pytest.mark.slow
async def test_the_embedded_engine_by_its_catalogue_name(tmp_path: Path) -> None:
    spec = f"smollm2-135m?dtype=float32&max_batch=4&cache={tmp_path}/cache.sqlite"
    async with EnginePool() as pool:
        engine = pool.get(spec)
        assert engine.spec == "smollm2-135m?dtype=float32" and engine.policy.tries == 1
        await engine.probe()
        request = Request(REQUEST.messages, Sampling(temperature=0, max_tokens=8), (1,))
        (first,), (again,) = await engine.generate(request), await engine.generate(request)
        assert first.text == again.text and again.cached and not first.cached
        assert first.completion_ids is not None and again.completion_ids is not None
        assert first.completion_ids.tolist() == again.completion_ids.tolist()


async def test_an_unknown_model_is_said_before_any_work() -> None:
    with pytest.raises(UserError, match="no-such-model"):
        await make_engine("no-such-model").probe()
