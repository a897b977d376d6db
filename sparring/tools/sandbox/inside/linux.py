"""The system calls that Python's library does not offer, through ctypes."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

LIBC = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

CLONE_NEWNS = 0x00020000
CLONE_NEW_ALL = CLONE_NEWNS | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
"""Mounts, control groups, host name, IPC, users, processes, network."""
CAPABILITIES_3 = 0x20080522
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


def setns(file: int, flags: int) -> None:
    """`setns(2)`, with a file that stands for a process (Linux 5.8). Raises OSError."""
    _checked(int(LIBC.setns(ctypes.c_int(file), ctypes.c_int(flags))), "setns")


def drop_capabilities() -> None:
    """Give up all capabilities, those that a program could bring back included. Raises OSError."""
    for number in range(64):
        try:
            prctl(PR_CAPBSET_DROP, number)
        except OSError as error:
            if error.errno != errno.EINVAL or number == 0:
                raise
            break  # one more than the kernel knows
    header, none = struct.pack("=Ii", CAPABILITIES_3, 0), bytes(24)
    _checked(int(LIBC.capset(header, none)), "capset")
