"""The conversations of one episode as a tree in which each message is stored once.

A conversation is a path from a root; an agent's history, another agent's view that shares its
beginning, and a reply all hang on the same nodes. Content is a list of typed parts; plain text is
one `text` part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ..errors import JournalError, UserError
from .rows import Row
from .types import canonical, digest

ROOT = 0
PART_KEYS = {
    "text": {"text"},
    "image_url": {"image_url"},
    "blob": {"hash"},
    "tool_call": set(),
    "tool_result": set(),
}
Content = str | list[dict[str, Any]]
Node = tuple[int, str, str, bool]
"""(parent id, role, text or JSON of the parts, whether it is parts): hashable without hashing long
texts again and again, since Python keeps a string's hash."""
Found = tuple[int, int]
"""The id of the last stored message of a conversation's beginning, and how many messages it has."""


def parts_of(content: Content) -> list[dict[str, Any]]:
    """Content as typed parts.

    Raises:
        UserError: a part has no known `type` or misses its field.
    """
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    for part in content:
        if part.get("type") not in PART_KEYS:
            raise UserError(
                f"message part `{part.get('type')}` is not one of: {', '.join(sorted(PART_KEYS))}"
            )
        if missing := PART_KEYS[part["type"]] - part.keys():
            raise UserError(f"message part `{part['type']}` needs {sorted(missing)}")
    return content


def content_of(parts: Content) -> Content:
    """The inverse of `parts_of`: a single text part is plain text again."""
    if isinstance(parts, str):
        return parts
    if len(parts) == 1 and parts[0].keys() == {"type", "text"} and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    return parts


def said(content: Any) -> str:
    """The text in content, whatever else is there."""
    if isinstance(content, str):
        return content
    parts = (
        [part.get("text") for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    )
    return "".join(text for text in parts if isinstance(text, str))


def path(rows: Mapping[int, Any], last: int) -> list[int]:
    """Ids of a conversation from its root to message `last`, of `rows` (id -> row with a `parent_id`).

    It begins where a parent is not among them: `ROOT`, or one that is missing or comes twice in a journal
    that something else has changed.
    """
    found: dict[int, None] = {}
    while last in rows and last not in found:
        found[last] = None
        last = rows[last].parent_id
    return list(found)[::-1]


def _node(parent: int, role: str, content: Content) -> Node:
    if isinstance(content, str):
        return (parent, role, content, False)
    plain = content_of(content)
    if isinstance(plain, str):
        return (parent, role, plain, False)
    return (parent, role, json.dumps(parts_of(plain), sort_keys=True), True)


class Conversation:
    """Interns messages of one episode; new ones come back as rows to write."""

    def __init__(self, episode: int, ids: Any) -> None:
        self._episode, self._ids = episode, ids
        self._nodes: dict[Node, int] = {}
        self._chains: dict[int, bytes] = {ROOT: b""}
        self._text: dict[int, Content] = {}

    def find(self, messages: Sequence[Mapping[str, Any]]) -> Found:
        """How much of a conversation is stored already."""
        head, nodes = ROOT, self._nodes
        for position, message in enumerate(messages):
            known = nodes.get(_node(head, message["role"], message["content"]))
            if known is None:
                return head, position
            head = known
        return head, len(messages)

    def chain(self, messages: Sequence[Mapping[str, Any]], found: Found | None = None) -> bytes:
        """A hash of the whole conversation, the same on any machine."""
        head, start = found or self.find(messages)
        state = self._chains[head]
        for message in messages[start:]:
            state = digest(state, message["role"], _content_hash(message["content"]))
        return state

    def intern(
        self, messages: Sequence[Mapping[str, Any]], found: Found = (ROOT, 0)
    ) -> tuple[int, list[tuple[str, Row]]]:
        """The id of the conversation's last message, and the rows not yet written."""
        (head, start), rows = found, []
        for message in messages[start:]:
            head, new = self.add(head, message["role"], message["content"])
            rows.extend(new)
        return head, rows

    def add(self, parent: int, role: str, content: Content) -> tuple[int, list[tuple[str, Row]]]:
        """One message under `parent`: its id, and its row if it is new."""
        node = _node(parent, role, content)
        known = self._nodes.get(node)
        if known is not None:
            return known, []
        message_id: int = self._ids.take("messages")
        content_hash = self._remember(message_id, node, content)
        row = {
            "id": message_id,
            "episode_number": self._episode,
            "parent_id": parent,
            "role": role,
            "content_hash": content_hash,
            "content": parts_of(content),
        }
        return message_id, [("messages", row)]

    def load(self, message_id: int, parent: int, role: str, parts: list[dict[str, Any]]) -> None:
        """Take over a stored message; parents must come first."""
        if parent not in self._chains:
            raise JournalError(
                f"message {message_id} of episode number {self._episode} hangs on no stored message"
            )
        content = content_of(parts)
        self._remember(message_id, _node(parent, role, content), content)

    def text(self, message_id: int | None) -> str:
        """The text of a stored message; empty where there is none."""
        content = self._text.get(message_id, "") if message_id is not None else ""
        return content if isinstance(content, str) else "".join(p.get("text", "") for p in content)

    def _remember(self, message_id: int, node: Node, content: Content) -> bytes:
        self._nodes[node] = message_id
        self._text[message_id] = content_of(content)
        content_hash = _content_hash(content)
        self._chains[message_id] = digest(self._chains[node[0]], node[1], content_hash)
        return content_hash


def _content_hash(content: Content) -> bytes:
    plain = content_of(content)
    return _text_hash(plain) if isinstance(plain, str) else digest(canonical(plain), b"parts")


@lru_cache(maxsize=512)
def _text_hash(text: str) -> bytes:
    """A text is hashed when it is asked about and again when it is stored; system prompts, everywhere."""
    return digest(text)
