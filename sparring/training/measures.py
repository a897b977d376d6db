"""One step of training in numbers: what the turns of a policy say about its health.

Pure functions over plain data. The metrics are JSON, so that the loop can keep them in the journal and a
resumed run reads the history it would have had; `sparring.training.monitors` watches that history.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import comb, isfinite

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparring.tools.equality import plain_number, plain_text

WORLD = ("timeout", "engine_error")
"""Statuses that are not the model's fault (DESIGN section 3); they say nothing about the policy."""
PLACES = ("first_number", "second_number", "last_number", "first_word", "last_word")
"""Where in a question an answer may be copied from."""
TARGET = 8.0
"""B-STaR's n*: right, distinct samples of a prompt beyond which more are worth nothing."""

Metrics = dict[str, float | None]
Groups = Sequence[Sequence[int]]
"""Places of the turns that answer the same prompt."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The N turns of one policy in one step; everything per turn is in the same order."""

    rewards: ArrayLike
    """(N,) float, NaN for NULL."""
    prompts: Sequence[Hashable]
    """Which prompt each turn answers."""
    texts: Sequence[str]
    """The completions."""
    statuses: Sequence[str]
    lengths: ArrayLike
    """(N,) completion tokens."""
    answers: Sequence[str | None]
    """Parsed answers."""
    sources: Sequence[str]
    """The questions' texts, without what the prompt puts around them."""
    references: Sequence[str | None] | None = None
    """The right answers where there are any; against them copying is told from being right."""
    entropy: float | None = None
    """Mean over the step's tokens, in nats, as measured in training."""
    right_above: float = 0.5
    """A turn with more reward than this is right."""

    def __post_init__(self) -> None:
        columns = (self.prompts, self.texts, self.statuses, self.answers, self.sources, self.references)
        sizes = {len(column) for column in columns if column is not None}
        sizes |= {np.size(self.rewards), np.size(self.lengths)}
        if len(sizes) > 1:
            raise ValueError(f"Observed: columns of different lengths {sorted(sizes)}")


def measure(observed: Observed, *, target: float = TARGET, k: int | None = None) -> Metrics:
    """Metrics of one step, JSON-ready; None where there is nothing to take a mean of.

    World's faults count in `turns` and `rewarded` only; NULL rewards in no mean of rewards.

    * `turns`; `rewarded`, the share of them whose reward is not NULL; `reward`, `reward_std` of those.
    * `parse_rate`, where a truncated turn with an answer counts as parsed; `truncation_rate`; `length` in
      tokens; `entropy` as given.
    * `duplicate_rate`: share of completions that another sample of their prompt repeats.
      `distinct_answers`: mean per prompt. `concentration`: the commonest answer's share of all answers.
    * Shares of prompts: `informative`, whose rewards differ; `all_right`; `all_wrong`.
    * `pass_1`; `exploration`, Pass@k (without `k`: all samples that a prompt has); `exploitation`, Pass@1 /
      Pass@k: how much of what k samples find one sample gives already; `balance`, see `balance_score`.
    * `copied`, `copied_reference` and `copied_PLACE` for each of `PLACES`, see `copying`.
    """
    rewards = np.asarray(observed.rewards, np.float64)
    lengths = np.asarray(observed.lengths, np.float64)
    known = ~np.isnan(rewards)
    said = np.array([status not in WORLD for status in observed.statuses], bool)
    cut = np.array([status == "truncated" for status in observed.statuses], bool)
    answered = np.array([answer is not None for answer in observed.answers], bool)
    read = np.array([status == "ok" for status in observed.statuses], bool) | (cut & answered)
    answers = Counter(_key(answer) for answer in observed.answers if answer is not None)
    found: dict[str, float | None] = {
        "turns": float(len(rewards)),
        "rewarded": _mean(known),
        "reward": _mean(rewards[known]),
        "reward_std": float(rewards[known].std()) if known.any() else None,
        "parse_rate": _mean(read[said]),
        "truncation_rate": _mean(cut[said]),
        "length": _mean(lengths[said]),
        "entropy": observed.entropy,
        "concentration": max(answers.values()) / answers.total() if answers else None,
        **_variety(observed, _groups(observed.prompts, said)),
        **_outcomes(observed, rewards, _groups(observed.prompts, known), target, k),
        **copying(observed.answers, observed.sources, observed.references),
    }
    return {name: None if value is None or not isfinite(value) else value for name, value in found.items()}


def _variety(observed: Observed, groups: Groups) -> Metrics:
    """How different the samples of a prompt are."""
    repeats: list[bool] = []
    distinct: list[int] = []
    for group in groups:
        counts = Counter(observed.texts[place].strip() for place in group)
        if len(group) > 1:
            repeats += [counts[observed.texts[place].strip()] > 1 for place in group]
        given = [observed.answers[place] for place in group]
        distinct.append(len({_key(answer) for answer in given if answer is not None}))
    return {"duplicate_rate": _mean(repeats), "distinct_answers": _mean(distinct)}


