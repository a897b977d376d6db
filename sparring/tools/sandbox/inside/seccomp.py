"""A seccomp filter: system calls that the command may not make, as classic BPF written by hand.

Everything is allowed but what is listed: it shuts the network and the ways around Landlock (namespaces,
mounts, io_uring, tracing, shared memory with processes outside), not the whole kernel. Numbers are from
`arch/x86/entry/syscalls/syscall_64.tbl` and `include/uapi/asm-generic/unistd.h` (aarch64).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from .linux import PR_SET_SECCOMP, prctl

MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Audit number of the architecture, and its column in the tables."""

ABSENT = -1
DENIED = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "iopl": (172, ABSENT),
    "ioperm": (173, ABSENT),
    "modify_ldt": (154, ABSENT),
    # shared with every process of the user, and left behind when all processes are gone
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    # may be held in memory that is mapped nowhere, where no limit sees it; libraries fall back to files
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
}
OF_ITSELF = {
    "prlimit64": (302, 261, {0: 0}),
    "sched_setaffinity": (203, 122, {0: 0}),
    "sched_setscheduler": (144, 119, {0: 0}),
    "sched_setparam": (142, 118, {0: 0}),
    "sched_setattr": (314, 274, {0: 0}),
    "setpriority": (141, 140, {0: 0, 1: 0}),
    "ioprio_set": (251, 30, {0: 1, 1: 0}),
}
"""Numbers, and arguments by position that mean the caller itself; otherwise these reach every process of the
user, and a limit on processor time is as good as a signal. Landlock has no rule for them."""
TRUNCATE, WATCH = (76, 45), (254, 27)
SOCKET, CLONE, IOCTL, CLONE3 = (41, 198), (56, 220), (16, 29), (435, 435)

NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
LOOPBACK = (1, 2, 10, 16)
"""AF_UNIX, AF_INET, AF_INET6, AF_NETLINK: with a network namespace of its own these stay inside it."""

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
"""Byte offsets in `struct seccomp_data`; arguments are 8 bytes each, the low half first."""
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000
X32 = 0x40000000

Step = tuple[int, int, int, int]


def _answer(value: int) -> Step:
    return (RETURN, 0, 0, value)


def _if_number(number: int, then: list[Step]) -> list[Step]:
    """`then` is run where the call has this number; it must end in an answer."""
    return [(EQUAL, 0, len(then), number), *then] if number != ABSENT else []


def _argument(position: int) -> Step:
    return (LOAD, 0, 0, ARGUMENTS + 8 * position)


def program(machine: str, *, loopback: bool = False, truncate: bool = True, watch: bool = True) -> bytes:
    """The filter for one architecture, as an array of `struct sock_filter`.

    Args:
        machine: as `os.uname` says it: `x86_64` or `aarch64`.
        loopback: allow sockets of the four usual families; there must be a network namespace of its own.
        truncate: False denies `truncate(2)`, which Landlock checks only from ABI 3 on.
        watch: False denies `inotify_add_watch(2)`, which Landlock does not check: it tells the names of what
            others make in folders outside.

    Raises:
        KeyError: another architecture.
    """
    architecture, column = MACHINES[machine]
    refuse, missing = _answer(REFUSE | errno.EPERM), _answer(REFUSE | errno.ENOSYS)
    steps: list[Step] = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, architecture),
        _answer(KILL),
        (LOAD, 0, 0, NUMBER),
    ]
    if machine == "x86_64":  # the same calls under other numbers
        steps += [(AT_LEAST, 0, 1, X32), missing]
    denied = list(DENIED.values()) + ([] if truncate else [TRUNCATE]) + ([] if watch else [WATCH])
    for numbers in denied:
        steps += _if_number(numbers[column], [refuse])
    for *both, itself in OF_ITSELF.values():
        asked = [
            step for at, value in itself.items() for step in (_argument(at), (EQUAL, 1, 0, value), refuse)
        ]
        steps += _if_number(both[column], [*asked, _answer(ALLOW)])
    # its arguments lie in memory, out of a filter's sight; without it the C library falls back to clone
    steps += _if_number(CLONE3[column], [missing])
    clone = [_argument(0), (ANY_BIT, 0, 1, NEW_NAMESPACES), refuse, _answer(ALLOW)]
    steps += _if_number(CLONE[column], clone)
    terminal = [_argument(1), (EQUAL, 1, 0, TIOCSTI), (EQUAL, 0, 1, TIOCLINUX), refuse, _answer(ALLOW)]
    steps += _if_number(IOCTL[column], terminal)
    families = [(EQUAL, len(LOOPBACK) - index, 0, each) for index, each in enumerate(LOOPBACK)]
    socket = [_argument(0), *families, refuse, _answer(ALLOW)] if loopback else [refuse]
    steps += _if_number(SOCKET[column], socket)
    steps.append(_answer(ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def install(*, loopback: bool, truncate: bool, watch: bool) -> None:
    """Put the filter on this process and all it starts, for good; `no_new_privs` must be set.

    Raises:
        OSError: the kernel refused.
    """
    code = program(os.uname().machine, loopback=loopback, truncate=truncate, watch=watch)
    held = ctypes.create_string_buffer(code, len(code))
    head = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(held)))
    prctl(PR_SET_SECCOMP, 2, ctypes.addressof(head))
