"""Instances: a repository at a commit, an issue in words, and the tests that say whether it is resolved.

Three forms are read: rows of SWE-bench (Lite, Verified, Multimodal; JSON or JSON Lines; lists or lists
encoded as text), its 5.x task folders, and our own rows, which are the same with `source` (where the
repository lies) and `environment` (how its tests are run) so that neither Docker nor a network is needed.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from sparring.errors import UserError, json_value, kind_of, unknown

from .resolution import EvalType
from .results import RUNNERS
from .rows import json_rows, no_twins

REQUIRED = ("instance_id", "repo", "base_commit", "problem_statement", "patch", "test_patch")
LISTS = ("FAIL_TO_PASS", "PASS_TO_PASS")
TEXTS = ("hints_text", "version", "created_at", "eval_type")
OURS = ("source", "environment")
TASK_FILES = {
    "patch": "gold.patch",
    "test_patch": "test.patch",
    "eval_script": "eval.sh",
    "problem_statement": "problem_statement.md",
}
_ID = re.compile(r"[A-Za-z0-9_][\w.+@=-]{0,199}")
_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
_PINNED = re.compile(r"[A-Za-z0-9][\w.-]*(\[[\w.,-]+\])?==[\w.!+-]+")


@dataclass(frozen=True)
class Environment:
    """How the tests of an instance are run.

    Attributes:
        test_command: `pytest` or `unittest`, then its arguments.
        pip: pinned requirements, `name==version`.
        python: the interpreter; None is the one that Sparring runs on.
        python_path: folders of the tree that go on `sys.path`, relative to its root.
        timeout: seconds that a run of the tests may take.
    """

    test_command: tuple[str, ...]
    pip: tuple[str, ...] = ()
    python: str | None = None
    python_path: tuple[str, ...] = (".",)
    timeout: float = 1800.0


@dataclass(frozen=True)
class Instance:
    """One task.

    Attributes:
        id: names a folder wherever results are kept.
        base_commit: the full hash at which the work begins; empty where `source` is plain files.
        problem: the issue, in its author's words.
        patch: the reference fix (gold patch), a unified diff; never to be shown to an agent.
        test_patch: what the fix's author did to the tests.
        source: a git repository, git bundle, folder or tar archive; None where the row names none.
        environment: None where the row has none, as in SWE-bench.
        meta: the other fields of the row (`difficulty`, `image_assets`, `image`, `eval_script`, ...).
    """

    id: str
    repo: str
    base_commit: str
    problem: str
    patch: str
    test_patch: str
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    hints: str = ""
    version: str = ""
    created_at: str = ""
    eval_type: EvalType = "pass_and_fail"
    source: Path | None = None
    environment: Environment | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


def load_instances(path: str | Path) -> list[Instance]:
    """The instances of a file of rows, a task folder, or a folder with `tasks/` in it, in their order.

    Raises:
        UserError: nothing there, a row is wrong (the message names file and line), or an id comes twice.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        rows = [(str(task / "task.yaml"), _task_folder(task)) for task in _task_folders(path)]
        folder = path
    else:
        rows = list(json_rows(path, "instances"))
        folder = path.parent
    found = [(where, _instance(row, where, folder)) for where, row in rows]
    no_twins(((where, one.id) for where, one in found), f"instances `{path}`")
    return [one for _, one in found]


def instance_of(row: Mapping[str, Any], where: str = "instance", folder: Path | None = None) -> Instance:
    """The instance of one row, as `row_of` makes it.

    Args:
        where: what messages call it.
        folder: where a relative `source` begins; by default the working folder.

    Raises:
        UserError: the row is wrong.
    """
    return _instance(row, where, folder or Path())


def _task_folders(path: Path) -> list[Path]:
    if (path / "task.yaml").is_file():
        return [path]
    folders = sorted(file.parent for file in path.glob("tasks/*/task.yaml"))
    if not folders:
        raise UserError(
            f"instances `{path}`: a folder must hold task.yaml, or tasks/ID/task.yaml for each task"
        )
    return folders


