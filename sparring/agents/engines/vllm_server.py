"""What `vllm serve` can do beyond the common API: take adapters at run time, score given tokens, and give the
log-probability a token was really drawn with."""

from __future__ import annotations

from typing import Any

import openai

from sparring.agents.engines.base import Scored, ScoreRequest
from sparring.agents.engines.endpoints import Endpoint
from sparring.agents.engines.prompt_scores import Held, scored, whole
from sparring.errors import CapabilityError, EngineError

NO_ADAPTERS = (
    "takes no adapters at run time: start it with --enable-lora --max-lora-rank 16 and "
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment"
)
_QUESTION = [{"role": "user", "content": "Name a colour."}]


async def takes_adapters(endpoint: Endpoint) -> bool:
    """Whether the server has the route for them; an empty request changes nothing."""
    try:
        await _post(endpoint, "/load_lora_adapter", {})
    except openai.APIStatusError as error:
        return error.status_code not in (404, 405)
    return True


async def load_adapter(endpoint: Endpoint, name: str, folder: str) -> None:
    """Make an adapter folder, which the server must be able to read, known under a name.

    Raises:
        CapabilityError: the server takes none.
    """
    if name in endpoint.adapters:
        return
    try:
        await _post(endpoint, "/load_lora_adapter", {"lora_name": name, "lora_path": folder})
    except openai.APIStatusError as error:
        if error.status_code == 404 and "lora" not in error.response.text.lower():
            raise CapabilityError(f"{endpoint.url} {NO_ADAPTERS}") from error
        if "already" not in error.response.text:  # another program, or we before a restart, loaded it
            raise
    endpoint.adapters.add(name)


async def tempers(endpoint: Endpoint, model: str) -> bool:
    """Whether log-probabilities are of logits / temperature (`--logprobs-mode processed_logprobs`).

    Measured: at half the temperature two first tokens are then twice as far apart. Where they cannot be told
    apart the answer is no, which refuses nothing but training on what was drawn.
    """
    warm, cold = [await _likeliest(endpoint, model, temperature) for temperature in (1.0, 0.5)]
    both = sorted(warm.keys() & cold.keys(), key=lambda token: warm[token])
    if len(both) < 2:
        return False
    apart = [held[both[-1]] - held[both[0]] for held in (warm, cold)]
    return apart[0] > 1e-2 and apart[1] > 1.5 * apart[0]


async def _likeliest(endpoint: Endpoint, model: str, temperature: float) -> dict[str, float]:
    """Log-probabilities of some first tokens, the one that was drawn among them."""
    reply = await endpoint.client.chat.completions.create(
        model=model,
        messages=_QUESTION,  # type: ignore[arg-type]  # a plain dict is what it sends
        temperature=temperature,
        max_tokens=1,
        logprobs=True,
        top_logprobs=5,
    )
    held = reply.choices[0].logprobs
    return {one.token: one.logprob for one in held.content[0].top_logprobs} if held and held.content else {}


async def score(endpoint: Endpoint, model: str, request: ScoreRequest) -> Scored:
    """Log-probabilities of a continuation. Raises `CapabilityError` where vLLM cannot give them."""
    ids = whole(request, endpoint.url).tolist()
    reply: Any = await endpoint.client.completions.create(
        model=model, prompt=ids, max_tokens=1, extra_body={"prompt_logprobs": request.top_k}
    )
    rows = getattr(reply.choices[0], "prompt_logprobs", None) if reply.choices else None
    if not rows or len(rows) != len(ids):
        raise EngineError(f"{endpoint.url}: an answer without the log-probabilities of the prompt")
    return scored([_read(row) for row in rows], request)


def _read(row: Any) -> dict[int, Held]:
    """One position; the first one has none."""
    return {int(token): Held(one["rank"], one["logprob"]) for token, one in (row or {}).items()}


async def _post(endpoint: Endpoint, path: str, body: dict[str, Any]) -> None:
    await endpoint.client.post(path, cast_to=str, body=body)
