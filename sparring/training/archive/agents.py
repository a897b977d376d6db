"""A software agent as a value: the words it is told and its settings, named by their hash.

What an improver may write is text with `{{ name }}` in it and nothing else of a template: a template of a
model's own would be a program that runs here, outside of the sandbox.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

from sparring.agents.engines.base import Sampling
from sparring.agents.improvements import BLOCKS, Improvement
from sparring.agents.objects import ParseError, clip
from sparring.agents.prompts import Prompt, load_prompt
from sparring.errors import UserError, unknown
from sparring.graphs.cast import sampling_from
from sparring.graphs.catalogue import make_protocol
from sparring.graphs.protocols.software import SEAT, SoftwareTask
from sparring.memory.types import canonical, digest
from sparring.training.archive.config import ArchiveConfig, Setting
from sparring.training.config import Bounded

PROTOCOL = "software"
FIRST = {
    "question": "the issue",
    "timeout": "seconds of a command",
    "steps": "commands that it has",
    "marker": "what a command prints to submit the work",
    "instruction": "the form of a reply",
}
"""What the texts can be filled in with."""
KEPT = ("question", "marker", "instruction")
"""Without these no engineer knows what to do, how to end it, or how to say it."""
LONGEST = 20_000
"""Characters of a text that an improver writes."""
_PLACE = re.compile(r"\{\{ ?([a-z_]+) ?\}\}")
_MARKS = ("{{", "}}", "{%", "%}", "{#", "#}")

Bounds = Mapping[str, Mapping[str, Bounded]]


@dataclass(frozen=True)
class Software:
    """A configuration of protocol `software`."""

    prompt: str
    """The whole template of the engineer."""
    options: Mapping[str, float]
    sampling: Mapping[str, float]

    @cached_property
    def id(self) -> str:
        """Its name by content."""
        return digest(canonical(self.to_json()), size=6).hex()

    def to_json(self) -> dict[str, Any]:
        plain = asdict(self)
        return {**plain, "options": dict(self.options), "sampling": dict(self.sampling)}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Software:
        return cls(kept["prompt"], kept["options"], kept["sampling"])

    def over(self, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """All options of its protocol, on top of those that no agent can change."""
        return {**fixed, **self.options, "prompts": {SEAT: self.prompt}}

    def shown(self) -> str:
        """The configuration as an improver reads it."""
        parts = [f"<{name}>\n{block_of(self.prompt, name)}\n</{name}>" for name in BLOCKS]
        settings = {"options": dict(self.options), "sampling": dict(self.sampling)}
        listed = [f"{kind}: {_listed(given)}" for kind, given in settings.items()]
        return "\n\n".join([*parts, *listed])


def _listed(given: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in given.items()) or "none set"


def initial(config: ArchiveConfig) -> Software:
    """The agent that an archive begins with; checked, engines aside.

    Raises:
        UserError: a prompt that cannot stand alone, an option that does not exist or is not to be changed.
    """
    given = config.agent
    chain = load_prompt(given.prompt).source
    agent = Software(next(iter(chain.values())), _whole(given.options), _whole(given.sampling))
    _check_settings(config)
    try:
        block_of(agent.prompt, BLOCKS[0])
    except UserError as error:
        raise UserError(f"`agent.prompt`: {error} (an archive carries its prompts as text)") from None
    made = make_protocol(PROTOCOL, agent.over(config.options))
    assert isinstance(made, SoftwareTask)
    if not made.grade:
        raise UserError("`options` switch `grade` off: nobody would judge the agents")
    return agent


FIXED = ("sandbox", "image", "i_understand", "folder", "grade", "prompts")
"""Options of `software` that are nobody's to evolve: what holds the commands, and who judges."""


def _check_settings(config: ArchiveConfig) -> None:
    """Raise `UserError` where a setting does not exist, or is not where it belongs."""
    known: dict[Setting, set[str]] = {
        "options": set(SoftwareTask.model_fields) - set(FIXED),
        "sampling": {field.name for field in fields(Sampling) if field.name != "stop"},
    }
    for kind, names in known.items():
        for name in config.space.get(kind, {}):
            if name not in names:
                raise unknown(f"setting in `space.{kind}` that an agent can have", name, names)
        for name in getattr(config.agent, kind):
            if name not in names:
                raise unknown(f"setting in `agent.{kind}` that an agent can have", name, names)
            if kind == "options" and name in config.options:
                raise UserError(
                    f"`{name}` stands in `options`, which hold for all, and in `agent.options`: keep one"
                )
    if "prompts" in config.options:
        raise UserError("give the engineer's prompt as `agent.prompt`, not in `options`")


def _whole(given: Mapping[str, float]) -> dict[str, float]:
    """Numbers as they are meant: 50 and 50.0 are one setting, and one hash."""
    return {name: int(value) if float(value).is_integer() else value for name, value in sorted(given.items())}


