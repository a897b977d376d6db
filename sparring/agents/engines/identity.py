"""What makes two requests the same: one framing, fed to whichever hash the reader needs.

The scripted engine answers from it and the response cache looks answers up by it, so nothing that can
change an answer may be missing: messages, sampling, policy version, base and adapter. The adapter's
folder is left out (its content hash is in), so that an identity means the same on every machine.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any, Protocol

from sparring.agents.engines.base import Request, Sampling


class Hash(Protocol):
    """The part of a `hashlib` object that is used here."""

    def update(self, data: bytes, /) -> None: ...


def feed(hasher: Hash, request: Request) -> None:
    """Feed all of `request` but its seeds; every field is length-framed, so no two requests collide."""
    version = request.version
    parts = [_sampling(request.sampling), version.label, version.base, version.adapter_hash or ""]
    for message in request.messages:
        content = message["content"]
        if type(content) is str and len(message) == 2:
            parts += [message["role"], content]
        else:
            parts += ["\0json", canonical(message)]
    hasher.update(",".join([str(len(part)) for part in parts]).encode())
    hasher.update("".join(parts).encode("utf-8", "surrogatepass"))


def request_hash(request: Request) -> str:
    """32 hex digits that name a request without its seeds."""
    hasher = hashlib.blake2b(digest_size=16)
    feed(hasher, request)
    return hasher.hexdigest()


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: one text per value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=256)
def _sampling(sampling: Sampling) -> str:
    # Numbers become floats first: Sampling(temperature=1) equals Sampling(temperature=1.0).
    fields = {
        name: float(value) if isinstance(value, int | float) else value
        for name, value in sampling.to_json().items()
    }
    return canonical(fields)
