"""A software engineer without a model, as a script: it applies the reference fixes, or none.

    python examples/swe/engineer.py examples/swe/instances.jsonl > engineer.jsonl
    python examples/swe/engineer.py --idle > idle.jsonl
    python examples/swe/engineer.py examples/swe/instances.jsonl --hinted > examples/swe/build/hinted.jsonl

The first shows that a fix made by shell commands is found, submitted and graded; the second that a run in
which nothing is solved says so. The third is for `archive.yaml`: it applies a fix where the prompt has the
hints that its instance needs, and an improver gives one hint after the other. None of them says anything
about any model: their engine is `scripted:FILE`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from sparring.graphs.protocols.software import MARKER
from sparring.tools.swe.instances import Instance, load_instances

END = "END_OF_THE_PATCH"
HINTS = ("Reproduce the problem first.", "Look for the same mistake in other places.")
LOOKED, FIXED = "# looked around", "# applied the fix"


def said(thought: str, command: str) -> str:
    """A reply of the engineer's form; four backticks, so that a patch may hold three."""
    return f"{thought}\n\n````bash\n{command}\n````"


def after(mark: str, reply: str) -> dict[str, Any]:
    """The rule that answers once a command with this mark was said."""
    return {"match": re.escape(mark), "within": "conversation", "replies": [reply]}


def idle() -> Iterator[dict[str, Any]]:
    """Rules of an engineer that looks at the repository and submits it as it is."""
    yield after(LOOKED, said("Scripted agent: shows the machinery, solves nothing.", f"echo {MARKER}"))
    yield {"replies": [said("What is here?", f"git log --oneline | head -5; ls -R | head -40  {LOOKED}")]}


def recorded(instances: Iterable[Instance]) -> Iterator[dict[str, Any]]:
    """Rules of an engineer that looks, applies the instance's reference fix, and submits."""
    yield after(FIXED, said("Scripted agent: this fix was recorded.", f"echo {MARKER}"))
    for one in instances:
        apply = f"git apply --verbose - <<'{END}'  {FIXED}\n{one.patch.removesuffix(chr(10))}\n{END}"
        issue = re.escape(one.problem.strip().splitlines()[0])
        yield {
            "match": rf"{issue}[\s\S]*{re.escape(LOOKED)}",
            "within": "conversation",
            "replies": [said("I know this one.", apply)],
        }
    yield {"replies": [said("What is here?", f"git status --short; ls  {LOOKED}")]}


def hinted(instances: Iterable[Instance]) -> Iterator[dict[str, Any]]:
    """Rules of an engineer that needs no hint for the first of three instances, one for the second and both
    for the third, and so on; of somebody who reads its logs, and of one who gives it the next hint."""
    improver = {"role": "You improve a software agent"}
    opening = "You are a software engineer who works in a shell."
    yield {"role": "You find out why", "replies": ["Scripted: no log was read."]}
    yield {**improver, "match": re.escape(HINTS[-1]), "replies": ["Scripted: I know no other hint."]}
    for count in range(len(HINTS), 0, -1):
        change = {"why": "a recorded hint", "system": " ".join([opening, *HINTS[:count]])}
        known = {"match": re.escape(HINTS[count - 2])} if count > 1 else {}
        yield {**improver, **known, "replies": [json.dumps(change)]}
    rules = list(recorded(instances))
    for place, rule in enumerate(rules[1:-1]):
        needed = "".join(rf"{re.escape(hint)}[\s\S]*" for hint in HINTS[: place % (len(HINTS) + 1)])
        rule["match"] = needed + rule["match"]
    yield from (rules[0], *rules[1:-1])
    yield from idle()


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("instances", nargs="?", help="whose fixes are applied")
    parser.add_argument("--idle", action="store_true", help="apply none")
    parser.add_argument("--hinted", action="store_true", help="apply those that its prompt has hints for")
    given = parser.parse_args()
    if given.idle == (given.instances is not None):
        parser.error("give instances, or --idle")
    if given.idle and given.hinted:
        parser.error("give --idle or --hinted")
    fixes = hinted if given.hinted else recorded
    rules = idle() if given.idle else fixes(load_instances(given.instances))
    for rule in rules:
        print(json.dumps(rule))


if __name__ == "__main__":
    main()
