"""Containers of Docker or Podman."""

from __future__ import annotations

from pathlib import Path

from .base import Description, Job, Ran


class Containers:
    def __init__(self, program: str, image: str | None) -> None:
        self.program, self.image = program, image

    async def run(self, job: Job, read: list[str], write: list[Path]) -> Ran:
        raise NotImplementedError

    def tested(self) -> Description:
        raise NotImplementedError

    def close(self) -> None:
        pass
