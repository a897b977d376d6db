"""The software engineer's format: one shell command a reply, in a fenced block."""

from __future__ import annotations

from sparring.agents.fences import blocks
from sparring.agents.parsing import ParseError, Parser
from sparring.agents.results import Result, Stated

SHELLS = ("bash", "sh", "shell")
"""What a block is labelled with that is meant to be run."""
LONGEST = 100_000
"""Bytes of an action: the system passes no longer text to a program (128 KiB)."""
_ASK = "Reply with a thought and exactly one block that begins with ```bash and ends with ```."


class Action(Result):
    """A shell command, of one line or many."""

    command: str = Stated


def shell_blocks(text: str) -> list[str]:
    """The contents of the blocks that are labelled as shell; blocks of other kinds are passed over.

    Raises:
        ParseError: a shell block is never closed.
    """
    return [content for _, content in blocks(text, SHELLS, "shell")]


def _action(text: str) -> Action:
    blocks = shell_blocks(text)
    if not blocks:
        raise ParseError("missing", "no block that begins with ```bash")
    if len(blocks) > 1:
        raise ParseError("ambiguous", f"{len(blocks)} shell blocks; one is run at a time")
    command = blocks[0]
    if not command.strip():
        raise ParseError("empty", "the shell block is empty")
    if "\0" in command:
        raise ParseError("invalid", "the command holds a NUL character")
    if (size := len(command.encode("utf-8", "surrogatepass"))) > LONGEST:
        raise ParseError("too_long", f"the command has {size} bytes; at most {LONGEST} can be run")
    try:
        command.encode()
    except UnicodeEncodeError:
        raise ParseError("invalid", "the command holds half a character (a lone surrogate)") from None
    return Action(command=command)


action: Parser[Action] = Parser("shell_action", "1", _ASK, _action)
