"""Reward models of Hugging Face form as engines that rate: `orm:MODEL` and `prm:MODEL`.

    orm   a sequence classifier with one output (Skywork, Ultra, DeBERTa): sigmoid of its logit, one score
          for a whole solution, as MAgICoRe takes InternLM2-reward (2409.12147)
    prm   a causal model that was taught to say `+` or `-` at a tag after each step (Math-Shepherd,
          2312.08935): the share of `+` among the two, one score for each step

They write nothing. Solutions are rated in batches of like lengths, in float32 by default.
"""

from __future__ import annotations

import asyncio
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparring.agents.engines.base import (
    Capabilities,
    Completion,
    Rated,
    Request,
    Scored,
    ScoreRequest,
    Solved,
)
from sparring.agents.models import checkpoint_hash, quiet
from sparring.errors import CapabilityError, EngineError, UserError

if TYPE_CHECKING:
    from torch import Tensor

TOKENS_A_PASS = 16_384
"""Tokens of a batch, padding included."""


class RewardModel(ABC):
    """What the two have in common: loading, batching, refusing to speak."""

    form = ""
    head = ""
    """How the class names end that such a checkpoint may have."""

    def __init__(
        self, model: str, *, dtype: str = "float32", device: str = "auto", max_batch: int = 32
    ) -> None:
        if dtype not in ("bfloat16", "float32", "auto"):
            raise UserError(f"dtype must be bfloat16, float32 or auto, not {dtype}")
        if max_batch < 1:
            raise UserError("max_batch must be at least 1")
        if not model:
            raise UserError(f"engine `{self.form}:`: name a model, as in `{self.form}:ORG/NAME` or a folder")
        self.spec, self._name = f"{self.form}:{model}", model
        self._dtype, self._device, self._max_batch = dtype, device, max_batch
        self._guard = threading.Lock()
        self._model: Any = None
        self._tokenizer: Any = None
        self._base = ""

    async def start(self) -> None:
        """Load the model now.

        Raises:
            UserError: no such model, or one without the head that is needed.
        """
        await asyncio.to_thread(self._load)

    async def generate(self, request: Request) -> list[Completion]:
        raise CapabilityError(f"`{self.spec}` is a reward model: it rates solutions and says nothing")

    async def score(self, request: ScoreRequest) -> Scored:
        raise CapabilityError(f"`{self.spec}` is a reward model: it has no log-probabilities of words")

    def capabilities(self) -> Capabilities:
        self._load()
        return Capabilities(rates=self.form, base=self._base, dtype=self._dtype, context_tokens=self._context)

    async def close(self) -> None:
        self._model = None

    async def rate(self, solutions: Sequence[Solved]) -> list[Rated]:
        """Scores of solutions, in their order.

        Raises:
            EngineError: the model gave something that is no number.
        """
        return await asyncio.to_thread(self._rate, solutions)

    @property
    def _context(self) -> int:
        return int(getattr(self._model.config, "max_position_embeddings", None) or 4096)

    def _load(self) -> None:
        with self._guard:
            if self._model is not None:
                return
            import torch
            from transformers import AutoTokenizer

            from sparring.agents.engines.transformers.loading import local_folder

            quiet()
            folder = local_folder(self._name)
            self._right_head(folder)
            tokenizer = AutoTokenizer.from_pretrained(folder)
            if tokenizer.pad_token_id is None:
                tokenizer.pad_token = tokenizer.eos_token
            where = self._device
            if where == "auto":
                where = "cuda" if torch.cuda.is_available() else "cpu"
            kind = self._dtype if self._dtype == "auto" else getattr(torch, self._dtype)
            model = self._open(folder, kind)
            model.config.pad_token_id = tokenizer.pad_token_id
            model.requires_grad_(False)
            self._tokenizer, self._base = tokenizer, checkpoint_hash(folder)
            self._model = model.train(False).to(where)

    def _right_head(self, folder: Path) -> None:
        """transformers would give a checkpoint without the head a random one, and say so in a warning."""
        try:
            classes = json.loads((folder / "config.json").read_text()).get("architectures") or []
        except (OSError, ValueError) as error:
            raise UserError(f"`{self.spec}`: no readable config.json in {folder}") from error
        if not any(name.endswith(self.head) for name in classes):
            found = ", ".join(classes) or "nothing"
            raise UserError(
                f"`{self.spec}` has the wrong head: it needs a *{self.head}, the checkpoint holds {found}"
            )

    @abstractmethod
    def _open(self, folder: Path, kind: Any) -> Any:
        """The model of the right class."""

    @abstractmethod
    def _ids(self, solved: Solved) -> tuple[list[int], list[int]]:
        """Token ids of a solution (T,), and the places in it that are read."""

    @abstractmethod
    def _values(self, model: Any, ids: Tensor, mask: Tensor, places: list[list[int]]) -> list[list[float]]:
        """Scores of a batch (B, T), those of each row."""

    def _rate(self, solutions: Sequence[Solved]) -> list[Rated]:
        self._load()
        found: list[Rated] = [Rated(None) for _ in solutions]
        rows: list[tuple[int, list[int], list[int]]] = []
        for place, solved in enumerate(solutions):
            ids, places = self._ids(solved)
            if len(ids) > self._context:
                why = f"{len(ids)} tokens are too many for a context of {self._context}"
                found[place] = Rated(None, len(ids), why)
            else:
                rows.append((place, ids, places))
        with self._guard:  # one batch at a time; torch uses the cores it may
            for batch in self._batches(sorted(rows, key=lambda row: len(row[1]))):
                for (place, ids, _), values in zip(batch, self._pass(batch), strict=True):
                    found[place] = Rated(tuple(values), len(ids))
        return found

    def _batches(
        self, rows: list[tuple[int, list[int], list[int]]]
    ) -> Iterator[list[tuple[int, list[int], list[int]]]]:
        batch: list[tuple[int, list[int], list[int]]] = []
        for row in rows:  # growing lengths: the newest is the widest
            if batch and (len(batch) == self._max_batch or (len(batch) + 1) * len(row[1]) > TOKENS_A_PASS):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _pass(self, batch: list[tuple[int, list[int], list[int]]]) -> list[list[float]]:
        import torch

        width, pad = len(batch[-1][1]), self._tokenizer.pad_token_id
        ids = torch.tensor(
            [row + [pad] * (width - len(row)) for _, row, _ in batch], device=self._model.device
        )
        mask = torch.tensor(
            [[1] * len(row) + [0] * (width - len(row)) for _, row, _ in batch], device=ids.device
        )
        with torch.inference_mode():
            values = self._values(self._model, ids, mask, [places for _, _, places in batch])
        if any(value != value for row in values for value in row):
            raise EngineError(f"`{self.spec}` gave NaN; try `?dtype=float32`")
        return values


