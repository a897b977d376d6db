"""The interpreter as a tool: Python programs in the sandbox."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from sparring.tools.programs import LIMITS, run_program, told
from sparring.tools.toolbox.base import Tool
from sparring.tools.toolbox.functions import function_tool

PYTHON = "python"
"""Its name and its spec."""


def interpreter(seconds: float) -> Tool:
    """A tool that runs a program in an empty folder, as `run_program` does; nothing lasts between calls.

    Args:
        seconds: of a program from its start; waiting for a free processor does not count.
    """
    limits = replace(LIMITS, wall=seconds, cpu=ceil(seconds))

    async def python(code: str) -> str:
        """Run a Python program (standard library only, no network, no files) and read what it prints."""
        return told(await run_program(code, limits=limits))

    return replace(function_tool(python), limited=True)
