"""Where the heads of policies stand after an import: where they stood in the journal that was exported, as
long as nothing but that journal has moved them here. What was decided here stays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, update

from .heads import moves
from .schema import Policy
from .versions import HEADS

Row = dict[str, Any]


class HeadsOfFile:
    """What a file says of heads, with the ids that its versions have here."""

    def __init__(self) -> None:
        self._stand: dict[str, dict[str, int]] = {}
        """Policy -> head -> the version it stood at, if that travelled."""
        self._led: defaultdict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
        """Policy -> head -> the number of the last move that travelled, and where it led."""
        self._known: set[tuple[str, str, str, int]] = set()
        """(run, policy, head, number) of all moves in the file."""

    def stand(self, row: Row, versions: Mapping[int, int]) -> None:
        """A row of `policies`; `versions` leads from ids of the file to ids here."""
        ends = {head: versions.get(row[f"{head}_version_id"]) for head in HEADS}
        self._stand[row["name"]] = {head: version for head, version in ends.items() if version is not None}

    def moved(self, run: str, move: Row) -> None:
        """A move, with versions as they are called here; those that did not travel are None."""
        self._known.add((run, move["policy"], move["head"], move["move"]))
        led = self._led[move["policy"]]
        if move["to"] is not None:
            led[move["head"]] = max(led.get(move["head"], (0, 0)), (move["move"], move["to"]))

    def settle(self, connection: Connection) -> None:
        """Move the heads; to a version that did not travel none, but to where the last move led that did."""
        ours = {
            move["policy"]
            for run, move, _ in moves(connection)
            if (run, move["policy"], move["head"], move["move"]) not in self._known
        }
        for policy in {*self._stand, *self._led} - ours:
            led = {head: version for head, (_, version) in self._led[policy].items()}
            ends = led | self._stand.get(policy, {})
            values = {f"{head}_version_id": version for head, version in ends.items()}
            if values:
                connection.execute(update(Policy).where(Policy.name == policy).values(values))
