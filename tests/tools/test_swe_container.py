"""Software tasks in containers, against a daemon that `scripts/with_docker.sh` starts for itself.

The image is made of this machine's own Python, pytest, git and patch: no registry is asked.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from example_scripts import script
from python_image import python_image
from swe_tasks import edited, graded, task

from sparring.graphs.play import play
from sparring.tools.sandbox import Sandbox
from sparring.tools.swe.grading import Grader, GradeStatus

pytestmark = [
    pytest.mark.skipif(not os.environ.get("SPARRING_TEST_IMAGE"), reason="run by make test-docker"),
    pytest.mark.timeout(600),
]
PARKING = "parking"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    return python_image("sparring-swe-test", tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def grader(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grader]:
    with (
        Sandbox.open("container", image=image) as box,
        Grader(box, tmp_path_factory.mktemp("grader")) as made,
    ):
        yield made


def running() -> list[str]:
    return subprocess.check_output(["docker", "ps", "-q"], text=True).split()


def test_a_scripted_engineer_works_and_is_graded(image: str, tmp_path: Path) -> None:
    rules = script("swe/engineer.py").recorded([task(PARKING)])
    file = tmp_path / "script.jsonl"
    file.write_text("".join(json.dumps(rule) + "\n" for rule in rules))
    before = running()
    given: dict[str, Any] = {"sandbox": "container", "image": image, "memory": tmp_path / "journal.db"}
    [line] = play("software", [task(PARKING)], engine=f"scripted:{file}", run="r", **given)
    assert (line.status, line.correct, line.calls) == ("done", True, 3), line.error
    assert "parking.py" in line.answer
    assert running() == before


def test_patches_are_graded_and_leave_no_container(grader: Grader) -> None:
    one = task(PARKING)
    gold = graded(grader, one, one.patch)
    assert (gold.status, gold.f2p, gold.p2p) == (GradeStatus.RESOLVED, 1.0, 1.0), gold.reason
    before = running()
    nothing = graded(grader, one, edited(one, {"notes.txt": "nothing\n"}))
    assert (nothing.status, nothing.f2p) == (GradeStatus.UNRESOLVED, 0.0), nothing.reason
    assert running() == before


def test_a_program_of_the_patch_is_not_the_interpreter(grader: Grader) -> None:
    """It would read the key of the report."""
    patch = edited(task(PARKING), {"python3": "#!/bin/sh\necho ran > ../report/ran\n"})
    grade = graded(grader, task(PARKING), patch.replace("new file mode 100644", "new file mode 100755"))
    assert grade.status is GradeStatus.UNRESOLVED and len(grade.canaries) == 3, grade.reason


def test_the_key_of_a_grade_names_the_image(grader: Grader) -> None:
    assert grader.key(task(PARKING), "x")
    with Sandbox.open("landlock") as box, Grader(box, grader.environments.folder) as other:
        assert other.key(task(PARKING), "x") != grader.key(task(PARKING), "x")
