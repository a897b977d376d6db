"""The report on a judge as people see it."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from sparring.graphs.display import columns, interval, measured
from sparring.graphs.judge_report import Judge, Method, Probed
from sparring.graphs.stats import Estimate

ORDERS = ("as they come", "other way round")


def judge_tables(judge: Judge) -> list[Any]:
    """Who it is; how right, how steady; what its checklists came to; what sways it."""
    parts: list[Any] = [Text(f"{judge.seat}, {judge.model}: {judge.pairs} pairs", style="bold")]
    rows = [row for how, method in judge.methods.items() for row in _right(how, method)]
    if rows:
        parts.append(columns(("verdicts", "pairs", "right", "[95 %]", "wrong", "tie", "unreadable"), rows))
    probed = [
        _swayed(f"{how}, {probe}", found)
        for how, method in judge.methods.items()
        for probe, found in method.probes.items()
    ]
    if probed:
        header = (
            "probe",
            "pairs",
            "before",
            "after",
            "both",
            "harm",
            "[95 %]",
            "after - before",
            "unreadable",
        )
        parts.append(columns(header, probed))
    parts += [Text(line) for line in _lines(judge)]
    return parts


def _right(how: str, method: Method) -> list[tuple[Any, ...]]:
    if method.verdicts is None:
        return []
    rows = {how: method.verdicts}
    rows |= {f"  {name}": tally for name, tally in zip(ORDERS, method.orders, strict=False)}
    if len(method.subsets) > 1:
        rows |= {f"  `{name}`": tally for name, tally in method.subsets.items()}
    return [(name, t.n, *_share(t.accuracy), t.wrong, t.tied, t.unreadable) for name, t in rows.items()]


def _share(share: Estimate) -> list[str]:
    return measured([share])


def _swayed(name: str, found: Probed) -> tuple[Any, ...]:
    shares = (found.before, found.after, found.consistency)
    shift = f"{found.shift.mean:+.3f} [{interval(found.shift, '+')}]" if found.shift.n else "-"
    means = (f"{share.mean:.3f}" for share in shares)
    return (name, found.n, *means, *_share(found.harm), shift, found.unreadable)


def _lines(judge: Judge) -> list[str]:
    """What is no table."""
    said = []
    for how, method in judge.methods.items():
        parts = [f"readable {_said(method.readable)} of {method.readable.n} single verdicts"]
        if (place := method.position) is not None:
            parts.append(f"same verdict in both orders {_said(place.consistency)}")
            parts.append(f"for the one shown first {_said(place.first)}")
            parts.append(f"position bias {_said(place.bias, '+')}")
        parts += [
            f"own responses {own.own:.3f}, by {gold} {own.gold:.3f}, DBG {_said(own.difference, '+')} "
            f"over {own.n} pairs ({own.unreadable} unreadable)"
            for gold, own in method.self_preference.items()
        ]
        seen = ", ".join(method.biases).replace("_", " ") or "nothing seen"
        said.append(f"{how}: {'; '.join(parts)}; swayed by: {seen}")
    if judge.checked:
        kinds = ", ".join(f"{kind} {_said(share)}" for kind, share in judge.checked.items())
        said.append(f"checklist questions met (DRFR): {kinds}; without a readable answer: {judge.unanswered}")
    said += [f"{ways} agree on {_said(share)} of {share.n} pairs" for ways, share in judge.agreement.items()]
    return said


def _said(share: Estimate, sign: str = "") -> str:
    return f"{share.mean:{sign}.3f} [{interval(share, sign)}]" if share.n else "-"
