"""Task sets: JSON lines with `id`, `question`, `answer` and an optional `check`, one task a line.

A source is a file (`.jsonl`, or gzip-compressed `.jsonl.gz`) or the name of a set that ships with
Sparring. Other fields are kept in the task's `meta`. A mistake is one line that says where it is.

A row of ProcessBench (`id`, `problem`, `steps`, `label`) is a task too: its question is the problem, its
answer the label, its solution stays in `meta`. So is one of LLMBar (`id`, `instruction`, `output_1`,
`output_2`, `label`): its question is the instruction, its answer which output a person prefers, and the two
outputs are the `responses` in `meta`. One of HumanEval or MBPP with check `code` has its tests as the answer.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from ..errors import UserError, json_value, kind_of
from .records import TaskRecord
from .shipped import SHIPPED, shipped_tasks

FIELDS = ("id", "question", "answer", "check")
DEFAULT_CHECK = "exact"
WITHOUT_ANSWER = ("code",)
"""Checks that run tests instead of comparing with a reference; their `answer` may be missing."""


def load_tasks(
    source: str | Path, limit: int | None = None, *, checks: Collection[str] | None = None
) -> list[TaskRecord]:
    """The tasks of a file or a shipped set, in the order of the file.

    Args:
        source: a path, or a name from `shipped_tasks`.
        limit: keep the first `limit` tasks; what comes after them is not read.
        checks: the names that `check` may have; None accepts any.

    Raises:
        UserError: there is no such file or set, or a line is wrong; the message names the line.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}: at least one task is needed")
    path = _find(source)
    tasks: list[TaskRecord] = []
    seen: dict[str, int] = {}
    for number, value in _values(path):
        task = _task(value, f"tasks `{source}`, line {number}", checks)
        if task.id in seen:
            raise UserError(
                f"tasks `{source}`: id `{task.id}` is on line {seen[task.id]} and again on line {number}; "
                "ids must differ"
            )
        seen[task.id] = number
        tasks.append(task)
        if len(tasks) == limit:
            break
    if not tasks:
        raise UserError(f"tasks `{source}`: the file holds no task")
    return tasks


def save_tasks(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write a task file, a row a line, compressed where its name ends in `.gz`. Returns how many.

    Raises:
        UserError: a row that is no JSON, or a file that cannot be written.
    """
    path = Path(path).expanduser()
    try:
        lines = [json.dumps(row, allow_nan=False) + "\n" for row in rows]
        data = "".join(lines).encode()
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    except (TypeError, ValueError) as error:
        raise UserError(f"task file `{path}`: a row is no JSON: {error}") from None
    except OSError as error:
        raise UserError(f"task file `{path}` cannot be written: {error.strerror or error}") from None
    return len(lines)


def _find(source: str | Path) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    for suffix in (".jsonl", ".jsonl.gz"):
        shipped = SHIPPED / f"{source}{suffix}"
        if shipped.parent == SHIPPED and shipped.is_file():
            return shipped
    names = ", ".join(shipped_tasks(SHIPPED)) or "none"
    if path.is_dir():
        raise UserError(f"tasks `{source}` is a folder; give a file in it, or a shipped set: {names}")
    raise UserError(f"tasks `{source}`: there is no such file; shipped sets: {names}")


def _values(path: Path) -> Iterator[tuple[int, Any]]:
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")  # a byte order mark
                if line.strip():
                    yield number, json_value(line, f"tasks `{path}`, line {number}")
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"tasks `{path}` cannot be read after line {number}: {error}") from None


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def as_tasks(
    values: Iterable[TaskRecord | Mapping[str, Any]],
    limit: int | None = None,
    *,
    checks: Collection[str] | None = None,
) -> list[TaskRecord]:
    """Tasks that are at hand, held to the same rules as those of a file.

    Raises:
        UserError: not an iterable of tasks, or one is wrong; the message says which, counted from 0.
    """
    if limit is not None and limit < 1:
        raise UserError(f"limit {limit}: at least one task is needed")
    if isinstance(values, Mapping | str | bytes) or not isinstance(values, Iterable):
        raise UserError(
            f"tasks: a file, a shipped set or a list of tasks is needed, not {type(values).__name__}"
        )
    rows = [
        value if isinstance(value, TaskRecord) else _task(value, f"task {place}", checks, answered=False)
        for place, value in enumerate(values)
    ]
    if not rows:
        raise UserError("there are no tasks to play")
    seen: set[str] = set()
    for task in rows[:limit]:
        if task.id in seen:
            raise UserError(f"task id `{task.id}` is given twice; ids must differ")
        seen.add(task.id)
    return rows[:limit]


def _task(value: Any, where: str, checks: Collection[str] | None, *, answered: bool = True) -> TaskRecord:
    """One task; `answered` asks for a reference, without which an episode gets no verdict."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: a task is a JSON object, not {kind_of(value)}")
    if "question" not in value and value.keys() >= {"problem", "steps", "label"}:
        value = _labelled_solution(value, where)
    if "question" not in value and value.keys() >= {"instruction", "output_1", "output_2", "label"}:
        value = _labelled_pair(value, where)
    if value.get("check") == "code" and value.get("answer") is None:
        value = _with_tests(value)
    check = value.get("check", DEFAULT_CHECK)
    if not isinstance(check, str):
        raise UserError(f"{where}: `check` must be text, not {kind_of(check)}")
    if checks is not None and check not in checks:
        raise UserError(f"{where}: unknown check `{check}`; known: {', '.join(sorted(checks))}")
    for name in ("id", "question", "answer"):
        optional = name == "answer" and (check in WITHOUT_ANSWER or not answered)
        if name not in value and not optional:
            raise UserError(f"{where}: field `{name}` is missing")
    return TaskRecord(
        id=_id(value["id"], where),
        question=_question(value["question"], where),
        answer=_answer(value.get("answer"), check, where) if answered or "answer" in value else None,
        check=check,
        meta={name: extra for name, extra in value.items() if name not in FIELDS} or None,
    )


