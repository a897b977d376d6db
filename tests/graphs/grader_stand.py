"""A grader that takes any patch with `+    return x + x` for right, and counts what it grades."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any


class StandGrader:
    """Stands in for `Workshop.grader`: the real one runs tests, and has tests of its own."""

    def __init__(self, on_grade: Callable[[], object] | None = None, infra: bool = False) -> None:
        self.on_grade, self.infra, self.graded = on_grade, infra, 0

    def key(self, instance: Any, patch: str | None) -> str:
        return hashlib.sha256(f"{instance.id} {patch}".encode()).hexdigest()

    async def grade(self, instance: Any, patch: str | None) -> Any:
        from sparring.tools.swe.grading import Grade, GradeStatus

        self.graded += 1
        if self.on_grade is not None:
            self.on_grade()
        right = "+    return x + x\n" in (patch or "")
        status = GradeStatus.RESOLVED if right else GradeStatus.UNRESOLVED
        return Grade(GradeStatus.INFRA if self.infra else status, reason="stand-in")

    def close(self) -> None:
        pass
