"""Scripted judges, each of which has one bias or none, and pairs on which the biases show."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from sparring.agents.engines.base import Request, Scored, ScoreRequest
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.errors import EngineError

SOUND, POOR = "a sound answer", "a poor answer"
COUNT = 12


def pairs(count: int = COUNT) -> list[dict[str, Any]]:
    """Labels in turn 1 and 2; of four pairs in a row the better response is longer in two."""
    rows = []
    for number in range(count):
        better, worse = f"{SOUND} {number}", f"{POOR} {number}"
        if number // 2 % 2:
            better += " at length"
        else:
            worse += " at length"
        texts, label = ([better, worse], 1) if number % 2 == 0 else ([worse, better], 2)
        rows.append({"id": f"p{number}", "question": f"task {number}", "responses": texts, "answer": label})
    return rows


def said(request: Request) -> str:
    return "\n".join(str(message["content"]) for message in request.messages)


def section(text: str, name: str) -> str:
    """What stands under a heading, up to the next one."""
    found = re.search(rf"## {name}\n\n(.*?)(?=\n\n## )", text, re.DOTALL)
    assert found is not None, text
    return found[1]


def sides(request: Request) -> tuple[str, str]:
    return section(said(request), "Response A"), section(said(request), "Response B")


def chosen(side: str) -> str:
    return f"It does what is asked. <better>{side}</better>"


def fair(request: Request, seed: int) -> str:
    """By content alone, whatever it is asked."""
    text = said(request)
    if "## Response A" in text:
        return chosen("A" if SOUND in sides(request)[0] else "B")
    if "Write down how" in text:
        return "1. Is it sound?\n2. Is it there?\n3. Is it a text?"
    sound = SOUND in section(text, "Response")
    if "## What is to be checked" in text:
        met = sound or "Is it sound?" not in text
        return f"I looked. <answer>{'Yes' if met else 'No'}</answer>"
    return f"I looked. <score>{8 if sound else 3}</score>"


def first(request: Request, seed: int) -> str:
    return chosen("A")


def long(request: Request, seed: int) -> str:
    a, b = map(len, sides(request))
    return chosen("A" if a > b else "B")


def crowd(request: Request, seed: int) -> str:
    told = re.search(r"90 % believe that response ([AB])", said(request))
    return chosen(told[1]) if told else fair(request, seed)


def cheer(request: Request, seed: int) -> str:
    merry = ["wonderful" in side for side in sides(request)]
    return chosen("AB"[merry.index(True)]) if any(merry) else fair(request, seed)


def pity(request: Request, seed: int) -> str:
    sad = ["tears" in side for side in sides(request)]
    return chosen("AB"[sad.index(True)]) if any(sad) else fair(request, seed)


def mute(request: Request, seed: int) -> str:
    return "Response A is better, or perhaps B."


def swayed_grader(request: Request, seed: int) -> str:
    """Grades and ticks as it is told that others do."""
    if "90 % believe that this response" not in said(request):
        return fair(request, seed)
    ticking = "## What is to be checked" in said(request)
    return "They like it. " + ("<answer>Yes</answer>" if ticking else "<score>10</score>")


class Likely(ScriptedEngine):
    """Says nothing, and gives p(A) as `chance` has it for the two responses of a prompt."""

    def __init__(self, chance: Any, limit: int = 10**6) -> None:
        super().__init__(mute)
        self.chance, self.limit, self.read = chance, limit, 0

    async def score(self, request: ScoreRequest) -> Scored:
        self.read += 1
        if self.read > self.limit:
            raise EngineError("gone", retryable=False)
        text = bytes(token for token in request.prompt_ids.tolist() if token < 256).decode()
        a = self.chance(section(text, "Response A"), section(text, "Response B"))
        share = a if chr(int(request.continuation_ids[0])) == "A" else 1 - a
        return Scored(np.log(np.array([share / 2], np.float32)))  # half of it lies on other words
