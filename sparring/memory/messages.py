"""The conversations of one episode as a tree in which each message is stored once.

A conversation is a path from a root; an agent's history, another agent's view that shares its
beginning, and a reply all hang on the same nodes. Content is a list of typed parts; plain text is
one `text` part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import UserError
from .types import canonical, digest
from .writer import Row

ROOT = 0
PART_KEYS = {
    "text": {"text"},
    "image_url": {"image_url"},
    "blob": {"hash"},
    "tool_call": set(),
    "tool_result": set(),
}
Node = tuple[int, str, str]
"""(parent id, role, content as text or JSON): hashable without hashing long texts again and again,
since Python keeps a string's hash."""


def parts_of(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
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


def content_of(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """The inverse of `parts_of`: a single text part is plain text again."""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"} and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    return parts


def _node(parent: int, role: str, content: str | list[dict[str, Any]]) -> Node:
    # The list form is marked, so that a text that looks like JSON is not taken for parts.
    return (
        parent,
        role,
        content if isinstance(content, str) else "\x00" + json.dumps(parts_of(content), sort_keys=True),
    )


class Conversation:
    """Interns messages of one episode; new ones come back as rows to write."""

    def __init__(self, episode: str, ids: Any) -> None:
        self._episode, self._ids = episode, ids
        self._nodes: dict[Node, int] = {}
        self._chains: dict[int, bytes] = {ROOT: b""}
        self._text: dict[int, str | list[dict[str, Any]]] = {}

    def chain(self, messages: Sequence[Mapping[str, Any]]) -> bytes:
        """A hash of the whole conversation, the same on any machine."""
        head, start = ROOT, 0
        for start, message in enumerate(messages):  # noqa: B007 - the position reached is used below
            known = self._nodes.get(_node(head, message["role"], message["content"]))
            if known is None:
                break
            head = known
        else:
            start = len(messages)
        state = self._chains[head]
        for message in messages[start:]:
            state = self._link(state, message["role"], message["content"])
        return state

    def intern(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, list[tuple[str, Row]]]:
        """The id of the conversation's last message, and the rows not yet written."""
        head, rows = ROOT, []
        for message in messages:
            head, new = self.add(head, message["role"], message["content"])
            rows.extend(new)
        return head, rows

    def add(
        self, parent: int, role: str, content: str | list[dict[str, Any]]
    ) -> tuple[int, list[tuple[str, Row]]]:
        """One message under `parent`: its id, and its row if it is new."""
        node = _node(parent, role, content)
        known = self._nodes.get(node)
        if known is not None:
            return known, []
        message_id = self._ids.take("messages")
        parts = parts_of(content)
        self._remember(message_id, node, content)
        row = {
            "id": message_id,
            "episode_id": self._episode,
            "parent_id": parent,
            "role": role,
            "content_hash": _content_hash(content),
            "content": parts,
        }
        return message_id, [("messages", row)]

    def load(self, message_id: int, parent: int, role: str, parts: list[dict[str, Any]]) -> None:
        """Take over a stored message; parents must come first."""
        content = content_of(parts)
        self._remember(message_id, _node(parent, role, content), content)

    def text(self, message_id: int | None) -> str:
        """The text of a stored message; empty where there is none."""
        content = self._text.get(message_id, "") if message_id is not None else ""
        return content if isinstance(content, str) else "".join(p.get("text", "") for p in content)

    def _remember(self, message_id: int, node: Node, content: str | list[dict[str, Any]]) -> None:
        self._nodes[node] = message_id
        self._text[message_id] = content
        self._chains[message_id] = self._link(self._chains[node[0]], node[1], content)

    @staticmethod
    def _link(state: bytes, role: str, content: str | list[dict[str, Any]]) -> bytes:
        return digest(state, role, _content_hash(content))


def _content_hash(content: str | list[dict[str, Any]]) -> bytes:
    return digest(content) if isinstance(content, str) else digest(canonical(content), b"parts")
