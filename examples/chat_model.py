"""Debates between LangChain chat models: any provider that LangChain reaches, for play without training.

    .venv/bin/python examples/chat_model.py                          LangChain's own fake model, offline
    .venv/bin/python examples/chat_model.py openai:gpt-4o            a real one; needs OPENAI_API_KEY and
                                                                     langchain-openai
    .venv/bin/python examples/chat_model.py openai:gpt-4o anthropic:claude-sonnet-4-5    two who differ

The first model debates, the last one moderates. A provider's model is named in a spec, as on the command line
(`--engine langchain:PROVIDER:MODEL`); a model that you have made yourself is handed in as it is. Prints each
answer and its calls. Providers give no token ids, so `evolve` refuses to train on what their models say.
"""

import sys
from typing import Any

from langchain_core.language_models.fake_chat_models import FakeListChatModel

import sparring

TASKS = [
    {"id": "months", "question": "How many months have 28 days?", "answer": "12"},
    {"id": "legs", "question": "How many legs have two spiders?", "answer": "16"},
]
VERDICT = '{"preference": "Yes", "side": "affirmative", "reason": "it counts all", "answer": "12"}'


def models(names: list[str]) -> list[Any]:
    """Who debates and who judges."""
    if names:
        return [f"langchain:{name}" for name in names]
    return [
        FakeListChatModel(responses=["Every month has them.\nAnswer: 12"]),
        FakeListChatModel(responses=[VERDICT]),
    ]


def main(names: list[str]) -> None:
    debater, *others = models(names)
    referee = others[-1] if others else debater
    result = sparring.play(
        "mad",
        TASKS,
        engine=debater,
        roles={"moderator": referee, "judge": referee},
        memory="chat_model.db",
        run=f"chat-{'-'.join(names) or 'fake'}".replace("/", "-"),
        max_tokens=200,
    )
    for line in result:
        print(line.task_id, line.answer, "right" if line.correct else "wrong", f"{line.calls} calls")


if __name__ == "__main__":
    main(sys.argv[1:])
