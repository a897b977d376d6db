"""A grader for all tests that grade, so that an instance is prepared once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sparring.tools.swe.grading import Grader


@pytest.fixture(scope="session")
def grader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grader]:
    from swe_tasks import opened

    from sparring.tools.swe.grading import Grader

    with opened() as box, Grader(box, tmp_path_factory.mktemp("grader")) as made:
        yield made