def _task_folder(folder: Path) -> dict[str, Any]:
    """The row of a 5.x task folder."""
    import yaml

    where = str(folder / "task.yaml")
    try:
        row = yaml.safe_load(_text(folder / "task.yaml"))
    except yaml.YAMLError as error:
        raise UserError(f"{where}: malformed YAML, {' '.join(str(error).split())}") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: fields are needed, not {kind_of(row)}")
    for name, file in TASK_FILES.items():
        row[name] = _text(folder / file)
    hints = folder / "hints.md"
    row["hints_text"] = _text(hints) if hints.is_file() else ""
    tests = json_value(_text(folder / "tests.json"), str(folder / "tests.json"))
    if not isinstance(tests, dict):
        raise UserError(f"{folder / 'tests.json'}: an object of test lists is needed, not {kind_of(tests)}")
    row.update(tests)
    if row.get("instance_id") not in (None, folder.name):
        raise UserError(f"{where}: instance_id `{row['instance_id']}` is not the folder's name")
    # YAML reads an unquoted date or version as something other than text
    row |= {
        name: str(row[name]) for name in ("version", "created_at", "base_commit") if row.get(name) is not None
    }
    return {"instance_id": folder.name, **row}


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", newline="") as file:  # CRLF inside a patch stays as it is
            return file.read()
    except OSError as error:
        raise UserError(f"`{path}` cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"`{path}`: not UTF-8 (byte {error.start + 1})") from None


def _instance(row: Mapping[str, Any], where: str, folder: Path) -> Instance:
    """One instance; `folder` is where a relative `source` begins."""
    plain = "source" in row and not row.get("base_commit")
    for name in (*REQUIRED, *LISTS):
        if name not in row and not (name == "base_commit" and plain):
            raise UserError(f"{where}: field `{name}` is missing")
    optional = (*TEXTS, "base_commit") if plain else TEXTS
    texts = {
        name: "" if name in optional and row.get(name) is None else _string(row[name], name, where)
        for name in (*REQUIRED, *TEXTS)
    }
    if not _ID.fullmatch(texts["instance_id"]):
        raise UserError(
            f"{where}: instance_id {texts['instance_id']!r} cannot name a folder; "
            "use letters, digits and _.+@=-, at most 200"
        )
    if not plain and not _COMMIT.fullmatch(texts["base_commit"]):
        raise UserError(f"{where}: base_commit `{texts['base_commit']}` is no full commit hash")
    if not texts["problem_statement"].strip():
        raise UserError(f"{where}: `problem_statement` is empty")
    eval_type = texts["eval_type"] or "pass_and_fail"
    if eval_type not in get_args(EvalType):
        raise unknown(f"eval_type in {where}:", eval_type, get_args(EvalType))
    known = {*REQUIRED, *LISTS, *TEXTS, *OURS}
    meta = {name: value for name, value in row.items() if name not in known}
    if isinstance(meta.get("image_assets"), str):
        meta["image_assets"] = json_value(meta["image_assets"] or "{}", f"{where}, `image_assets`")
    return Instance(
        id=texts["instance_id"],
        repo=texts["repo"],
        base_commit=texts["base_commit"],
        problem=texts["problem_statement"],
        patch=texts["patch"],
        test_patch=texts["test_patch"],
        fail_to_pass=_strings(row["FAIL_TO_PASS"], "FAIL_TO_PASS", where),
        pass_to_pass=_strings(row["PASS_TO_PASS"], "PASS_TO_PASS", where),
        hints=texts["hints_text"],
        version=texts["version"],
        created_at=texts["created_at"],
        eval_type=cast(EvalType, eval_type),
        source=_source(row.get("source"), where, folder),
        environment=_environment(row["environment"], where) if row.get("environment") is not None else None,
        meta=meta,
    )


def _string(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: `{name}` must be text, not {kind_of(value)}")
    return value


def _strings(value: Any, name: str, where: str) -> tuple[str, ...]:
    """A list of texts, or the JSON of one in a text, as the Hub's rows have it."""
    if isinstance(value, str):
        value = json_value(value, f"{where}, `{name}`")
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise UserError(f"{where}: `{name}` must be a list of texts, or one encoded as JSON")
    return tuple(value)


def _source(value: Any, where: str, folder: Path) -> Path | None:
    if value is None:
        return None
    text = _string(value, "source", where)
    if not text or "://" in text or "\0" in text:
        raise UserError(f"{where}: source `{text}` must be a file or folder on this machine")
    return folder / Path(text).expanduser()


def _environment(value: Any, where: str) -> Environment:
    if not isinstance(value, dict):
        raise UserError(f"{where}: `environment` must be an object, not {kind_of(value)}")
    known = ("test_command", "pip", "python", "python_path", "timeout")
    for name in value:
        if name not in known:
            raise unknown(f"field of `environment` in {where}:", name, known)
    command = value.get("test_command")
    if isinstance(command, str):
        try:
            command = shlex.split(command)
        except ValueError as error:
            raise UserError(f"{where}: `test_command` cannot be split into words: {error}") from None
    words = list(_strings(command, "test_command", where)) if isinstance(command, list) else []
    if words[:2] == ["python", "-m"]:
        words = words[2:]
    if not words or words[0] not in RUNNERS:
        raise UserError(f"{where}: `test_command` must begin with {' or '.join(RUNNERS)}")
    pip = _strings(value.get("pip", []), "pip", where)
    for requirement in pip:
        if not _PINNED.fullmatch(requirement):
            raise UserError(f"{where}: requirement `{requirement}` is not pinned as name==version")
    paths = _strings(value.get("python_path", ["."]), "python_path", where)
    for path in paths:
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise UserError(f"{where}: python_path `{path}` leaves the tree")
    timeout = value.get("timeout", Environment.timeout)
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout <= 86_400:
        raise UserError(f"{where}: `timeout` must be seconds, more than 0 and at most 86400")
    python = value.get("python")
    python = None if python is None else _string(python, "python", where)
    return Environment(tuple(words), pip, python, paths, float(timeout))


def row_of(instance: Instance) -> dict[str, Any]:
    """The row that `load_instances` reads back as this instance (a relative `source` as it stands)."""
    row: dict[str, Any] = {
        "instance_id": instance.id,
        "repo": instance.repo,
        "base_commit": instance.base_commit,
        "problem_statement": instance.problem,
        "patch": instance.patch,
        "test_patch": instance.test_patch,
        "FAIL_TO_PASS": list(instance.fail_to_pass),
        "PASS_TO_PASS": list(instance.pass_to_pass),
        "hints_text": instance.hints,
        "version": instance.version,
        "created_at": instance.created_at,
        "eval_type": instance.eval_type,
    }
    if instance.source is not None:
        row["source"] = instance.source.as_posix()
    if (env := instance.environment) is not None:
        row["environment"] = {
            "test_command": list(env.test_command),
            "pip": list(env.pip),
            "python": env.python,
            "python_path": list(env.python_path),
            "timeout": env.timeout,
        }
    return {**row, **instance.meta}


def save_instances(path: str | Path, instances: list[Instance]) -> None:
    """Write our own JSON Lines, an instance a line.

    Raises:
        UserError: the file cannot be written.
    """
    lines = [json.dumps(row_of(one), ensure_ascii=False) + "\n" for one in instances]
    try:
        Path(path).write_text("".join(lines), encoding="utf-8", newline="\n")
    except OSError as error:
        raise UserError(f"instances `{path}` cannot be written: {error.strerror or error}") from None
