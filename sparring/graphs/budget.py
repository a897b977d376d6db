"""The purse of a run: its budget, and what it and the runs that belong to it have spent by the journal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from sqlalchemy import false, func, select

from sparring.agents.engines.budget import Budget, Purse
from sparring.errors import SparringError, UserError
from sparring.memory.journal import Journal
from sparring.memory.schema import Episode, Run, Turn

log = logging.getLogger(__name__)


PRICES = "say what a million tokens cost, `SPEC?price_in=0.15&price_out=0.60`"


def purse_of(journal: Journal, run: str, budget: Budget | None) -> Purse | None:
    """The purse that a run goes on with; None where it has no budget."""
    return None if budget is None else Purse(budget, *spent(journal, run), run)


def spent(journal: Journal, run: str) -> tuple[float, int]:
    """Money and tokens that the calls of a run and of all its descendants took, failed attempts included;
    answers from the response cache took none."""
    family = select(Run.id).where(Run.id == run).cte("family", recursive=True)
    family = family.union(select(Run.id).join(family, Run.parent_id == family.c.id))
    sums = (func.sum(Turn.cost), func.sum(Turn.prompt_tokens + Turn.completion_tokens))
    query = (
        select(*(func.coalesce(each, 0) for each in sums))
        .join(Episode, Episode.number == Turn.episode_number)
        .where(Episode.run_id.in_(select(family.c.id)), Turn.from_cache == false())
    )
    [(cost, tokens)] = journal.read(query)
    return float(cost), int(tokens)


def affordable(purse: Purse | None, run: str, priced: bool, unpriced: Sequence[str]) -> None:
    """Raise `UserError` where a budget of money would not hold a run, or one that belongs to its purse.

    Args:
        priced: whether any engine has a price; those of a run that belongs to another need none.
        unpriced: servers without a price: what they bill would not be counted.
    """
    if purse is None or purse.budget.cost is None:
        return
    if unpriced and (priced or purse.run != run):
        raise UserError(
            f"the run has a budget of money, but `{unpriced[0]}` has no price: {PRICES}, or `?price_in=0` "
            "where it is free"
        )
    if purse.run == run and not priced:
        raise UserError(
            f"the run has a budget of money, but none of its engines has a price: {PRICES}, or give a budget "
            "of tokens"
        )


async def emptied(journal: Journal, purse: Purse, pause_s: float) -> None:
    """Return when what all processes of a run have spent reaches its budget; the purse is shut then."""
    while not purse.shut:
        try:
            purse.cost, purse.tokens = await asyncio.to_thread(spent, journal, purse.run)
            purse.shut = purse.empty
        except SparringError as error:  # who cannot count must not spend
            log.warning("what the run has spent cannot be read, so it stops: %s", error)
            purse.shut = True
        if not purse.shut:
            await asyncio.sleep(pause_s)
