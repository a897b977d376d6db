"""Sparring: language-model agents that debate, criticise and refine, remember every word, and improve.

Names are resolved on first use, so that `import sparring` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "aplay": "sparring.graphs.play",
    "play": "sparring.graphs.play",
    "plan": "sparring.graphs.play",
    "resume": "sparring.graphs.play",
    "fork": "sparring.graphs.forks",
    "afork": "sparring.graphs.forks",
    "report": "sparring.graphs.report",
    "compare_runs": "sparring.graphs.paired",
    "evolve": "sparring.training.evolve",
    "aevolve": "sparring.training.evolve",
    "tournament": "sparring.training.league.tournament",
    "atournament": "sparring.training.league.tournament",
    "archive": "sparring.training.archive.archive",
    "aarchive": "sparring.training.archive.archive",
    "derive": "sparring.training.rewards.derive",
    "RewardFunction": "sparring.training.rewards.base",
    "EpisodeRow": "sparring.training.rewards.base",
    "Paid": "sparring.training.rewards.base",
    "make_protocol": "sparring.graphs.catalogue",
    "Protocol": "sparring.graphs.protocol",
    "Outcome": "sparring.graphs.protocol",
    "Debate": "sparring.graphs.protocols.debate",
    "Sample": "sparring.graphs.protocols.sample",
    "Budget": "sparring.agents.engines.budget",
    "Limits": "sparring.graphs.context",
    "Context": "sparring.graphs.context",
    "aresume": "sparring.graphs.play",
    "Journal": "sparring.memory.journal",
    "TaskRecord": "sparring.memory.records",
    "load_tasks": "sparring.memory.tasks",
    "make_engine": "sparring.agents.engines.registry",
    "Role": "sparring.agents.roles",
    "check": "sparring.tools.checks",
    "Tool": "sparring.tools.toolbox.base",
    "SparringError": "sparring.errors",
    "UserError": "sparring.errors",
    "BudgetSpent": "sparring.errors",
}
"""Public name -> the module it lives in."""

__all__ = [*_HOME]

if TYPE_CHECKING:
    from sparring.agents.engines.budget import Budget as Budget
    from sparring.agents.engines.registry import make_engine as make_engine
    from sparring.agents.roles import Role as Role
    from sparring.errors import BudgetSpent as BudgetSpent
    from sparring.errors import SparringError as SparringError
    from sparring.errors import UserError as UserError
    from sparring.graphs.catalogue import make_protocol as make_protocol
    from sparring.graphs.context import Context as Context
    from sparring.graphs.context import Limits as Limits
    from sparring.graphs.forks import afork as afork
    from sparring.graphs.forks import fork as fork
    from sparring.graphs.paired import compare_runs as compare_runs
    from sparring.graphs.play import aplay as aplay
    from sparring.graphs.play import aresume as aresume
    from sparring.graphs.play import plan as plan
    from sparring.graphs.play import play as play
    from sparring.graphs.play import resume as resume
    from sparring.graphs.protocol import Outcome as Outcome
    from sparring.graphs.protocol import Protocol as Protocol
    from sparring.graphs.protocols.debate import Debate as Debate
    from sparring.graphs.protocols.sample import Sample as Sample
    from sparring.graphs.report import report as report
    from sparring.memory.journal import Journal as Journal
    from sparring.memory.records import TaskRecord as TaskRecord
    from sparring.memory.tasks import load_tasks as load_tasks
    from sparring.tools.checks import check as check
    from sparring.tools.toolbox.base import Tool as Tool
    from sparring.training.archive.archive import aarchive as aarchive
    from sparring.training.archive.archive import archive as archive
    from sparring.training.evolve import aevolve as aevolve
    from sparring.training.evolve import evolve as evolve
    from sparring.training.league.tournament import atournament as atournament
    from sparring.training.league.tournament import tournament as tournament
    from sparring.training.rewards.base import EpisodeRow as EpisodeRow
    from sparring.training.rewards.base import Paid as Paid
    from sparring.training.rewards.base import RewardFunction as RewardFunction
    from sparring.training.rewards.derive import derive as derive


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name], __name__), name)
    raise AttributeError(f"module `sparring` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted([*_HOME, "__version__"])
