"""What is said survives as it was: typed parts, NUL, surrogates, long texts; each message once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_helpers import AGENT, TASK, Model, drive, made, version
from sqlalchemy import func, select

from sparring.errors import JournalError, UserError
from sparring.memory.journal import Journal
from sparring.memory.messages import Conversation
from sparring.memory.queries import transcript
from sparring.memory.records import Ask
from sparring.memory.schema import Message
from sparring.memory.types import digest, dumps

PARTS = [
    {"type": "text", "text": "Look:"},
    {"type": "image_url", "image_url": {"url": "data:x"}},
    {"type": "blob", "hash": "b1", "media_type": "image/png"},
    {"type": "tool_call", "id": "1", "name": "run", "arguments": {"b": 1, "a": [None, 1.5]}},
    {"type": "tool_result", "id": "1", "content": "\x00\udfff"},
]
LOOK_LIKE_JSON = ['[{"type":"text","text":"x"}]', '\x00[{"type"']
TEXTS = ["", " ", "a\x00b", "\ud800 lone", "😀 ünï", "x" * 100_000, *LOOK_LIKE_JSON]
SINGLE = [{"type": "text", "text": "single"}]


class Counting:
    """Ids for a conversation on its own."""

    def __init__(self) -> None:
        self.last = 0

    def take(self, _: str) -> int:
        self.last += 1
        return self.last


@pytest.mark.parametrize("content", [*TEXTS, PARTS, SINGLE], ids=lambda c: repr(c)[:20])
async def test_any_content_survives_a_restart(memory: str, content: Any) -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": content}]
    text = content if isinstance(content, str) else "\ud800\x00"
    model = Model(lambda place: made(place, text=text))
    for round_ in range(2):
        with Journal.open(memory) as journal:
            run = drive(journal)
            episode = run.episode(TASK, seats={})
            [turn] = await episode.turns(["s/0"], Ask(AGENT, version(journal), messages), model)
            assert turn.text == text and turn.replayed == bool(round_)
            [said] = transcript(journal, episode.id)
            expected = "single" if content == SINGLE else content
            assert said.text == text and said.messages[1]["content"] == expected
            run.release()
    assert len(model.calls) == 1


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "video"}, "`video` is not one of: blob"),
        ({"type": "text"}, r"needs \['text'\]"),
        ({}, "`None`"),
    ],
)
async def test_unknown_parts_are_refused(journal: Journal, part: Any, words: str) -> None:
    episode, model = drive(journal).episode(TASK, seats={}), Model()
    messages = [{"role": "user", "content": [part, part]}]
    with pytest.raises(UserError, match=words):
        await episode.turns(["s/0"], Ask(AGENT, version(journal), messages), model)
    assert not model.calls and episode.broken is None


async def test_shared_beginnings_are_stored_once(journal: Journal) -> None:
    episode = drive(journal).episode(TASK, seats={})
    start = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    for key, end in (("a/0", "x"), ("b/0", "y"), ("c/0", "x")):
        messages = [*start, {"role": "user", "content": end}]
        await episode.turns(
            [key], Ask(AGENT, version(journal), messages), Model(lambda p: made(p, text="same"))
        )
    with journal.engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(Message)).scalar_one() == 2 + 2 + 2


messages_lists = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["user", "assistant"]), st.sampled_from(["", "a", "b", "\x00"])), max_size=5
    ),
    max_size=8,
)


@settings(max_examples=200, deadline=None)
@given(messages_lists)
def test_chain_is_the_same_stored_and_unstored(said: list[list[tuple[str, str]]]) -> None:
    known, rows = Conversation("e", Counting()), []
    chains: dict[bytes, Any] = {}
    for pairs in said:
        messages = [{"role": role, "content": content} for role, content in pairs]
        fresh = Conversation("other", Counting()).chain(messages)
        assert known.chain(messages) == fresh
        assert chains.setdefault(fresh, pairs) == pairs
        _, new = known.intern(messages, known.find(messages))
        rows += [row for _, row in new]
        assert known.chain(messages) == fresh
    loaded = Conversation("e", Counting())
    for row in rows:
        loaded.load(row["id"], row["parent_id"], row["role"], row["content"])
    for pairs in said:
        messages = [{"role": role, "content": content} for role, content in pairs]
        assert loaded.chain(messages) == known.chain(messages) and loaded.find(messages)[1] == len(messages)


def test_a_message_without_its_parent_is_refused() -> None:
    with pytest.raises(JournalError, match="hangs on no stored message"):
        Conversation("e", Counting()).load(5, 4, "user", [{"type": "text", "text": "x"}])


@given(st.lists(st.text(max_size=3), max_size=4), st.lists(st.text(max_size=3), max_size=4))
def test_digest_tells_sequences_apart(left: list[str], right: list[str]) -> None:
    assert (digest(*left) == digest(*right)) == (left == right)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x, max_size=3)))
def test_dumps_is_utf8_and_reads_back(value: Any) -> None:
    import json

    text = dumps(value)
    assert json.loads(text.encode().decode()) == value and "\x00" not in text