def _outcomes(
    observed: Observed, rewards: NDArray[np.float64], groups: Groups, target: float, k: int | None
) -> Metrics:
    """What the rewards of each prompt's samples say together."""
    right = rewards > observed.right_above
    counts = [(len(group), int(right[group].sum())) for group in groups]
    once = _mean([pass_at(n, c, 1) for n, c in counts])
    ever = _mean([pass_at(n, c, k or n) for n, c in counts])
    sampled = [[(observed.texts[place].strip(), bool(right[place])) for place in group] for group in groups]
    return {
        "informative": _mean([np.ptp(rewards[group]) > 1e-9 for group in groups]),
        "all_right": _mean([c == n for n, c in counts]),
        "all_wrong": _mean([c == 0 for _, c in counts]),
        "pass_1": once,
        "exploration": ever,
        "exploitation": once / ever if once is not None and ever else None,
        "balance": balance_score(sampled, target),
    }


def pass_at(n: int, right: int, k: int) -> float:
    """Unbiased Pass@k of n samples, c of them right: 1 - C(n - c, k) / C(n, k) (Chen et al. 2107.03374)."""
    k = min(k, n)
    return 1.0 - comb(n - right, k) / comb(n, k)


def balance_score(prompts: Sequence[Sequence[tuple[str, bool]]], target: float = TARGET) -> float | None:
    """B-STaR's balance of exploration and exploitation (arXiv 2412.17256, specs/spc.md 2.9).

    Mean over prompts of min(n' / n*, 1) * n' / n, of n distinct samples n' right ones; prompts without a
    sample are left out. Where a right reply can be written in one way only, n' is at most 1 and `target`
    (n*) should be 1.

    Args:
        prompts: per prompt its samples as (text, right).
    """
    scores: list[float] = []
    for samples in prompts:
        verdicts = dict(samples)
        if verdicts:
            right = sum(verdicts.values())
            scores.append(min(right / target, 1.0) * right / len(verdicts))
    return _mean(scores)


_NUMBERS = re.compile(r"(?<![\w.])[-\u2212]?\d{1,3}(?:,\d{3})+(?:\.\d+)?|(?<![\w.])[-\u2212]?\d+(?:\.\d+)?")
_WORDS = re.compile(r"[^\W\d_]+")


def _places(source: str) -> dict[str, Hashable]:
    """Place -> what stands there in a question; a place that it does not have is missing."""
    numbers, words = _NUMBERS.findall(source), _WORDS.findall(source)
    found = {"first_number": numbers[:1], "second_number": numbers[1:2], "last_number": numbers[-1:]}
    found |= {"first_word": words[:1], "last_word": words[-1:]}
    return {place: _key(texts[0]) for place, texts in found.items() if texts}


def copying(
    answers: Sequence[str | None], sources: Sequence[str], references: Sequence[str | None] | None = None
) -> Metrics:
    """Share of answers that equal what stands at one fixed place of their question.

    A policy whose reward is hacked often ends there: paid for the first number of a reply, it repeats the
    first operand. `copied_PLACE` is the share for each place; `copied` the share, and `copied_reference`
    the right answers' share, at the place where the first exceeds the second most.
    """
    there = [_places(source) for source in sources]
    shares = _shares(answers, there)
    expected = _shares([None] * len(there) if references is None else references, there)
    worst = max(PLACES, key=lambda place: (shares[place] or 0.0) - (expected[place] or 0.0))
    result: Metrics = {"copied": shares[worst], "copied_reference": expected[worst]}
    return result | {f"copied_{place}": share for place, share in shares.items()}


def _shares(answers: Sequence[str | None], there: Sequence[Mapping[str, Hashable]]) -> Metrics:
    """Place -> share of the answers that equal what stands there."""
    given = [(_key(a), places) for a, places in zip(answers, there, strict=True) if a is not None]
    return {name: _mean([places.get(name) == answer for answer, places in given]) for name in PLACES}


def _key(text: str) -> Hashable:
    """Equal for answers that are the same number or the same text."""
    number = plain_number(text) if len(text) <= 200 else None
    return plain_text(text) if number is None else number


def _groups(prompts: Sequence[Hashable], wanted: NDArray[np.bool_]) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = {}
    for place in np.flatnonzero(wanted).tolist():
        groups.setdefault(prompts[place], []).append(place)
    return list(groups.values())


def _mean(values: ArrayLike) -> float | None:
    array = np.asarray(values, np.float64)
    return float(array.mean()) if array.size else None
