"""What a run of `pairwise` shows of its judges: how right they are, how steady, and what sways them.

A verdict that cannot be read is neither a tie nor a loss: it has a count of its own and is never right.
Shares over pairs have Wilson's interval, differences the paired bootstrap's. Probes are measured on the
verdict over both orders, so that position bias does not pass for another one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from sparring.graphs.judge_report import Judge, Method, Position, Probed, SelfPreference, Tally
from sparring.graphs.results import detailed_outcomes
from sparring.graphs.stats import Estimate, bootstrap, wilson
from sparring.graphs.verdicts import CLEAN, FIRST, POINTS, SECOND, TIE, Verdict, majority, settled
from sparring.memory.journal import Journal

POSITION, OWN = "position", "self_preference"


@dataclass(frozen=True, slots=True)
class _Seen:
    """One pair as one judge saw it in one way, and what the others made of it."""

    label: Verdict
    subset: str
    own: int | None
    """Place of the judge's own response; None where neither is, or both are."""
    guises: Mapping[str, Sequence[Verdict]]
    """Guise -> verdicts, one an order."""
    settled: Mapping[str, Verdict]
    """Guise -> what they come to."""
    panel: tuple[Verdict, ...]
    """Verdicts of judges of other models in the same way, each order one."""

    @property
    def verdict(self) -> Verdict:
        return self.settled[CLEAN]


def judges(journal: Journal, run: str, episodes: Sequence[int] | None = None) -> list[Judge]:
    """A report on each judge of a run, in the order of seats; over its finished pairs."""
    outcomes = detailed_outcomes(journal, run, episodes)
    return reports([outcome["detail"] for outcome in outcomes if "judges" in outcome["detail"]])


def reports(pairs: Sequence[Mapping[str, Any]]) -> list[Judge]:
    """A report on each judge, from the `detail` of the pairs' outcomes."""
    seats = dict.fromkeys((one["seat"], one["model"]) for pair in pairs for one in pair["judges"])
    return [_judge(seat, model, pairs) for seat, model in seats]


def _judge(seat: str, model: str, pairs: Sequence[Mapping[str, Any]]) -> Judge:
    mine = [
        (pair["pair"], one, [other for other in pair["judges"] if other["model"] != model])
        for pair in pairs
        for one in pair["judges"]
        if (one["seat"], one["model"]) == (seat, model)
    ]
    ways = list(dict.fromkeys(how for _, one, _ in mine for how in one["verdicts"]))
    said = {how: [_seen(how, *row) for row in mine if how in row[1]["verdicts"]] for how in ways}
    agreement = {}
    for how, other in combinations(ways, 2):
        both = [(a.verdict, b.verdict) for a, b in zip(said[how], said[other], strict=True)]
        read = [(a, b) for a, b in both if a is not None and b is not None]
        agreement[f"{how}, {other}"] = wilson(sum(a == b for a, b in read), len(read))
    checked, unanswered = _checked([(pair, one["met"]) for pair, one, _ in mine if "met" in one])
    methods = {how: _method(seen) for how, seen in said.items()}
    return Judge(seat, model, len(mine), methods, agreement, checked, unanswered)


def _seen(how: str, pair: Mapping[str, Any], one: Mapping[str, Any], others: Sequence[Any]) -> _Seen:
    names = (one["model"], f"{one['model']}@{one['version']}")
    wrote = [author in names for author in pair["authors"] or ()]
    return _Seen(
        label=pair["label"],
        subset=pair["subset"],
        own=wrote.index(True) if sum(wrote) == 1 else None,
        guises=one["verdicts"][how],
        settled={guise: settled(one, how, guise) for guise in one["verdicts"][how]},
        panel=tuple(v for other in others for v in other["verdicts"].get(how, {}).get(CLEAN, ())),
    )


def _method(seen: Sequence[_Seen]) -> Method:
    single = [v for one in seen for orders in one.guises.values() for v in orders]
    labelled = [one for one in seen if one.label is not None]
    twice = [one for one in seen if len(one.guises[CLEAN]) == 2]
    groups: dict[str, list[_Seen]] = defaultdict(list)
    for one in labelled:
        groups[one.subset].append(one)
    position = _position([one.guises[CLEAN] for one in twice]) if twice else None
    probes = _probes(seen)
    own = _self_preference(seen)
    swayed = [POSITION] if position is not None and position.bias.verdict != "open" else []
    swayed += [name for name, probe in probes.items() if name != POSITION and probe.shift.verdict == "worse"]
    swayed += [OWN] if any(found.difference.verdict == "better" for found in own.values()) else []
    return Method(
        readable=wilson(sum(v is not None for v in single), len(single)),
        verdicts=_tally(labelled, lambda one: one.verdict) if labelled else None,
        orders=tuple(_tally([o for o in twice if o.label], _in_order(n)) for n in (0, 1)) if twice else (),
        subsets={n: _tally(group, lambda one: one.verdict) for n, group in sorted(groups.items()) if n},
        position=position,
        probes=probes,
        self_preference=own,
        biases=tuple(swayed),
    )


def _in_order(number: int) -> Callable[[_Seen], Verdict]:
    return lambda one: one.guises[CLEAN][number]


