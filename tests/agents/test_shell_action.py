"""The engineer's format: exactly one shell block, or an error that says what was wrong."""

from __future__ import annotations

import pytest

from sparring.agents.parsing import ParseError
from sparring.agents.shell import LONGEST, action

FENCE = "```"


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("I look.\n\n```bash\nls -la\n```\nThat is all.", "ls -la"),
        ("```sh\nls\n```", "ls"),
        ("```shell\na\nb\n\n```", "a\nb\n"),
        ("``` bash\nls\n```", "ls"),
        ("```bash\r\nls\r\n```\r\n", "ls\r"),
        ("First python:\n```python\nprint(1)\n```\nthen\n```bash\nls\n```", "ls"),
        ("````bash\ncat > a.md <<'E'\n```bash\nx\n```\nE\n````", "cat > a.md <<'E'\n```bash\nx\n```\nE"),
        ("```bash\necho '```'\n```", "echo '```'"),
        ("```BASH\nls\n```", "ls"),
        ("````text\n```bash\nnot this\n```\n````\n```bash\nthis\n```", "this"),
        ("```bash\necho ü\n```", "echo ü"),
    ],
)
def test_one_block_is_the_command(text: str, command: str) -> None:
    assert action(text).command == command


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "empty"),
        ("just words", "missing"),
        ("```\nls\n```", "missing"),
        ("```python\nprint(1)\n```", "missing"),
        ("`bash ls`", "missing"),
        ("```bash ls```", "missing"),
        ("```bash\nls\n```\n```bash\npwd\n```", "ambiguous"),
        ("```bash\nls", "unbalanced"),
        ("````bash\nls\n```", "unbalanced"),
        ("```bash\n \n\n```", "empty"),
        ("```bash\nprintf '\0'\n```", "invalid"),
        ("```bash\necho \ud800\n```", "invalid"),
        (f"```bash\n{'x' * (LONGEST + 1)}\n```", "too_long"),
    ],
)
def test_everything_else_is_named(text: str, code: str) -> None:
    with pytest.raises(ParseError) as caught:
        action(text)
    assert caught.value.code == code
