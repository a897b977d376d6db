"""One process from which the supervisors of all commands are forked, so that none has to start a Python.

Sparring starts it with the first command and tells it of each by one message on a socket: the open files that
the supervisor gets. It never sees a plan, a command or an environment, since those are read by the fork; its
own environment is empty, and nothing of Sparring but the socket is open in it. It ends with Sparring, by the
socket's end; supervisors that are under way then end by their own control pipes.
"""

from __future__ import annotations

import _socket
import os
import struct
import sys

from . import supervisor

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal

FILES = 5
"""Of each command: control pipe, answer pipe, standard input, output, error."""


def main() -> None:
    """Fork a supervisor for each message on the socket, whose number is the last argument."""
    number = int(sys.argv[-1])
    os.set_inheritable(number, False)
    line = _socket.socket(fileno=number)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries supervisors that ended
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # Sparring decides, not a key in the terminal
    size = struct.calcsize(f"{FILES}i")
    while True:
        said, carried, _, _ = line.recvmsg(1, _socket.CMSG_SPACE(size))
        if not said:
            os._exit(0)
        numbers = struct.unpack(f"{FILES}i", carried[0][2]) if carried else ()
        if len(numbers) == FILES and os.fork() == 0:
            line.close()
            supervised(*numbers)
        for number in numbers:
            os.close(number)


def supervised(control: int, answer: int, *standard: int) -> None:
    """What a fork does: it takes its files and runs the plan that comes on `control`."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for place, number in enumerate(standard):
        os.dup2(number, place)
        os.close(number)
    try:
        supervisor.run(control, answer)
    except BaseException as error:  # nobody is there to read a traceback
        os.write(2, f"{type(error).__name__}: {error}".encode())
    os._exit(1)
