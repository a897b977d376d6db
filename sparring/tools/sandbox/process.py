"""One supervised command: started, fed, read and ended, without blocking the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import os
from collections.abc import Callable, Coroutine
from typing import Any

from .base import Clip, Limits, Ran, SandboxFailed
from .zygotes import held, shared

GRACE = 20.0
"""Seconds the supervisor gets to end a tree, beyond the command's own limit."""
PIECE = 1 << 16


async def _read(stream: asyncio.StreamReader, clip: Clip, others: Clip, most: int, control: int) -> None:
    told = False
    while data := await stream.read(PIECE):
        clip.add(data)
        if not told and clip.size + others.size > most:
            told = True
            with contextlib.suppress(OSError):
                os.write(control, b"o")


async def _feed(number: int, data: bytes, pipes: Pipes) -> None:
    await _write(number, data)
    pipes.end(number)


def _message(plan: dict[str, Any]) -> bytes:
    data = marshal.dumps(plan)
    return len(data).to_bytes(8, "little") + data


async def _write(number: int, data: bytes) -> None:
    """All of it; in pieces, since a pipe holds 64 KiB. Nobody reading is no error."""
    rest = memoryview(data)
    os.set_blocking(number, False)
    pause = 0.001
    while rest:
        try:
            rest = rest[os.write(number, rest) :]
            pause = 0.001
        except BlockingIOError:
            await asyncio.sleep(pause)
            pause = min(0.05, 2 * pause)
        except BrokenPipeError:
            return


class Pipes:
    """The open files of one supervised command: our ends in the event loop, theirs until they are sent."""

    def __init__(self) -> None:
        self.theirs: list[int] = []
        self._ours: list[int] = []
        self._transports: list[asyncio.BaseTransport] = []

    def write_end(self) -> int:
        """A pipe that we write; theirs is the other end."""
        theirs, ours = os.pipe()
        self.theirs.append(theirs)
        self._ours.append(ours)
        held.add(ours)
        return ours

    async def reader(self) -> asyncio.StreamReader:
        """A pipe that we read; theirs is the other end."""
        ours, theirs = os.pipe()
        self.theirs.append(theirs)
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        file = os.fdopen(ours, "rb", 0)  # the transport closes it
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
        self._transports.append(transport)
        return reader

    def nothing(self) -> None:
        """An empty file for them."""
        self.theirs.append(os.open(os.devnull, os.O_RDONLY))

    def sent(self) -> None:
        """Theirs are no longer needed here."""
        while self.theirs:
            os.close(self.theirs.pop())

    def end(self, number: int) -> None:
        """Close one of ours that we write."""
        if number in self._ours:
            self._ours.remove(number)
            held.discard(number)
            os.close(number)

    def close(self) -> None:
        """Close all."""
        self.sent()
        for number in list(self._ours):
            self.end(number)
        for transport in self._transports:
            transport.close()


async def supervise(plan: dict[str, Any], stdin: bytes, limits: Limits) -> Ran:
    """Run a plan (`inside.supervisor`) to its end; a cancelled call ends the command's tree first.

    Raises:
        SandboxFailed: the command was never started, or the supervisor was killed.
    """
    for _ in range(2):  # the zygote may have been killed idle; then nothing was begun
        out, err = Clip(limits.output), Clip(limits.output)
        said = await _once(plan, stdin, limits, (out, err))
        if said:
            break
    if len(said) < 2:
        raise SandboxFailed(f"the sandbox's supervisor ended: {err.text[-400:]}")
    return _result(marshal.loads(said[1:]), out, err)


async def _once(plan: dict[str, Any], stdin: bytes, limits: Limits, clips: tuple[Clip, Clip]) -> bytes:
    """What the supervisor says: a byte once it has the plan, its result at the end."""
    pipes = Pipes()
    out, err = clips
    try:
        control = pipes.write_end()
        answer = await pipes.reader()
        feed = pipes.write_end() if stdin else None
        if feed is None:
            pipes.nothing()
        outs, errs = await pipes.reader(), await pipes.reader()
        shared().fork(pipes.theirs)
        pipes.sent()
        jobs = [
            _read(outs, out, err, limits.flood, control),
            _read(errs, err, out, limits.flood, control),
            _write(control, _message(plan)),
        ]
        if feed is not None:
            jobs.append(_feed(feed, stdin, pipes))
        return await _over(jobs, answer, limits.wall, lambda: pipes.end(control))
    except OSError as error:
        raise SandboxFailed(f"no process could be started: {error}") from None
    finally:
        pipes.close()


async def _over(
    jobs: list[Coroutine[Any, Any, None]],
    answer: asyncio.StreamReader,
    wall: float,
    end: Callable[[], None],
) -> bytes:
    """What the supervisor says in the end; it is over when this returns, whatever happens.

    Args:
        end: whoever calls it makes the supervisor end the tree and itself.
    """
    last = asyncio.ensure_future(answer.read())
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        async with asyncio.timeout(wall + GRACE):
            await asyncio.gather(*tasks)
            return await asyncio.shield(last)
    except TimeoutError:
        raise SandboxFailed(f"a command's processes did not end {GRACE:.0f} s after its time") from None
    finally:
        end()
        for task in tasks:
            task.cancel()
        await _done(last)


async def _done(last: asyncio.Future[bytes]) -> None:
    """Wait for it, `GRACE` at most; who is cancelled meanwhile, perhaps again, waits too."""
    again: asyncio.CancelledError | None = None
    end = asyncio.get_running_loop().time() + GRACE
    while not last.done() and (rest := end - asyncio.get_running_loop().time()) > 0:
        try:
            await asyncio.wait({last}, timeout=rest)
        except asyncio.CancelledError as error:
            again = error
    if again:
        raise again


def _result(said: dict[str, Any], out: Clip, err: Clip) -> Ran:
    """The supervisor's words as a `Ran`."""
    if not said["started"] and said["reason"] != "cancelled":
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
