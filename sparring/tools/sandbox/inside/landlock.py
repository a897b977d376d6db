"""Landlock: which files a process and its children may touch, enforced by the kernel without root.

Numbers are those of `include/uapi/linux/landlock.h`. Rights that a kernel does not know yet are left out:
ABI 1 (5.13) files, 2 renames between folders, 3 truncation, 4 TCP, 5 ioctl on devices, 6 (6.12) abstract
sockets and signals.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct

from .linux import syscall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

CREATE, ADD, RESTRICT = 444, 445, 446

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_BLOCK = 1 << 6, 1 << 11
TRUNCATE, IOCTL_DEV = 1 << 14, 1 << 15
RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many of the lowest bits an ABI knows; 16 from ABI 5 on."""

READ = EXECUTE | READ_FILE | READ_DIR
OF_A_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
TCP = 0b11
SCOPES = 0b11
"""Abstract sockets and signals reach only processes of the same or an inner domain."""


def abi() -> int:
    """The kernel's Landlock ABI; 0 where it has none or it is switched off."""
    try:
        return syscall(CREATE, None, 0, 1)
    except OSError:
        return 0


def _attribute(version: int, tcp: bool = True) -> bytes:
    handled = (1 << RIGHTS.get(version, 16)) - 1
    words = [handled] + ([TCP * tcp] if version >= 4 else []) + ([SCOPES] if version >= 6 else [])
    return struct.pack(f"={len(words)}Q", *words)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        where = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what does not exist, or is not reachable for this user, stays forbidden
    try:
        if not stat.S_ISDIR(os.fstat(where).st_mode):
            rights &= OF_A_FILE
        syscall(ADD, ruleset, 1, struct.pack("=Qi", rights, where), 0)
    finally:
        os.close(where)


def restrict(read: Iterable[str], write: Iterable[str], devices: Iterable[str], tcp: bool) -> None:
    """Shut this process and all it starts in, for good.

    Args:
        read: trees and files that may be read and executed.
        write: trees in which everything but making device nodes is allowed.
        devices: device files that may be read and written (`/dev/null`).
        tcp: forbid TCP ports too, which seccomp does already where it forbids sockets.

    Raises:
        OSError: the kernel refused; nothing may be run then.
    """
    version = abi()
    attribute = _attribute(version, tcp)
    handled = struct.unpack_from("=Q", attribute)[0]
    ruleset = syscall(CREATE, ctypes.create_string_buffer(attribute, len(attribute)), len(attribute), 0)
    for path in read:
        _allow(ruleset, path, READ & handled)
    for path in write:
        _allow(ruleset, path, handled & ~(MAKE_CHAR | MAKE_BLOCK | IOCTL_DEV))
    for path in devices:
        _allow(ruleset, path, (READ_FILE | WRITE_FILE | TRUNCATE) & handled)
    syscall(RESTRICT, ruleset, 0)
    os.close(ruleset)
