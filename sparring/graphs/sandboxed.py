"""What held model-written code, in the journal of the run that ran it."""

from __future__ import annotations

import hashlib
import json

from sparring.memory.run import RunHandle
from sparring.tools.sandbox import Description

SANDBOX = "sandbox"
"""Kind of the event; its payload is `Description.to_json()`: mechanism, self-test, what is weaker."""


async def note_sandbox(run: RunHandle, description: Description) -> None:
    """Journal a sandbox as an event of the run, once; a resumed run has one for each machine that differs."""
    said = description.to_json()
    key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
    if run.decided(SANDBOX, key) is None:
        await run.event(SANDBOX, key, said)