class OutcomeModel(RewardModel):
    """`orm:MODEL`: one score in 0..1 of a whole solution."""

    form, head = "orm", "ForSequenceClassification"

    def _open(self, folder: Path, kind: Any) -> Any:
        from transformers import AutoModelForSequenceClassification

        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=kind, use_safetensors=True)
        if model.config.num_labels != 1:
            raise UserError(
                f"`{self.spec}` has the wrong head: a reward model has one output, this classifier "
                f"{model.config.num_labels}"
            )
        return model

    def _ids(self, solved: Solved) -> tuple[list[int], list[int]]:
        tokenizer = self._tokenizer
        if tokenizer.chat_template:
            said = [
                {"role": "user", "content": solved.question},
                {"role": "assistant", "content": solved.text},
            ]
            text = tokenizer.apply_chat_template(said, tokenize=False)
            return list(tokenizer.encode(text, add_special_tokens=False)), []
        return list(tokenizer(solved.question, solved.text)["input_ids"]), []

    def _values(self, model: Any, ids: Tensor, mask: Tensor, places: list[list[int]]) -> list[list[float]]:
        logits = model(input_ids=ids, attention_mask=mask).logits.float()
        return [[float(value)] for value in logits[:, 0].sigmoid().cpu()]


class ProcessModel(RewardModel):
    """`prm:MODEL`: a score in 0..1 of each step.

    Args:
        tag: What stands after each step; it is read at its last token.
        good, bad: The two words between which the model chooses there.
    """

    form, head = "prm", "ForCausalLM"

    def __init__(
        self, model: str, *, tag: str = "ки", good: str = "+", bad: str = "-", **options: Any
    ) -> None:
        super().__init__(model, **options)
        if not tag.strip() or not good.strip() or not bad.strip() or good == bad:
            raise UserError("`tag`, `good` and `bad` are words, the last two different ones")
        self._tag, self._choice = tag, (good, bad)

    def _open(self, folder: Path, kind: Any) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(folder, dtype=kind, use_safetensors=True)

    def _ids(self, solved: Solved) -> tuple[list[int], list[int]]:
        text, ends = solved.question, []
        for number, step in enumerate(solved.steps):
            text += ("\n" if number else " ") + f"{step} {self._tag}"
            ends.append(len(text))
        made = self._tokenizer(text, return_offsets_mapping=True)
        # By position and not by id: a tag that a solution forges is not read.
        last = {end: place for place, (start, end) in enumerate(made["offset_mapping"]) if end > start}
        missing = [end for end in ends if end not in last]
        if missing:
            raise EngineError(
                f"`{self.spec}`: its tokenizer merges the tag `{self._tag}` with what follows it"
            )
        return list(made["input_ids"]), [last[end] for end in ends]

    def _values(self, model: Any, ids: Tensor, mask: Tensor, places: list[list[int]]) -> list[list[float]]:
        logits = model(input_ids=ids, attention_mask=mask).logits
        words = [self._tokenizer.encode(word, add_special_tokens=False)[-1] for word in self._choice]
        if words[0] == words[1]:
            raise UserError(f"`{self.spec}`: `good` and `bad` end in the same token")
        found = []
        for row, read in zip(logits, places, strict=True):
            shares = row[read][:, words].float().softmax(-1)[:, 0]
            found.append([float(value) for value in shares.cpu()])
        return found
