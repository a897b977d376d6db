"""The filter and the output buffer, checked without running anything."""

from __future__ import annotations

import errno
import struct

import pytest

from sparring.tools.sandbox.base import Clip
from sparring.tools.sandbox.inside import landlock, seccomp

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def verdict(code: bytes, architecture: int, number: int, *arguments: int) -> int:
    """A classic BPF machine, as far as the filter needs it (`struct seccomp_data` is its packet)."""
    data = struct.pack("=iIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    steps = [struct.unpack_from("=HBBI", code, at) for at in range(0, len(code), 8)]
    at, held = 0, 0
    while True:
        kind, yes, no, value = steps[at]
        at += 1
        if kind == seccomp.RETURN:
            return int(value)
        if kind == seccomp.LOAD:
            held = struct.unpack_from("=I", data, value)[0]
            continue
        true = {
            seccomp.EQUAL: held == value,
            seccomp.AT_LEAST: held >= value,
            seccomp.ANY_BIT: bool(held & value),
        }[kind]
        at += yes if true else no


EPERM, ENOSYS, ALLOW = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS, 0x7FFF0000
CASES = [
    # name, (x86_64, aarch64), arguments, verdict; numbers from the kernel's tables, apart from the module's
    ("read", (0, 63), (), ALLOW),
    ("socketpair", (53, 199), (1,), ALLOW),
    ("socket", (41, 198), (2,), EPERM),
    ("ptrace", (101, 117), (), EPERM),
    ("process_vm_writev", (311, 271), (), EPERM),
    ("mount", (165, 40), (), EPERM),
    ("setns", (308, 268), (), EPERM),
    ("open_by_handle_at", (304, 265), (), EPERM),
    ("keyctl", (250, 219), (), EPERM),
    ("kexec_load", (246, 104), (), EPERM),
    ("io_uring_setup", (425, 425), (), EPERM),
    ("clone3", (435, 435), (), ENOSYS),
    ("fork by clone", (56, 220), (17,), ALLOW),
    ("thread by clone", (56, 220), (0x3D0F00,), ALLOW),
    ("clone with a new network", (56, 220), (0x40000000 | 17,), EPERM),
    ("clone with new mounts", (56, 220), (0x20000 | 17,), EPERM),
    ("ioctl TCGETS", (16, 29), (0, 0x5401), ALLOW),
    ("ioctl TIOCSTI", (16, 29), (0, 0x5412), EPERM),
    ("ioctl TIOCLINUX", (16, 29), (0, 0x541C), EPERM),
    ("truncate", (76, 45), (), ALLOW),
    ("memfd_create", (319, 279), (), EPERM),
    ("own limits", (302, 261), (0, 7), ALLOW),
    ("another's limits", (302, 261), (1234, 7), EPERM),
    ("own processors", (203, 122), (0,), ALLOW),
    ("another's processors", (203, 122), (1234,), EPERM),
    ("own priority", (141, 140), (0, 0, 5), ALLOW),
    ("another's priority", (141, 140), (0, 1234, 5), EPERM),
    ("the user's priority", (141, 140), (2, 0, 5), EPERM),
    ("own disk priority", (251, 30), (1, 0), ALLOW),
    ("the user's disk priority", (251, 30), (3, 0), EPERM),
    ("inotify_add_watch", (254, 27), (), ALLOW),
]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_the_filter_decides(machine: str, case: tuple[str, tuple[int, int], tuple[int, ...], int]) -> None:
    _, numbers, arguments, wanted = case
    number = numbers[machine == "aarch64"]
    assert verdict(seccomp.program(machine), AUDIT[machine], number, *arguments) == wanted


def test_other_numbers_for_the_same_calls_are_shut() -> None:
    code = seccomp.program("x86_64")
    assert verdict(code, 0x40000003, 102) == 0x80000000, "32-bit calls end the process"
    assert verdict(code, AUDIT["x86_64"], 0x40000000 | 41, 2) == ENOSYS, "x32"


def test_options_of_the_filter() -> None:
    loopback = seccomp.program("x86_64", loopback=True)
    families = {family: verdict(loopback, AUDIT["x86_64"], 41, family) for family in range(46)}
    assert {family for family, said in families.items() if said == ALLOW} == {1, 2, 10, 16}
    assert set(families.values()) == {ALLOW, EPERM}
    older = seccomp.program("aarch64", truncate=False)
    assert verdict(older, AUDIT["aarch64"], 45) == EPERM
    assert verdict(seccomp.program("aarch64", watch=False), AUDIT["aarch64"], 27) == EPERM


@pytest.mark.parametrize(
    ("abi", "words"),
    [
        (1, [0x1FFF]),
        (2, [0x3FFF]),
        (3, [0x7FFF]),
        (4, [0x7FFF, 3]),
        (5, [0xFFFF, 3]),
        (6, [0xFFFF, 3, 3]),
        (9, [0xFFFF, 3, 3]),
    ],
)
def test_an_older_kernel_is_asked_for_what_it_knows(abi: int, words: list[int]) -> None:
    assert landlock._attribute(abi) == struct.pack(f"={len(words)}Q", *words)


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_the_buffer_keeps_head_and_tail_and_stays_small(piece: int) -> None:
    data = bytes(range(65, 91)) * 40
    clip = Clip(101)
    for at in range(0, len(data), piece):
        clip.add(data[at : at + piece])
        assert len(clip.head) + len(clip.tail) <= 101 + 101 + piece
    text = clip.text
    assert text == f"{data[:51].decode()}\n[... 939 of 1040 bytes left out ...]\n{data[-50:].decode()}"
    short = Clip(101)
    short.add(data[:60])
    short.add(data[60:101])
    assert short.text == data[:101].decode()
