"""The command line, thin: it reads options, calls what the SDK calls, and says how it went.

Results go to standard output or `--out`, everything else to standard error. Exit status: 0 success,
1 something failed that can be resumed, 2 bad usage or input, 130 interrupted. Nothing heavy is
imported before a command needs it.
"""

from sparring.cli.boundary import main
from sparring.cli.commands import app

__all__ = ["app", "main"]