def space_text(space: Bounds) -> str:
    """What may be set, for an improver: a line each."""
    lines = [f"`system` and `task`, the texts; names that can be filled in: {', '.join(FIRST)}"]
    for kind, known in space.items():
        lines += [f"`{kind}.{name}`, from {bound.low:g} to {bound.high:g}" for name, bound in known.items()]
    return "\n".join(f"* {line}" for line in lines)


# --- changes -----------------------------------------------------------------------------------------------


def changed(parent: Software, change: Improvement, space: Bounds, fixed: Mapping[str, Any]) -> Software:
    """The parent with a change.

    Raises:
        ParseError: what cannot be done, with a code: `unknown_option`, `out_of_range`, `bad_prompt`,
            `no_change`, `bad_option`.
    """
    prompt = parent.prompt
    for name, text in change.texts.items():
        prompt = _rewritten(prompt, name, text)
    child = replace(
        parent,
        prompt=prompt,
        options=_whole({**parent.options, **_allowed("options", change.options, space)}),
        sampling=_whole({**parent.sampling, **_allowed("sampling", change.sampling, space)}),
    )
    if child.to_json() == parent.to_json():
        raise ParseError("no_change", "the configuration is what it was")
    try:
        make_protocol(PROTOCOL, replace(child, prompt=parent.prompt).over(fixed))
        sampling_from(child.sampling)
    except UserError as error:
        raise ParseError("bad_option", str(error)) from None
    try:
        _render(make_protocol(PROTOCOL, child.over(fixed)).seats()[SEAT].prompt)
    except UserError as error:
        raise ParseError("bad_prompt", str(error)) from None
    return child


def changes(parent: Software, child: Software) -> list[str]:
    """What differs, in words: `task`, `options.steps 50 -> 80`."""
    said = [name for name in BLOCKS if block_of(parent.prompt, name) != block_of(child.prompt, name)]
    for kind in ("options", "sampling"):
        before, after = getattr(parent, kind), getattr(child, kind)
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                said.append(f"{kind}.{name} {before.get(name, 'unset')} -> {after.get(name, 'unset')}")
    return said


def _allowed(kind: str, given: Mapping[str, float], space: Bounds) -> Mapping[str, float]:
    known = space.get(kind, {})
    for name, value in given.items():
        if name not in known:
            listed = ", ".join(known) or "none"
            raise ParseError("unknown_option", f"`{kind}.{clip(name)}`; known: {listed}")
        if not known[name].low <= value <= known[name].high:
            bounds = f"{known[name].low:g} to {known[name].high:g}"
            raise ParseError("out_of_range", f"`{kind}.{name}` is {value:g}; it lies in {bounds}")
    return given


def _rewritten(prompt: str, block: str, text: str) -> str:
    """The template with another text in one block, which is added where only a shipped prompt has it."""
    places = _PLACE.findall(text)
    if strange := [name for name in places if name not in FIRST]:
        raise ParseError("bad_prompt", f"`{block}` asks for `{strange[0]}`; known: {', '.join(FIRST)}")
    bare = _PLACE.sub("", text)
    if mark := next((mark for mark in _MARKS if mark in bare), None):
        raise ParseError("bad_prompt", f"`{block}` holds `{mark}`; only `{{{{ name }}}}` is filled in")
    if len(text) > LONGEST:
        raise ParseError("bad_prompt", f"`{block}` has {len(text)} characters; at most {LONGEST}")
    if not text.strip():
        raise ParseError("bad_prompt", f"`{block}` is empty")
    if block == "task" and (lost := [name for name in KEPT if name not in places]):
        raise ParseError("bad_prompt", f"`task` has no `{{{{ {lost[0]} }}}}`")
    body = f"{{% block {block} %}}\n{text.strip()}\n{{% endblock %}}"
    found = _block(prompt, block)
    return f"{prompt.rstrip()}\n\n{body}\n" if found is None else prompt.replace(found[0], body)


def block_of(prompt: str, name: str) -> str:
    """The text of a block, of the template or else of the shipped prompt that it extends."""
    texts = [prompt, *list(load_prompt(prompt).source.values())[1:]]
    return next((found[1].strip() for text in texts if (found := _block(text, name))), "")


def _block(text: str, name: str) -> re.Match[str] | None:
    return re.search(rf"{{%-?\s*block\s+{name}\s*-?%}}(.*?){{%-?\s*endblock\b.*?-?%}}", text, re.DOTALL)


def _render(prompt: Prompt) -> None:
    """See to it that both texts can be filled in."""
    for name in ("system", "task"):
        if prompt.has(name) and not prompt.render(name, {each: f"<{each}>" for each in FIRST}):
            raise UserError(f"block `{name}` comes out empty")
