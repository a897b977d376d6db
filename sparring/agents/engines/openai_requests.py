"""What goes to an OpenAI-compatible server, and whether it is there: client, fields, connection."""

from __future__ import annotations

from typing import Any, TypedDict
from urllib.parse import urlsplit

import openai

from sparring.agents.engines.base import Sampling
from sparring.agents.engines.http_status import DOWN


class Wants(TypedDict, total=False):
    """Optional fields of a request; None asks and does without where the server refuses."""

    logprobs: bool | None
    token_ids: bool | None
    """None asks where the server says that it is vLLM."""
    seeds: bool | None
    """vLLM on a CPU does not refuse a seed, it dies of it: there say False."""


def client(url: str, key: str) -> openai.AsyncOpenAI:
    """A client without retries and time-outs of its own: the engine layer has them, once for all."""
    limits = openai.Timeout(None, connect=20.0)
    # A proxy named in the environment cannot reach this machine's own loopback.
    loopback = urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
    http = openai.DefaultAsyncHttpxClient(trust_env=False, timeout=limits) if loopback else None
    return openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=limits, http_client=http)


def is_down(error: openai.APIError) -> bool:
    """The server is not there, so another endpoint may answer. A time-out is one too: of connecting, or of
    asking for a sign of life, since nothing else has one here."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in DOWN
    return isinstance(error, openai.APIConnectionError)


def extra_fields(sampling: Sampling, *, everything: bool) -> dict[str, Any]:
    """Sampling fields beyond OpenAI's own, under vLLM's names, which other servers share.

    `everything` sends them at their neutral values too: vLLM takes what is missing from the model's
    generation settings, and a hidden top-k would make a lie of the log-probability's kind.
    """
    fields = {
        "top_k": (sampling.top_k or -1, sampling.top_k > 0),
        "min_p": (sampling.min_p, sampling.min_p > 0),
        "repetition_penalty": (sampling.repetition_penalty, sampling.repetition_penalty != 1),
    }
    return {name: value for name, (value, used) in fields.items() if used or everything}
