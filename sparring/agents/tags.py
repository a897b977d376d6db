"""One word in one tag, read strictly: `<answer>yes</answer>`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from sparring.agents.parsing import ParseError

T = TypeVar("T")
_FLAGS = re.IGNORECASE | re.ASCII


def one_tag(text: str, name: str, words: Mapping[str, T]) -> tuple[T, str]:
    """What the word in the tag stands for, and what is said before the tag.

    Two tags are an error even where they agree, or one of them would not count: nobody may guess which one
    is meant, and who repeats the prompt has said nothing.

    Args:
        words: lower-case word -> what it stands for; any case is read.
    """
    if len(re.findall(f"<{name}>", text, _FLAGS)) > 1:
        raise ParseError("ambiguous", f"several <{name}> tags")
    found = re.search(rf"<{name}>[ \t]*({'|'.join(words)})[ \t]*</{name}>", text, _FLAGS)
    if found is None:
        raise ParseError("missing", f"no <{name}> tag with one of: {', '.join(words)}")
    return words[found[1].lower()], text[: found.start()].strip()