def _tally(seen: Sequence[_Seen], verdict: Callable[[_Seen], Verdict]) -> Tally:
    said = [(verdict(one), one.label) for one in seen]
    right = sum(v == label for v, label in said)
    unreadable = sum(v is None for v, _ in said)
    tied = sum(v == TIE != label for v, label in said)
    wrong = len(said) - right - tied - unreadable
    return Tally(len(said), right, tied, wrong, unreadable, wilson(right, len(said)))


def _position(orders: Sequence[Sequence[Verdict]]) -> Position:
    """Of pairs in two orders: in the first, response 1 is shown first, in the second, response 2."""
    read = [pair for pair in orders if None not in pair]
    leans = [(_lean(straight, FIRST), _lean(swapped, SECOND)) for straight, swapped in read]
    decided = [lean for pair in leans for lean in pair if lean]
    return Position(
        consistency=wilson(sum(a == b for a, b in read), len(read)),
        first=wilson(sum(lean > 0 for lean in decided), len(decided)),
        bias=bootstrap([sum(pair) / 2 for pair in leans]),
    )


def _lean(verdict: Verdict, shown_first: str) -> int:
    return 0 if verdict == TIE else 1 if verdict == shown_first else -1


def _probes(seen: Sequence[_Seen]) -> dict[str, Probed]:
    known = [one for one in seen if one.label in (FIRST, SECOND)]
    found = {}
    if twice := [one for one in known if len(one.guises[CLEAN]) == 2]:
        rows = [(one.label, one.guises[CLEAN][0], one.guises[CLEAN][1]) for one in twice]
        found[POSITION] = _probed(rows)
    for probe in dict.fromkeys(name for one in known for name in one.guises if name != CLEAN):
        rows = [(o.label, o.verdict, o.settled[probe]) for o in known if probe in o.settled]
        found[probe] = _probed(rows)
    return found


def _probed(rows: Sequence[tuple[Verdict, Verdict, Verdict]]) -> Probed:
    """Of (label, verdict before, verdict after)."""
    n = len(rows)
    read = [row for row in rows if None not in row]
    held = [after == label for label, before, after in read if before == label]
    return Probed(
        n=n,
        before=wilson(sum(before == label for label, before, _ in rows), n),
        after=wilson(sum(after == label for label, _, after in rows), n),
        consistency=wilson(sum(before == label == after for label, before, after in rows), n),
        harm=wilson(held.count(False), len(held)),
        shift=bootstrap([float(after == label) - (before == label) for label, before, after in read]),
        unreadable=n - len(read),
    )


def _self_preference(seen: Sequence[_Seen]) -> dict[str, SelfPreference]:
    golds: dict[str, Callable[[_Seen], Verdict]] = {
        "label": lambda one: one.label,
        "panel": lambda one: majority(one.panel),
    }
    found = {}
    for name, gold in golds.items():
        rows = [(one.own, one.verdict, gold(one)) for one in seen]
        known = [(own, v, g) for own, v, g in rows if g is not None and own is not None]
        read = [(_share(own, v), _share(own, g)) for own, v, g in known if v is not None]
        if known:
            s, deserved = (
                (sum(column) / len(read) for column in zip(*read, strict=True)) if read else (0.0, 0.0)
            )
            gap = bootstrap([a - b for a, b in read])
            found[name] = SelfPreference(len(read), s, deserved, gap, len(known) - len(read))
    return found


def _share(own: int, verdict: str) -> float:
    """What a verdict gives to the judge's own response."""
    return POINTS[verdict] if own == 0 else 1 - POINTS[verdict]


def _checked(rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> tuple[dict[str, Estimate], int]:
    """DRFR by kind of response, and how many questions have no readable answer."""
    ticks: dict[str, list[bool | None]] = defaultdict(list)
    for pair, met in rows:
        for name, answered in zip((FIRST, SECOND), met[CLEAN], strict=True):
            ticks["all"] += answered
            if pair["label"] in (FIRST, SECOND):
                ticks["better" if pair["label"] == name else "worse"] += answered
    read = {kind: [tick for tick in found if tick is not None] for kind, found in ticks.items()}
    return {kind: wilson(sum(found), len(found)) for kind, found in read.items()}, ticks["all"].count(None)


def figures(found: Sequence[Judge]) -> dict[str, float]:
    """The reports as one row: `SEAT/HOW/FIGURE`; shares of nothing are left out."""
    rows: dict[str, Estimate | None] = {}
    for judge in found:
        for how, method in judge.methods.items():
            name = f"{judge.seat}/{how}"
            rows[f"{name}/accuracy"] = method.verdicts.accuracy if method.verdicts else None
            rows[f"{name}/readable"] = method.readable
            if method.position is not None:
                rows[f"{name}/consistency"] = method.position.consistency
                rows[f"{name}/position_bias"] = method.position.bias
            for probe, probed in method.probes.items():
                rows |= {f"{name}/{probe}/{f}": getattr(probed, f) for f in ("consistency", "harm", "shift")}
            for gold, own in method.self_preference.items():
                rows[f"{name}/dbg/{gold}"] = own.difference
        rows |= {f"{judge.seat}/checklist/drfr/{kind}": share for kind, share in judge.checked.items()}
    return {name: row.mean for name, row in rows.items() if row is not None and row.n}
