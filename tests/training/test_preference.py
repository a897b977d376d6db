"""SFT, DPO and KTO on token ids: what reaches the model, what the losses are, what comes out."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from preference_support import REWARD, Book, Spy, expected, logp, some_pairs, some_samples, total
from tf_support import SIZES, reference, save_tokenizer, version_of
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from sparring.agents.engines.base import ScoreRequest
from sparring.agents.engines.transformers import TransformersEngine
from sparring.errors import UserError
from sparring.memory.journal import Journal
from sparring.training.preference import Fitted, PreferenceSettings, fit
from sparring.training.preference_data import Pair, Sample, pairs, rewarded_turns, samples
from sparring.training.trainer import UpdateStopped
from sparring.training.weights import LoraSettings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy version far from the base, of another shape than what is trained."""
    torch.manual_seed(3)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny), LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
    )
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.2)
    folder = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def base(tiny: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    with Journal.open(tmp_path / "journal.db") as journal:
        yield Book(journal)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy(monkeypatch)


def settings(**fields: Any) -> PreferenceSettings:
    return PreferenceSettings(**{"batch_size": 4, "learning_rate": 2e-3, "schedule": "constant", **fields})


def test_the_model_sees_the_journals_ids_and_the_loss_is_on_the_completion(
    book: Book, base: Any, spy: Spy, tmp_path: Path
) -> None:
    for row in some_pairs():
        said = [(one.prompt_ids, one.completion_ids, one.reward) for one in (row.chosen, row.rejected)]
        book.say(said, task=str(row.turn_ids))
    turns = rewarded_turns(book.journal, "solver", REWARD)
    every = [side for row in some_pairs() for side in (row.chosen, row.rejected)]

    assert fit("sft", base, samples(turns), settings(), tmp_path / "sft").turn_ids == tuple(
        t.id for t in turns
    )
    assert spy.rows("input_ids", "labels") == expected(every)
    spy.batches.clear()
    fit("dpo", base, pairs(turns), settings(), tmp_path / "dpo")
    assert spy.rows("input_ids", "completion_mask") == expected(every)
    [batch] = spy.batches  # better ones first, each with its own rejected one
    for number, row in enumerate(batch["input_ids"][:4]):
        prompt = next(
            p
            for p in some_pairs()
            if p.chosen.completion_ids.tolist() == row[batch["completion_mask"][number].bool()].tolist()
        )
        assert (
            batch["input_ids"][4 + number][batch["completion_mask"][4 + number].bool()].tolist()
            == prompt.rejected.completion_ids.tolist()
        )
    spy.batches.clear()
    fit("kto", base, samples(turns), settings(), tmp_path / "kto")
    assert spy.rows("input_ids", "completion_mask") == expected(every)
    for batch in spy.batches:
        good = [row.completion_ids.tolist() for row in every if row.reward == 1.0]
        for row, mask, label in zip(
            batch["input_ids"], batch["completion_mask"], batch["label"], strict=True
        ):
            assert bool(label) == (row[mask.bool()].tolist() in good)


def test_kto_compares_every_prompt_with_anothers_completion(base: Any, spy: Spy, tmp_path: Path) -> None:
    rows = some_samples(9)  # the last batch of 4 has one row
    fit("kto", base, rows, settings(), tmp_path / "kto")
    own = {tuple(row.prompt_ids.tolist()): row.completion_ids.tolist() for row in rows}
    seen = 0
    for batch in spy.batches:
        others = []
        for row, mask in zip(batch["KL_input_ids"], batch["KL_completion_mask"], strict=True):
            start = int(mask.argmax())
            others.append(row[mask.bool()].tolist())
            assert others[-1] != own[tuple(row[:start].tolist())]
            seen += 1
        if len(others) > 1:  # a batch's completions are the same set
            said = [
                row[m.bool()].tolist()
                for row, m in zip(batch["input_ids"], batch["completion_mask"], strict=True)
            ]
            assert sorted(others) == sorted(said)
    assert seen == 9


def test_sft_loss_is_the_mean_over_completion_tokens(base: Any, tmp_path: Path) -> None:
    rows = some_samples(4)
    fitted = fit("sft", base, rows, settings(), tmp_path / "out")
    parts = [logp(base, row.prompt_ids, row.completion_ids) for row in rows]
    want = -float(torch.cat(parts).mean())
    assert fitted.metrics["loss_first"] == pytest.approx(want, abs=1e-5)
    assert (
        fitted.metrics["tokens"] == sum(len(row.completion_ids) for row in rows)
        and fitted.metrics["rows"] == 4
    )
    shifted = [  # a mask that begins one token early, or ends one early, is far from it
        [
            logp(base, row.prompt_ids[:-1], np.concatenate([row.prompt_ids[-1:], row.completion_ids]))
            for row in rows
        ],
        [part[:-1] for part in parts],
    ]
    assert all(abs(want + float(torch.cat(other).mean())) > 1e-2 for other in shifted)


def test_dpo_begins_at_log_two_and_against_a_version_as_computed_by_hand(
    base: Any, tiny: Path, adapter: Path, tmp_path: Path
) -> None:
    rows, how = some_pairs(), settings(beta=0.3)
    assert fit("dpo", base, rows, how, tmp_path / "a").metrics["loss_first"] == pytest.approx(
        math.log(2), abs=1e-6
    )
    other = reference(tiny, adapter)
    ratios = [
        (total(base, row.chosen) - total(other, row.chosen))
        - (total(base, row.rejected) - total(other, row.rejected))
        for row in rows
    ]
    want = np.mean([math.log1p(math.exp(-0.3 * ratio)) for ratio in ratios])
    against = fit("dpo", base, rows, how, tmp_path / "b", reference=adapter)
    assert abs(want - math.log(2)) > 0.01
    assert against.metrics["loss_first"] == pytest.approx(want, abs=1e-5)
    onward = fit("dpo", other, rows, how, tmp_path / "c")  # from the version on, the base as its reference
    want = np.mean([math.log1p(math.exp(0.3 * ratio)) for ratio in ratios])
    assert onward.metrics["loss_first"] == pytest.approx(want, abs=1e-5)
    same = fit("dpo", other, rows, how, tmp_path / "d", reference=adapter)  # and itself
    assert same.metrics["loss_first"] == pytest.approx(math.log(2), abs=1e-6)


def test_kto_loss_against_a_version_is_equation_seven(
    base: Any, tiny: Path, adapter: Path, spy: Spy, tmp_path: Path
) -> None:
    """Ethayarajh et al. 2024, equations 6 and 7, with the KL term of the batch as it was seen."""
    rows, other = some_samples(6), reference(tiny, adapter)
    how = settings(beta=0.2, batch_size=6, kto_undesirable_weight=0.5)
    fitted = fit("kto", base, rows, how, tmp_path / "out", reference=adapter)

    def ratio(row: Any, mask: Any) -> float:
        said = mask.nonzero()[:, 0]
        prompt, completion = row[: int(said[0])].numpy(), row[said].numpy()
        return float((logp(base, prompt, completion) - logp(other, prompt, completion)).sum())

    batch = spy.batches[0]
    kl = max(
        0.0,
        float(
            np.mean(
                [
                    ratio(*pair)
                    for pair in zip(batch["KL_input_ids"], batch["KL_completion_mask"], strict=True)
                ]
            )
        ),
    )
    losses = []
    for row, mask, label in zip(batch["input_ids"], batch["completion_mask"], batch["label"], strict=True):
        inner = 0.2 * (ratio(row, mask) - kl) * (1 if label else -1)
        losses.append((1.0 if label else 0.5) * (1 - 1 / (1 + math.exp(-inner))))
    assert abs(np.mean(losses) - 0.375) > 1e-3
    assert fitted.metrics["loss_first"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert fit("kto", base, rows, settings(), tmp_path / "own").metrics["loss_first"] == pytest.approx(
        0.5, abs=1e-6
    )


def gaps(model: Any, rows: Sequence[Pair]) -> float:
    return float(np.mean([total(model, row.chosen) - total(model, row.rejected) for row in rows]))


def test_each_objective_moves_what_it_should(base: Any, tiny: Path, tmp_path: Path) -> None:
    rows = some_samples(8)
    good, bad = [r for r in rows if r.reward == 1], [r for r in rows if r.reward == 0]

    def moved(fitted: Fitted, some: list[Sample]) -> float:
        return float(np.mean([total(reference(tiny, fitted.path), r) - total(base, r) for r in some]))

    how = settings(epochs=8)
    sft = fit("sft", base, good, how, tmp_path / "sft")
    assert moved(sft, good) > 1 and sft.metrics["loss_last"] < sft.metrics["loss_first"]
    kto = fit("kto", base, rows, how, tmp_path / "kto")
    assert moved(kto, good) > 1 and moved(kto, bad) < -1
    dpo = fit("dpo", base, some_pairs(), how, tmp_path / "dpo")
    assert gaps(reference(tiny, dpo.path), some_pairs()) > gaps(base, some_pairs()) + 2
    assert dpo.metrics["rewards/accuracies"] == 1.0 and dpo.metrics["steps"] == 8 == len(dpo.history)


async def test_the_engine_serves_what_was_trained(tiny: Path, spy: Spy, tmp_path: Path) -> None:
    engine = TransformersEngine(str(tiny), dtype="float32")
    try:
        [row, *_] = some_samples()

        async def served(adapter: Path | None) -> Any:
            request = ScoreRequest(row.prompt_ids, row.completion_ids, version=version_of(adapter))
            return (await engine.score(request)).logprobs

        before = await served(None)
        fitted = await asyncio.to_thread(
            fit, "sft", engine.shared_base(), some_samples(), settings(epochs=3), tmp_path / "v1"
        )
        after = await served(fitted.path)
        trained = logp(spy.policy.eval(), row.prompt_ids, row.completion_ids).numpy()
        np.testing.assert_allclose(after, trained, atol=1e-4, rtol=0)
        assert np.abs(after - before).max() > 0.1
        # The shared base is what it was; a pass over fewer tokens, the others being kept, rounds otherwise.
        np.testing.assert_allclose(await served(None), before, atol=1e-5, rtol=0)
    finally:
        await engine.close()


def test_the_model_handed_in_stays_as_it_is_and_its_weights_are_shared(
    base: Any, tiny: Path, adapter: Path, spy: Spy, tmp_path: Path
) -> None:
    wrapped = reference(tiny, adapter)
    for model in (base, wrapped):
        names = [name for name, _ in model.named_modules()]
        flags = [tensor.requires_grad for tensor in model.parameters()]
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        fit("dpo", model, some_pairs(), settings(), tmp_path / "out", reference=adapter)
        assert [name for name, _ in model.named_modules()] == names and not model.training
        assert [tensor.requires_grad for tensor in model.parameters()] == flags
        held = {tensor.data_ptr() for name, tensor in model.named_parameters() if "lora_" not in name}
        own = [name for name, tensor in spy.policy.named_parameters() if tensor.data_ptr() not in held]
        assert own and all("lora_" in name for name in own)  # no second base in memory
        assert "forward" not in vars(model) and model.config.pad_token_id == SIZES["pad_token_id"]
        assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_going_on_keeps_the_adapters_shape_and_begins_where_it_was(
    tiny: Path, adapter: Path, tmp_path: Path
) -> None:
    rows, model = some_samples(4), reference(tiny, adapter)
    fitted = fit(
        "sft", model, rows, settings(learning_rate=1e-9), tmp_path / "next", lora=LoraSettings(rank=2)
    )
    want = -float(torch.cat([logp(model, r.prompt_ids, r.completion_ids) for r in rows]).mean())
    assert fitted.metrics["loss_first"] == pytest.approx(want, abs=1e-5)
    assert total(reference(tiny, fitted.path), rows[0]) == pytest.approx(total(model, rows[0]), abs=1e-3)
    assert PeftModel.from_pretrained(reference(tiny), fitted.path).peft_config["default"].r == 4


def test_a_seed_gives_the_same_adapter_and_nothing_else_is_written_or_sent(
    base: Any, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda **what: sent.append(what))
    made = [
        fit(
            "kto", base, some_samples(), settings(seed=seed), tmp_path / str(place), lora=LoraSettings(rank=2)
        )
        for place, seed in enumerate((1, 1, 2))
    ]
    weights = [(one.path / "adapter_model.safetensors").read_bytes() for one in made]
    assert weights[0] == weights[1] != weights[2]
    assert {file.name for one in made for file in one.path.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0", "1", "2"]
    assert capfd.readouterr().out == "" and sent == []


def test_long_rows_are_left_out_and_counted_never_cut(base: Any, spy: Spy, tmp_path: Path) -> None:
    rows = some_samples()
    longest = max(len(row.prompt_ids) + len(row.completion_ids) for row in rows)
    short = [row for row in rows if len(row.prompt_ids) + len(row.completion_ids) < longest]
    fitted = fit("sft", base, rows, settings(max_length=longest - 1), tmp_path / "out")
    assert fitted.metrics["dropped_long"] == len(rows) - len(short) > 0
    assert fitted.metrics["rows"] == len(short)
    assert fitted.turn_ids == tuple(turn for row in short for turn in row.turn_ids)
    assert spy.rows("input_ids", "labels") == expected(short)
    with pytest.raises(UserError, match=r"0 rows to train on.*6 of 6 were longer than max_length 3"):
        fit("sft", base, rows, settings(max_length=3), tmp_path / "none")


@pytest.mark.parametrize(
    ("objective", "data", "how", "reason"),
    [
        ("ppo", some_samples(), {}, "unknown objective `ppo`; known: dpo, kto, sft"),
        ("dpo", some_samples(), {}, "dpo trains on pairs"),
        ("sft", some_pairs(), {}, "sft trains on samples"),
        ("sft", [], {}, "0 rows"),
        ("kto", some_samples(1), {}, "1 rows to train on, 2 needed"),
        ("kto", some_samples(), {"batch_size": 1}, "set batch_size to 2 or more"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_any_work(
    objective: Any, data: Any, how: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=reason):
        fit(objective, None, data, settings(**how), tmp_path / "out")


def test_a_reference_must_be_an_adapter_in_safetensors(base: Any, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text())
    (tmp_path / "pickled" / "adapter_model.bin").write_bytes(b"anything")
    with pytest.raises(UserError, match=r"has no adapter_model\.safetensors"):
        fit("dpo", base, some_pairs(), settings(), tmp_path / "out", reference=tmp_path / "pickled")
    with pytest.raises(UserError, match="sft holds to no reference"):
        fit("sft", base, some_samples(), settings(), tmp_path / "out", reference=adapter)


def test_a_loss_that_explodes_or_is_no_number_leaves_nothing(base: Any, tmp_path: Path) -> None:
    with pytest.raises(UpdateStopped, match="loss was"):
        fit("sft", base, some_samples(), settings(max_loss=0.5), tmp_path / "out")
    with torch.no_grad():
        base.model.norm.weight[0] = math.nan
    with pytest.raises(UpdateStopped, match="loss was nan at step 1"):
        fit("sft", base, some_samples(), settings(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
