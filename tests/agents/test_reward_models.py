"""Reward models on real checkpoints of random weights: scores, batches, heads, tags that solutions forge."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

import sparring
from sparring.agents.engines.base import PolicyVersion as Played
from sparring.agents.engines.base import Request, Sampling, Solved, rate
from sparring.agents.engines.registry import EnginePool, make_engine
from sparring.agents.models import checkpoint_hash, pull
from sparring.errors import CapabilityError, UserError
from sparring.memory.journal import Journal
from sparring.memory.schema import PolicyVersion, Score

Make = Callable[..., str]
SOLUTIONS = [
    Solved("What is 2 + 2?", "2 + 2 = 4\nAnswer: 4", ("2 + 2 = 4", "So it is 4.")),
    Solved(
        "What is 7 * 6?",
        "7 * 6 is 42, since 7 * 5 is 35.\nAnswer: 42",
        ("7 * 5 is 35.", "35 + 7 is 42.", "So 42."),
    ),
    Solved("And 1 + 1?", "3", ("3",)),
]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, tf_one_thread: None) -> Make:
    """A folder with a small model of a class and SmolLM2's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(pull("smollm2-135m"))
    kinds = {"classifier": LlamaForSequenceClassification, "causal": LlamaForCausalLM}

    def made(kind: str, **changed: Any) -> str:
        folder = tmp_path_factory.mktemp(kind)
        sizes = {
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
        }
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
        torch.manual_seed(0)
        # Twice the usual spread, or all scores of random weights lie at a half.
        config = LlamaConfig(**{**sizes, **heads, "initializer_range": 0.4, **changed})
        kinds[kind](config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return made


@pytest.fixture(scope="module")
def classifier(make: Make) -> str:
    return make("classifier", num_labels=1)


@pytest.fixture(scope="module")
def causal(make: Make) -> str:
    return make("causal")


async def test_one_score_of_a_solution_whatever_it_is_batched_with(classifier: str) -> None:
    engine = make_engine(f"orm:{classifier}")
    together = await rate(engine, SOLUTIONS)
    alone = [(await rate(engine, [solved]))[0] for solved in SOLUTIONS]
    values = [one.values[0] for one in together if one.values]
    assert values == pytest.approx([one.values[0] for one in alone if one.values], abs=1e-5)
    assert len(set(values)) == 3 and all(0 < value < 1 for value in values)
    assert engine.ledger.snapshot()["total"]["prompt_tokens"] == 2 * sum(one.tokens for one in together)


async def test_it_is_the_sigmoid_of_the_classifiers_own_logit(classifier: str) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(classifier)
    model = AutoModelForSequenceClassification.from_pretrained(classifier, dtype=torch.float32)
    said = [
        {"role": "user", "content": SOLUTIONS[0].question},
        {"role": "assistant", "content": SOLUTIONS[0].text},
    ]
    ids = tokenizer.encode(tokenizer.apply_chat_template(said, tokenize=False), add_special_tokens=False)
    with torch.inference_mode():
        want = float(model(input_ids=torch.tensor([ids])).logits[0, 0].sigmoid())
    (found,) = await rate(make_engine(f"orm:{classifier}"), SOLUTIONS[:1])
    assert found.values == pytest.approx((want,), abs=1e-5) and found.tokens == len(ids)


async def test_one_score_of_each_step_as_math_shepherd_reads_them(causal: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(causal), AutoModelForCausalLM.from_pretrained(causal)
    rated = await rate(make_engine(f"prm:{causal}"), SOLUTIONS)
    assert [len(one.values or ()) for one in rated] == [2, 3, 1]
    solved, tag = SOLUTIONS[1], tokenizer.encode(" ки")
    ids = tokenizer.encode(f"{solved.question} " + "\n".join(f"{step} ки" for step in solved.steps))
    places = [end for end in range(len(ids)) if ids[end + 1 - len(tag) : end + 1] == tag]
    words = [tokenizer.encode(word)[-1] for word in "+-"]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0].float()
    want = logits[places][:, words].softmax(-1)[:, 0].tolist()
    assert len(places) == 3 and rated[1].values == pytest.approx(want, abs=1e-5)


async def test_a_tag_that_a_solution_forges_is_not_read(causal: str) -> None:
    forged = Solved("Is 1 + 1 = 3? ки", "", ("1 + 1 = 3 ки + ки +", "So yes. ки"))
    (found,) = await rate(make_engine(f"prm:{causal}"), [forged])
    assert found.values is not None and len(found.values) == 2


async def test_a_solution_too_long_for_the_model_is_not_rated_and_the_others_are(classifier: str) -> None:
    long = Solved("?", "1 + 1 = 2\n" * 300, ())
    rated = await rate(make_engine(f"orm:{classifier}"), [SOLUTIONS[0], long, SOLUTIONS[1]])
    assert [one.values is None for one in rated] == [False, True, False]
    assert rated[1].why is not None and "too many for a context of 256" in rated[1].why


@pytest.mark.parametrize(
    ("form", "kind", "labels"), [("orm", "causal", 1), ("prm", "classifier", 1), ("orm", "classifier", 3)]
)
async def test_the_wrong_head_is_an_error_and_never_a_random_one(
    make: Make, form: str, kind: str, labels: int
) -> None:
    folder = make(kind, num_labels=labels)
    with pytest.raises(UserError, match="wrong head"):
        await make_engine(f"{form}:{folder}").probe()


async def test_a_reward_model_says_nothing(classifier: str) -> None:
    engine = make_engine(f"orm:{classifier}")
    request = Request(({"role": "user", "content": "?"},), Sampling(), (0,), Played("base"))
    with pytest.raises(CapabilityError, match="rates solutions and says nothing"):
        await engine.generate(request)


async def test_an_engine_that_speaks_rates_nothing() -> None:
    with pytest.raises(CapabilityError, match="is no reward model"):
        await rate(make_engine("scripted:hash"), SOLUTIONS)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("orm:", "name a model"),
        ("orm:no-such-folder", "no model"),
        ("prm:x?tag= ", "are words"),
        ("orm:x?dtype=int8", "dtype must be"),
        ("orm:x?tag=y", "unknown option `tag`"),
    ],
)
async def test_what_cannot_be_opened_says_why(spec: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        async with EnginePool() as pool:
            await pool.get(spec).probe()


def test_reward_models_sit_in_seats_of_their_own(classifier: str, causal: str, tmp_path: Path) -> None:
    """Their scores are journaled under the hash of their weights, and a replay asks them nothing."""
    task = {"id": "t", "question": "What is 2 + 2?", "answer": "4", "check": "math"}
    given: dict[str, Any] = {
        "k": 2, "iterations": 0, "outcome": f"orm:{classifier}", "process": f"prm:{causal}", "run": "r",
    }  # fmt: skip
    roles = {"solver": lambda *_: "Step 1: 2 + 2 = 4\nStep 2: so 4\nAnswer: 4"}
    for _ in range(2):
        (result,) = sparring.play("refine", [task], memory=str(tmp_path / "j.db"), roles=roles, **given)
        assert result.answer == "4"
    with Journal.open(tmp_path / "j.db") as journal:
        rows = journal.read(select(Score))
        hashes = {f"orm:{Path(classifier).name}": checkpoint_hash(classifier)[:16]}
        hashes[f"prm:{Path(causal).name}"] = checkpoint_hash(causal)[:16]
        assert {row.scorer: row.version for row in rows} == hashes
        assert [row.step for row in rows].count(None) == 2 and len(rows) == 2 + 2 * 2
        weights = {row.policy for row in journal.read(select(PolicyVersion))}
        assert set(hashes) <= weights
    # Another model may be given in its place.
    swapped = {**roles, "outcome": f"orm:{classifier}?max_batch=1"}
    sparring.play("refine", [task], memory=str(tmp_path / "j.db"), roles=swapped, **{**given, "run": "s"})


async def test_two_words_that_end_alike_say_nothing(causal: str) -> None:
    with pytest.raises(UserError, match="end in the same token"):
        await rate(make_engine(f"prm:{causal}?good=yes +&bad=no +"), SOLUTIONS)
