"""Where a policy that is new to a journal begins: at the bare base, or as a copy of another one's version.

Agents that are to grow apart may begin as one: CoMAS's four are copies of one model, and where that model
cannot keep the format it is taught once. The copy is version 0, its parent the version that was copied, so
its lineage goes on to the words that shaped that one.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from sparring.agents.engines.layer import ManagedEngine
from sparring.agents.models import adapter_hash
from sparring.errors import UserError
from sparring.memory.journal import Journal
from sparring.memory.policies import Version, by_id, find, register
from sparring.memory.versions import HEADS, journal_names, parse
from sparring.training.learner import Learner
from sparring.training.weights import publish

FOLDER = "begin"


def enter(journal: Journal, begin: str | None, learner: Learner, engine: ManagedEngine) -> None:
    """See to it that the journal has the policy and that it can be trained on here.

    Args:
        begin: `NAME@VERSION` of the policy that it begins as; None: the bare base.

    Raises:
        UserError: it belongs to another base or began elsewhere, or what it is to begin as does not fit.
    """
    name, base = learner.name, engine.capabilities().base
    if name in journal_names(journal):
        learner.check(find(journal, name, "training"), base)
        first = find(journal, name, 0)
        _began(journal, first, begin)
        if first.adapter_path is not None:
            return
    elif begin is not None:
        origin = origin_of(journal, name, begin)
        if learner.full:
            raise UserError(f"policy `{name}`: `begin` copies an adapter, and all its weights are trained")
        learner.check(origin, base)
        folder = _copied(origin, learner.store / FOLDER)
        register(
            journal,
            policy=name,
            base_hash=origin.base_hash,
            base_spec=engine.spec,
            adapter_path=folder,
            adapter_hash=adapter_hash(folder),
            parent_id=origin.id,
        )
        return
    register(journal, policy=name, base_hash=base, base_spec=engine.spec)


def origin_of(journal: Journal, name: str, begin: str) -> Version:
    """The version that a policy is to begin as. Raises `UserError` where it is not there or is the base."""
    other, which = parse(begin)
    if other not in journal_names(journal):
        raise UserError(f"policy `{name}` is to begin as `{begin}`, and the journal has no policy `{other}`")
    origin = find(journal, other, which)
    if origin.adapter_path is None:
        raise UserError(f"policy `{name}`: {origin.label} is the bare base; leave `begin` out for that")
    return origin


def _began(journal: Journal, first: Version, begin: str | None) -> None:
    """Raise `UserError` where a policy that is there began as another one than is asked for. A head, unlike a
    number, may have moved on since."""
    if begin is None:
        return
    name, which = parse(begin)
    parent = None if first.parent_id is None else by_id(journal, first.parent_id)
    same = parent is not None and parent.policy == name and which in (parent.number, *HEADS)
    if not same:
        was = "the bare base" if parent is None else f"`{parent.label}`"
        raise UserError(
            f"policy `{first.policy}` is in the journal and began as {was}, not as `{begin}`: give it "
            "another name, or leave `begin` out to train it on"
        )


def _copied(origin: Version, folder: Path) -> Path:
    """The adapter of a version in a folder of its own: what becomes of the origin does not change it."""
    assert origin.adapter_path is not None
    source = origin.adapter_path

    def write(part: Path) -> None:
        for file in source.iterdir():
            shutil.copyfile(file, part / file.name)

    publish(folder, write)
    return folder