def _labelled_solution(value: dict[str, Any], where: str) -> dict[str, Any]:
    """A row of ProcessBench (2412.06559) as a task; `label` is the first wrong step from 0, -1 if none is."""
    steps, label = value["steps"], value["label"]
    if not isinstance(steps, list) or not steps:
        raise UserError(f"{where}: `steps` must be a list of texts, not {kind_of(steps)}")
    if type(label) is not int or not -1 <= label < len(steps):
        raise UserError(f"{where}: `label` must be -1 or the index of one of {len(steps)} steps")
    rest = {name: extra for name, extra in value.items() if name not in ("problem", "label")}
    return {**rest, "question": value["problem"], "answer": label}


def _labelled_pair(value: dict[str, Any], where: str) -> dict[str, Any]:
    """A row of LLMBar (2310.07641) as a task; `label` is 1 or 2, the output that is preferred."""
    label = value["label"]
    if type(label) is not int or label not in (1, 2):
        raise UserError(f"{where}: `label` must be 1 or 2, the output that is preferred")
    named = ("instruction", "output_1", "output_2", "label")
    rest = {name: extra for name, extra in value.items() if name not in named}
    pair = [value["output_1"], value["output_2"]]
    return {**rest, "question": value["instruction"], "responses": pair, "answer": label}


def _with_tests(value: dict[str, Any]) -> dict[str, Any]:
    """A row of HumanEval (2107.03374) or MBPP (2108.07732), whose tests are fields of their own, as a task;
    its answer holds them. Rows without tests stay as they are."""
    if value.keys() >= {"question", "test", "entry_point"}:
        answer = {"prompt": value["question"], "test": value["test"], "entry_point": value["entry_point"]}
    elif "test_list" in value:
        answer = {"asserts": value["test_list"], "setup": value.get("test_setup_code") or ""}
    else:
        return value
    taken = ("test", "entry_point", "test_list", "test_setup_code")
    return {**{name: extra for name, extra in value.items() if name not in taken}, "answer": answer}


def _id(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise UserError(f"{where}: `id` must be text or a whole number, not {kind_of(value)}")
    if not str(value).isprintable():
        raise UserError(f"{where}: `id` {str(value)!r} holds characters that cannot be shown")
    return str(value)


def _question(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: `question` must be text, not {kind_of(value)}")
    return value


def _answer(value: Any, check: str, where: str) -> Any:
    if check == "any_of":
        if not isinstance(value, list) or not value:
            raise UserError(
                f"{where}: `answer` of an `any_of` task must be a list of answers, not {kind_of(value)}"
            )
    elif check in WITHOUT_ANSWER:
        return value
    elif isinstance(value, list | dict | bool):
        raise UserError(f"{where}: `answer` must be text, a number or null, not {kind_of(value)}")
    elif isinstance(value, str) and not value.strip():
        raise UserError(f"{where}: `answer` is empty; use null where no answer is known")
    return value
