"""Tiny random models, adapters and an engine for the tests of the embedded engine; names begin with `tf_`."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_asyncio
from tf_support import SIZES, save_tokenizer


@pytest.fixture(scope="session")
def tf_one_thread():
    """Tiny products gain nothing from threads that wait for each other on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", params=["llama", "qwen2"])
def tf_tiny(request, tmp_path_factory, tf_one_thread) -> Path:
    """A checkpoint folder; random but sharp, so that a wrong mask or position shows."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp(request.param)
    model = (
        LlamaForCausalLM(LlamaConfig(**SIZES))
        if request.param == "llama"
        else Qwen2ForCausalLM(Qwen2Config(**SIZES, sliding_window=None, use_sliding_window=False))
    )
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tf_adapters(tf_tiny, tmp_path_factory) -> list[Path]:
    """Two LoRA adapters with weights far from zero, of different ranks and targets."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folders = []
    for number, (rank, targets) in enumerate([(4, ["q_proj", "v_proj", "down_proj"]), (8, "all-linear")]):
        torch.manual_seed(100 + number)
        model = AutoModelForCausalLM.from_pretrained(tf_tiny)
        wrapped = get_peft_model(model, LoraConfig(r=rank, lora_alpha=16, target_modules=targets))
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.1)
        folders.append(tmp_path_factory.mktemp(f"adapter{number}"))
        wrapped.save_pretrained(folders[-1])
    return folders


@pytest.fixture
async def tf_engine(tf_tiny):
    from sparring.agents.engines.transformers import TransformersEngine

    engine = TransformersEngine(str(tf_tiny), dtype="float32", max_batch=16)
    yield engine
    await engine.close()


@pytest.fixture(scope="module")
def smol_adapters(tmp_path_factory) -> list:
    """Two LoRA adapters of the catalogue model, far from zero, as policy versions."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tf_support import version_of
    from transformers import AutoModelForCausalLM

    from sparring.agents import models

    made = []
    for number in range(2):
        torch.manual_seed(number)
        model = AutoModelForCausalLM.from_pretrained(models.pull("smollm2-135m"), dtype=torch.float32)
        wrapped = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.05)
        folder = tmp_path_factory.mktemp(f"adapter{number}")
        wrapped.save_pretrained(folder)
        made.append(version_of(folder))
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def smol_embedded():
    from sparring.agents.engines.transformers import TransformersEngine

    engine = TransformersEngine("smollm2-135m", dtype="float32")
    yield engine
    await engine.close()
