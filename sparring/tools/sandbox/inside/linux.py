"""The system calls that Python's library does not offer, through ctypes."""

from __future__ import annotations

import ctypes
import os

LIBC = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_PRIVATE, MS_NOSUID, MS_NODEV = 0x1000, 0x4000, 1 << 18, 2, 4


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def syscall(number: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """A raw system call; integers are passed as 64 bits.

    Raises:
        OSError: the call failed.
    """
    given = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return _checked(int(LIBC.syscall(ctypes.c_long(number), *given)), f"system call {number}")


def prctl(option: int, value: int, pointer: int = 0) -> None:
    """`prctl(2)`. Raises OSError."""
    given = [ctypes.c_ulong(each) for each in (value, pointer, 0, 0)]
    _checked(int(LIBC.prctl(ctypes.c_int(option), *given)), f"prctl {option}")


def unshare(flags: int) -> None:
    """`unshare(2)`. Raises OSError."""
    _checked(int(LIBC.unshare(ctypes.c_int(flags))), "unshare")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """`mount(2)`. Raises OSError."""
    texts = [ctypes.c_char_p(os.fsencode(text)) for text in (source, target, kind)]
    data = ctypes.c_char_p(os.fsencode(options))
    _checked(int(LIBC.mount(*texts, ctypes.c_ulong(flags), data)), f"mount on {target}")
