"""One supervised command: started, fed, read and ended, without blocking the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import os
import sys
from pathlib import Path
from typing import Any

from .base import Clip, Limits, Ran, SandboxFailed

INSIDE = Path(__file__).parent
BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from inside.{module} import {name}; {name}()"
GRACE = 20.0
"""Seconds the supervisor gets to end a tree, beyond the command's own limit."""
PIECE = 1 << 16


def interpreter() -> str:
    """The Python that starts what is inside: this one, as the file that it really is."""
    return os.path.realpath(sys.executable)


def boot(module: str, name: str, folder: str | Path = INSIDE) -> list[str]:
    """The command line of one of the processes in `inside`, to be followed by its open files' numbers."""
    return [interpreter(), "-I", "-S", "-c", BOOT.format(module=module, name=name), str(folder)]


async def _read(stream: asyncio.StreamReader, clip: Clip, others: Clip, most: int, control: int) -> None:
    told = False
    while data := await stream.read(PIECE):
        clip.add(data)
        if not told and clip.size + others.size > most:
            told = True
            with contextlib.suppress(OSError):
                os.write(control, b"o")


async def _feed(stream: asyncio.StreamWriter, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        stream.write(data)
        await stream.drain()
    stream.close()


async def _tell(control: int, plan: dict[str, Any]) -> None:
    """Send the plan; in pieces, since a pipe holds 64 KiB and the environment may be large."""
    data = marshal.dumps(plan)
    rest = memoryview(len(data).to_bytes(8, "little") + data)
    os.set_blocking(control, False)
    while rest:
        try:
            rest = rest[os.write(control, rest) :]
        except BlockingIOError:
            await asyncio.sleep(0.001)
        except BrokenPipeError:
            return  # the supervisor died; its silence on the status pipe says so


async def supervise(plan: dict[str, Any], stdin: bytes, limits: Limits) -> Ran:
    """Run a plan (`inside.supervisor`) to its end; a cancelled call ends the command's tree first.

    Raises:
        SandboxFailed: the command was never started.
    """
    ours: list[int] = []
    try:
        theirs_control, control = os.pipe()
        ours += [theirs_control, control]
        answer, theirs_answer = os.pipe()
        ours += [answer, theirs_answer]
        process = await asyncio.create_subprocess_exec(
            *boot("supervisor", "main"),
            str(theirs_control),
            str(theirs_answer),
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(theirs_control, theirs_answer),
            cwd="/",
            env={},
            start_new_session=True,
        )
        for number in (theirs_control, theirs_answer):
            os.close(number)
            ours.remove(number)
        out, err = Clip(limits.output), Clip(limits.output)
        assert process.stdout and process.stderr  # asked for above
        jobs = [
            _read(process.stdout, out, err, limits.flood, control),
            _read(process.stderr, err, out, limits.flood, control),
            _tell(control, plan),
        ]
        if process.stdin:
            jobs.append(_feed(process.stdin, stdin))
        tasks = [asyncio.ensure_future(job) for job in jobs]
        try:
            async with asyncio.timeout(limits.wall + GRACE):
                await asyncio.gather(*tasks)
                await process.wait()
        except TimeoutError:
            raise SandboxFailed(f"a command's processes did not end {GRACE:.0f} s after its time") from None
        finally:
            os.close(control)  # whatever happened: the supervisor ends the tree and itself
            ours.remove(control)
            for task in tasks:
                task.cancel()
            if process.returncode is None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(process.wait()), GRACE)
            # asyncio has no public way to close the pipes of a process whose output nobody reads any more
            process._transport.close()  # type: ignore[attr-defined]  # see above
        said = os.read(answer, PIECE)
    finally:
        for number in ours:
            os.close(number)
    if not said:
        raise SandboxFailed(f"the sandbox's supervisor ended with {process.returncode}: {err.text[-400:]}")
    return _result(marshal.loads(said), out, err)


def _result(said: dict[str, Any], out: Clip, err: Clip) -> Ran:
    """The supervisor's words as a `Ran`."""
    if not said["started"] and said["reason"] is None:
        why = said["said"] or err.text.strip()[-400:]
        raise SandboxFailed(f"the sandbox did not come about: {why or said['status']}")
    status = 137 if said["reason"] or said["status"] is None else said["status"]
    status = 128 - status if status < 0 else status
    reason = said["reason"] or ("cpu" if status == 128 + 24 else None)  # SIGXCPU
    return Ran(
        returncode=status,
        stdout=out.text,
        stderr=err.text,
        seconds=said["seconds"],
        killed_by=reason,
        stdout_bytes=out.size,
        stderr_bytes=err.size,
        peak_memory=said["peak"],
        left_behind=said["left"],
    )
