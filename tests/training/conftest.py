"""The journal fixtures of `tests/memory`, so that these tests run on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parents[1] / room) for room in ("agents", "memory")]

_spec = spec_from_file_location("memory_conftest", Path(__file__).parents[1] / "memory" / "conftest.py")
assert _spec is not None and _spec.loader is not None
_fixtures = module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)
template, databases, database = _fixtures.template, _fixtures.databases, _fixtures.database
memory, journal = _fixtures.memory, _fixtures.journal


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For tests of a model: several threads gain nothing on tiny tensors and take turns on few cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tf_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with a tiny random llama and a byte tokenizer."""
    import torch
    from tf_support import SIZES, save_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(folder)
    save_tokenizer(folder)
    return folder
