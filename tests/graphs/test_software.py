"""A scripted engineer in a real sandbox: what is journaled, what ends the work, what is submitted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engineer import (
    DONE,
    commands,
    engineer,
    events,
    last_message,
    make_instance,
    repository,
    rows,
    said,
    work,
)

from sparring.agents.engines.base import Request
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.errors import EngineError, SandboxUnavailable, UserError
from sparring.graphs.context import Limits
from sparring.graphs.play import plan, play, resume
from sparring.graphs.protocols import software
from sparring.graphs.report import report
from sparring.memory.journal import Journal
from sparring.memory.versions import folder_beside
from sparring.tools.sandbox import Sandbox
from sparring.tools.swe.instances import Instance, save_instances
from sparring.tools.swe.trees import Room

FIX = "sed -i 's/ + 1//' calc.py"


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def instance(tmp_path: Path) -> Instance:
    return make_instance(repository(tmp_path / "source"))


def detail(result: Any) -> dict[str, Any]:
    found: dict[str, Any] = result.outcome["detail"]
    return found


def changed(patch: str) -> list[str]:
    return [line.split(" b/")[1] for line in patch.splitlines() if line.startswith("diff --git")]


# --- what is journaled -------------------------------------------------------------------------------


def test_every_step_is_a_turn_and_an_event(memory: Path, instance: Instance) -> None:
    [line] = work(memory, instance, commands("ls; echo oops >&2; exit 3", FIX))
    assert (line.status, line.correct, line.calls) == ("done", None, 3)
    assert "-    return x + x + 1\n+    return x + x\n" in line.answer and changed(line.answer) == ["calc.py"]
    looked, fixed, done = events(memory)
    assert (looked["action"], looked["returncode"]) == ("ls; echo oops >&2; exit 3", 3)
    assert looked["observation"] == "calc.py\nnotes.txt\noops\n" and looked["delta"] == ""
    [base] = events(memory, "base")
    assert looked["tree"] == base["tree"] != fixed["tree"] == done["tree"] == detail(line)["tree"]
    assert detail(line) | {"reason": ""} == {
        "exit_status": "submitted",
        "reason": "",
        "steps": 3,
        "base": base["tree"],
        "tree": done["tree"],
    }
    keys = [key for (key,) in rows(memory, "SELECT key FROM turns ORDER BY id")]
    assert keys == ["step/0", "step/1", "step/2"]
    assert all(0 < made["seconds"] < 5 and made["killed_by"] is None for made in events(memory))
    assert looked["elapsed"] < fixed["elapsed"] < done["elapsed"]
    [box] = events(memory, "sandbox")
    assert box["mechanism"] == "landlock+seccomp" and all(box["probes"].values())
    place = memory.with_name("journal.db.swe")
    assert list((place / "work").iterdir()) == [], "a finished attempt leaves no tree"


def test_the_engineer_reads_issue_output_status_and_how_many_are_left(
    memory: Path, instance: Instance
) -> None:
    seen: list[Request] = []
    work(memory, instance, [], engine=engineer(*commands("true", "false"), log=seen.append), steps=7)
    assert "double(calc-1) is off by one" in last_message(seen[0])
    assert "Exit status 0.\nIt printed nothing.\n" in last_message(seen[1])
    assert "Exit status 1." in last_message(seen[2]) and "5 commands are left" in last_message(seen[2])
    assert [message["role"] for message in seen[2].messages] == ["system", *["user", "assistant"] * 2, "user"]
    for number in (1, 2):  # linear: each prompt begins with all of the one before it
        assert seen[number].messages[: len(seen[number - 1].messages)] == seen[number - 1].messages
    assert "patch" not in json.dumps(seen[0].messages[1])


# --- the end of the work -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "ends"),
    [
        (DONE, True),
        (f"echo; {DONE}; echo all tests pass", True),
        (f"{DONE} >&2", True),
        (f"{DONE}; exit 1", False),
        (f"echo first; {DONE}", False),
        (f"echo -n x; {DONE}", False),
        (f"{DONE} and more", False),
        (f"{DONE}; sleep 60", False),
    ],
)
def test_only_the_marker_first_and_success_submit(
    memory: Path, instance: Instance, last: str, ends: bool
) -> None:
    [line] = work(memory, instance, [said(FIX), said(last)], steps=2, timeout=0.6)
    assert detail(line)["exit_status"] == ("submitted" if ends else "steps")
    assert changed(line.answer) == ["calc.py"], "the work counts, however it ended"
    if "all tests" in last:
        assert detail(line)["reason"] == "all tests pass"


def test_a_format_error_is_told_and_three_in_a_row_end_the_work(memory: Path, instance: Instance) -> None:
    seen: list[Request] = []
    twice = said("ls") + "\n" + said("pwd")
    replies = ["I think.", twice, said(FIX), "```bash\nls", "", "nothing", said("never")]
    [line] = work(memory, instance, [], engine=engineer(*replies, log=seen.append))
    assert (detail(line)["exit_status"], detail(line)["steps"], line.status) == ("format_errors", 6, "done")
    assert changed(line.answer) == ["calc.py"]
    told = [last_message(request).splitlines()[0] for request in seen]
    assert told[1] == "Nothing was run: missing: no block that begins with ```bash."
    assert told[2] == "Nothing was run: ambiguous: 2 shell blocks; one is run at a time."
    assert told[5] == "Nothing was run: empty: the reply is empty."
    statuses = [status for (status,) in rows(memory, "SELECT status FROM turns ORDER BY id")]
    assert statuses == ["parse_error", "parse_error", "ok", "parse_error", "parse_error", "parse_error"]
    assert [made["action"] for made in events(memory)] == [None, None, FIX, None, None, None]


def test_a_reply_cut_off_after_its_command_is_run(memory: Path, instance: Instance) -> None:
    def reply(request: Request, seed: int) -> tuple[str, Any]:
        return (said(FIX) + "\nAnd now", "length") if len(request.messages) == 2 else (said(DONE), "stop")

    [line] = work(memory, instance, [], engine=ScriptedEngine(reply, ids=False))
    assert changed(line.answer) == ["calc.py"] and detail(line)["steps"] == 2
    assert rows(memory, "SELECT status FROM turns ORDER BY id")[0] == ("truncated",)


@pytest.mark.parametrize(
    ("limits", "said_so"),
    [(Limits(calls=2), "2 calls"), (Limits(tokens=1), "1 tokens"), (Limits(seconds=1e-9), "1e-09 seconds")],
)
def test_a_cap_ends_the_work_and_the_patch_is_kept(
    memory: Path, instance: Instance, limits: Limits, said_so: str
) -> None:
    [line] = work(memory, instance, commands(FIX, "ls", "ls"), limits=limits)
    assert (line.status, detail(line)["exit_status"]) == ("capped", "capped")
    assert said_so in line.error and said_so in detail(line)["reason"]
    assert changed(line.answer) == (["calc.py"] if limits.seconds is None else [])
    again = work(memory, instance, [], engine=engineer("never"), limits=limits)
    assert again[0] == line, "it is finished"


def test_wall_time_ends_the_work_between_steps(memory: Path, instance: Instance) -> None:
    [line] = work(memory, instance, commands(FIX, "sleep 0.4", "ls"), seconds=0.4)
    assert detail(line)["exit_status"] == "seconds" and detail(line)["steps"] == 2
    assert changed(line.answer) == ["calc.py"]


def test_a_tree_too_large_ends_the_work_with_the_last_that_was_not(
    memory: Path, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Room.__init__, "__defaults__", (1 << 20, 2 << 30, 200_000, 200))
    [line] = work(memory, instance, commands(FIX, "head -c 2000000 /dev/zero > big", "ls"))
    assert detail(line)["exit_status"] == "oversized" and "`big` has 2000000 bytes" in detail(line)["reason"]
    assert changed(line.answer) == ["calc.py"] and detail(line)["steps"] == 2


# --- commands ----------------------------------------------------------------------------------------


def observed(memory: Path, instance: Instance, command: str, **options: Any) -> dict[str, Any]:
    work(memory, instance, commands(command), **options)
    return events(memory)[0]


def test_commands_run_in_a_fresh_bash_at_the_root(memory: Path, instance: Instance) -> None:
    work(memory, instance, commands("cd .git; A=1; [[ -d . ]] && echo {a,b}", "echo $A; ls; cat"))
    first, second, _ = events(memory)
    assert first["observation"] == "a b\n" and second["observation"] == "\ncalc.py\nnotes.txt\n"


def test_an_engineer_who_closes_the_tree_works_on(memory: Path, instance: Instance) -> None:
    """The next command could not even begin in it, and the attempt failed as if the sandbox had."""
    [line] = work(memory, instance, commands("chmod 0 .", FIX))
    assert (line.status, line.error, line.calls) == ("done", None, 3) and changed(line.answer) == ["calc.py"]


def test_a_sleeping_command_is_ended_and_the_engineer_told(memory: Path, instance: Instance) -> None:
    seen: list[Request] = []
    slow = engineer(*commands("echo begun; (sleep 60 &) ; sleep 60"), log=seen.append)
    work(memory, instance, [], engine=slow, timeout=0.6)
    made = events(memory)[0]
    assert (made["killed_by"], made["returncode"], made["observation"]) == ("wall", 137, "begun\n")
    assert "The command was ended: it ran longer than 0.6 seconds." in last_message(seen[1])


def test_bytes_that_are_no_text_are_replaced(memory: Path, instance: Instance) -> None:
    made = observed(memory, instance, r"printf 'a\xff\x00b\n'; printf '\xc3'")
    assert made["observation"] == "a\ufffd\0b\n\ufffd" and made["bytes"] == 6


def test_long_output_keeps_head_and_tail(memory: Path, instance: Instance) -> None:
    made = observed(memory, instance, "seq 100000", output=1000)
    assert made["observation"].startswith("1\n2\n") and made["observation"].endswith("99999\n100000\n")
    assert f"of {made['bytes']} bytes left out" in made["observation"] and len(made["observation"]) < 1100


def test_a_command_of_many_lines_and_characters(memory: Path, instance: Instance) -> None:
    text = "é" * 40_000
    made = observed(memory, instance, f"cat > a.txt <<'EOF'\n{text}\n$HOME \\ ' \"\nEOF\nwc -c < a.txt")
    assert made["observation"] == f"{80_001 + 12}\n"


@pytest.mark.parametrize("kind", ["landlock", "bwrap"])
def test_journal_and_kept_trees_are_out_of_reach(memory: Path, instance: Instance, kind: str) -> None:
    try:
        Sandbox.open(kind)  # type: ignore[arg-type]  # one of its kinds
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    place = memory.with_name("journal.db.swe")
    lines = (
        f"cat {memory}",
        f"echo x > {place}/objects.git/HEAD",
        f"ls {place}/objects.git",
        f"rm -rf {memory}*",
    )
    work(memory, instance, commands(*lines), sandbox=kind)
    assert all(made["returncode"] != 0 for made in events(memory)[:3])
    assert (place / "objects.git" / "HEAD").read_text().startswith("ref:")
    assert not any(name in str(events(memory)[2]["observation"]).split() for name in ("HEAD", "objects"))


def test_git_in_the_tree_is_the_agents_own(memory: Path, instance: Instance) -> None:
    """What it commits, ignores or breaks there changes nothing of its patch."""
    lines = (FIX, "git add -A; git -c user.name=a -c user.email=b commit -qm x; git diff HEAD", "rm -rf .git")
    [line] = work(memory, instance, commands(*lines))
    assert events(memory)[1]["observation"] == "" and changed(line.answer) == ["calc.py"]


# --- tasks -------------------------------------------------------------------------------------------


def test_instances_are_tasks_as_a_file_as_rows_and_as_they_are(tmp_path: Path, instance: Instance) -> None:
    other = replace(instance, id="calc-2")
    file = tmp_path / "instances.jsonl"
    save_instances(file, [instance, other])
    given = [str(file), file, [instance, other]]
    found = [plan("software", source, engine="scripted:hash").tasks for source in given]
    assert found[0] == found[1] == found[2] and [task.id for task in found[0]] == ["calc-1", "calc-2"]
    assert found[0][0].question == instance.problem
    assert found[0] == plan("software", found[0], engine="scripted:hash").tasks
    assert len(plan("software", file, limit=1, engine="scripted:hash").tasks) == 1
    moved = replace(instance, base_commit="a" * 40)
    [task] = plan("software", [moved], engine="scripted:hash").tasks
    assert task.key != found[0][0].key, "an instance is more than its issue"


@pytest.mark.parametrize(
    ("source", "said_so"),
    [
        ([{"id": "q", "question": "?"}], "instance 0: field `instance_id` is missing"),
        ([1], "instance 0: an instance or a row"),
        ({"a": 1}, "as a file, a folder or a list"),
        ([], "no tasks to play"),
        ("missing.jsonl", "missing.jsonl"),
    ],
)
def test_what_is_no_instance_is_refused(source: Any, said_so: str) -> None:
    with pytest.raises(UserError, match=said_so):
        plan("software", source, engine="scripted:hash")


def test_a_source_that_is_not_there_is_named_before_any_work(memory: Path, instance: Instance) -> None:
    for gone in (
        replace(instance, source=Path("nowhere")),
        replace(instance, source=None, base_commit="a" * 40),
    ):
        with pytest.raises(UserError, match=r"instance `calc-1`: (source .*nowhere|it names no `source`)"):
            work(memory, gone, commands("ls"), run=str(gone.source))
    with pytest.raises(UserError, match="is no instance of a repository"):
        work(memory, plan("sample", [{"id": "q", "question": "?"}], engine="scripted:hash").tasks[0], [])


def test_running_unprotected_takes_consent(memory: Path, instance: Instance) -> None:
    with pytest.raises(UserError, match="i_understand"):
        work(memory, instance, commands("ls"), sandbox="none")
    [line] = work(memory, instance, commands(FIX), sandbox="none", i_understand=True, run="open")
    assert changed(line.answer) == ["calc.py"] and events(memory, "sandbox")[-1]["mechanism"] == "none"


def test_several_attempts_at_once_have_trees_of_their_own(memory: Path, instance: Instance) -> None:
    result = work(memory, instance, commands("echo x >> calc.py", "cat calc.py"), copies=4)
    assert len({line.episode for line in result}) == 4 and len({line.answer for line in result}) == 1
    shown = [made["observation"] for made in events(memory) if made["action"] == "cat calc.py"]
    assert len(shown) == 4 and {text.count("x\n") for text in shown} == {1}


# --- going on ----------------------------------------------------------------------------------------


class Breaks:
    """An engine whose calls fail from a step on, until it is mended."""

    def __init__(self, replies: list[str], at: int) -> None:
        self.replies, self.at = replies, at
        self.calls: list[int] = []

    def __call__(self, request: Request, seed: int) -> str:
        number = sum(message["role"] == "assistant" for message in request.messages)
        self.calls.append(number)
        if number >= self.at:
            raise EngineError("down")
        return self.replies[number]


LINES = ("echo a >> log; mkdir empty", "echo b >> log; ls", "echo c >> log; ls", FIX)


def broken(memory: Path, instance: Instance, at: int = 2) -> Breaks:
    engine = Breaks(commands(*LINES), at)
    [line] = work(memory, instance, [], engine=ScriptedEngine(engine, ids=False), concurrency=1)
    assert line.status == "failed" and [made["action"] for made in events(memory)] == list(LINES[:at])
    engine.calls.clear()
    engine.at = 99
    return engine


def lose_nothing(memory: Path) -> None:
    pass


def lose_everything(memory: Path) -> None:
    shutil.rmtree(memory.with_name("journal.db.swe"))


def lose_the_store(memory: Path) -> None:
    shutil.rmtree(memory.with_name("journal.db.swe") / "objects.git")


def spoil_the_tree(memory: Path) -> None:
    [place] = (memory.with_name("journal.db.swe") / "work").iterdir()
    (place / "tree" / "calc.py").write_text("spoiled\n")
    (place / "tree" / "more").write_text("spoiled\n")


@pytest.mark.parametrize("harm", [lose_nothing, lose_everything, lose_the_store, spoil_the_tree])
def test_a_run_goes_on_from_the_journal_alone(
    memory: Path, tmp_path: Path, instance: Instance, harm: Callable[[Path], None]
) -> None:
    [whole] = work(tmp_path / "undisturbed.db", instance, commands(*LINES))
    engine = broken(memory, instance)
    harm(memory)
    [line] = work(memory, instance, [], engine=ScriptedEngine(engine, ids=False))
    assert line.answer == whole.answer and detail(line) == detail(whole)
    assert engine.calls == [2, 3, 4], "what is journaled is not asked for again"
    same = ("action", "observation", "returncode", "tree", "submitted", "delta")
    told = [[made[name] for name in same] for made in events(memory)]
    assert told == [[made[name] for name in same] for made in events(tmp_path / "undisturbed.db")]
    assert events(memory)[2]["observation"] == "calc.py\nempty\nlog\nnotes.txt\n"


def test_a_source_that_has_changed_fails_the_attempt_and_says_why(
    memory: Path, tmp_path: Path, instance: Instance
) -> None:
    engine = broken(memory, instance)
    lose_everything(memory)
    (tmp_path / "source" / "calc.py").write_text("changed\n")
    [line] = work(memory, instance, [], engine=ScriptedEngine(engine, ids=False))
    assert line.status == "failed" and "its tree at the base is" in line.error
    repository(tmp_path / "source")
    lose_everything(memory)
    [line] = work(memory, instance, [], engine=ScriptedEngine(engine, ids=False))
    assert line.status == "done"


def test_changes_too_large_for_the_journal_need_the_store(
    memory: Path, instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparring.tools.swe.workshop.LARGEST_DELTA", 10)
    engine = broken(memory, instance)
    assert events(memory)[0]["delta"] is None
    lose_the_store(memory)
    [line] = work(memory, instance, [], engine=ScriptedEngine(engine, ids=False))
    assert line.status == "failed" and "is not in" in line.error


def test_a_finished_work_is_not_taken_up_again(memory: Path, instance: Instance) -> None:
    work(memory, instance, commands(FIX), engine=None)
    lose_everything(memory)
    seen: list[Request] = []
    [line] = work(memory, instance, [], engine=engineer("never", log=seen.append))
    assert line.status == "done" and not seen


def test_a_script_plays_from_the_command_lines_options(
    memory: Path, tmp_path: Path, instance: Instance
) -> None:
    script = tmp_path / "script.jsonl"
    rules = [{"match": "<issue>", "replies": [said(FIX)]}, {"replies": [said(DONE)]}]
    script.write_text("\n".join(map(json.dumps, rules)))
    save_instances(file := tmp_path / "instances.jsonl", [instance])
    options = {"grade": "false", "sandbox": "landlock", "steps": "5", "folder": str(tmp_path / "place")}
    [line] = play("software", str(file), engine=f"scripted:{script}", memory=memory, run="r", **options)
    assert changed(line.answer) == ["calc.py"] and (tmp_path / "place" / "objects.git").is_dir()
    file.unlink()
    assert resume("r", memory).results[0] == line


def test_trees_lie_beside_the_journal_or_in_the_store(
    memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal.open(memory) as journal:
        assert folder_beside(journal, "swe") == tmp_path / "journal.db.swe"

    class Postgres:
        class engine:
            class dialect:
                name = "postgresql"

    monkeypatch.setenv("SPARRING_STORE", str(tmp_path / "store"))
    assert folder_beside(Postgres, "swe") == tmp_path / "store" / "swe"  # type: ignore[arg-type]  # no server here
    monkeypatch.delenv("SPARRING_STORE")
    monkeypatch.chdir(tmp_path)
    assert folder_beside(Postgres, "swe") == tmp_path / "sparring-swe"  # type: ignore[arg-type]  # as above


def test_the_report_says_how_attempts_ended(memory: Path, instance: Instance) -> None:
    def reply(request: Request, seed: int) -> str:
        lines = commands(FIX) if "calc-1" in str(request.messages[1]) else commands("ls", "ls", "ls")
        return lines[sum(message["role"] == "assistant" for message in request.messages)]

    other = replace(instance, id="calc-2", problem="another")
    engine, options = ScriptedEngine(reply, ids=False), {"steps": 3, "sandbox": "landlock", "grade": False}
    play("software", [instance, other], engine=engine, memory=memory, run="r", **options)
    with Journal.open(memory) as journal:
        found = report(journal, "r").figures
    assert found == {"submitted": 0.5, "patched": 0.5, "steps": 2.5, "ended_steps": 0.5}


def test_the_marker_is_what_the_prompt_says() -> None:
    assert f"echo {software.MARKER}" == DONE
