"""Drawings of the protocols' state machines and tables of their options, for docs/.

`python scripts/draw_graphs.py` writes docs/figures/graphs/NAME.svg from each compiled protocol, and in the
pages of docs/protocols what stands between `<!-- options: NAME -->` and `<!-- end -->` from the fields of its
class. A test fails while what is written differs from what the code says.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from sparring.graphs.catalogue import PROTOCOLS, make_protocol
from sparring.graphs.protocol import Protocol
from sparring.view.drawing import draw

DOCS = Path(__file__).parents[1] / "docs"
GRAPHS = DOCS / "figures" / "graphs"
NEEDED: dict[str, dict[str, Any]] = {"refine": {"mean": 1.0, "deviation": 0.5}}
"""Options without which a protocol cannot be made."""
STYLE = (
    "<style>svg{background:#fff}text{font:13px system-ui,sans-serif;fill:#1c2430}"
    ".node rect{fill:#eef3fb;stroke:#5b7bb2}.end rect{fill:#f1f1f1;stroke:#8a8a8a}"
    ".edge{fill:none;stroke:#44546a;stroke-width:1.4}.choice{stroke-dasharray:5 4}marker path{fill:#44546a}"
    "</style>"
)
LONGEST = 60
"""Characters of a default that are shown."""
TABLE = re.compile(r"(<!-- options: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def drawing(name: str) -> str:
    """The state machine of a protocol as an SVG file of its own."""
    drawn = draw(name, NEEDED.get(name))
    if drawn is None:
        raise SystemExit(f"protocol `{name}` cannot be drawn: does it need options (NEEDED)?")
    return str(drawn.__html__()).replace("<defs>", f"{STYLE}<defs>", 1) + "\n"


def drawings() -> dict[Path, str]:
    """File -> what it should hold, of every protocol."""
    return {GRAPHS / f"{name}.svg": drawing(name) for name in PROTOCOLS}


@cache
def described(kind: type[Protocol]) -> dict[str, str]:
    """Field -> the text below it, of a class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not base.__module__.startswith("sparring."):
            continue
        [parsed] = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        body = parsed.body if isinstance(parsed, ast.ClassDef) else []
        for node, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                said = after.value if isinstance(after, ast.Expr) else None
                text = said.value if isinstance(said, ast.Constant) and isinstance(said.value, str) else ""
                found[node.target.id] = " ".join(text.split())
    return found


def options(name: str) -> str:
    """The table of a protocol's options, those of all protocols (`prompts`) left out."""
    protocol = make_protocol(name, NEEDED.get(name))
    about, rows = described(type(protocol)), ["| option | | default | |", "| --- | --- | --- | --- |"]
    for field, info in type(protocol).model_fields.items():
        if field == "prompts":
            continue
        preset = field not in NEEDED.get(name, {}) and not info.is_required()
        default = getattr(protocol, field) if preset else info.get_default(call_default_factory=True)
        cells = (
            f"`{field}`",
            " ".join([_type(info.annotation), *_bounds(info)]),
            _shown(default),
            about[field],
        )
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(rows) + "\n" if len(rows) > 2 else "No options of its own.\n"


def _type(kind: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(kind), [_type(part) for part in get_args(kind) if part is not ...]
    if origin is Annotated:
        return inner[0]
    if origin is Literal:
        return ", ".join(str(value) for value in get_args(kind))
    if origin in (Union, UnionType):
        return " or ".join(inner)
    if origin is not None:
        return f"{origin.__name__} of {', '.join(inner)}"
    return "none" if kind in (None, NoneType) else str(getattr(kind, "__name__", kind))


def _bounds(info: FieldInfo) -> list[str]:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    return [
        f"{sign} {getattr(m, name)}"
        for m in info.metadata
        for name, sign in signs.items()
        if hasattr(m, name)
    ]


def _shown(default: Any) -> str:
    if default is PydanticUndefined:
        return "needed"
    text = json.dumps(to_jsonable_python(default))
    return f"`{text if len(text) <= LONGEST else text[:LONGEST] + '…'}`"


def page(text: str) -> str:
    """A page with its tables as they should be."""
    return TABLE.sub(lambda found: f"{found[1]}\n{options(found[2])}\n{found[3]}", text)


def main() -> None:
    GRAPHS.mkdir(parents=True, exist_ok=True)
    for path, text in drawings().items():
        path.write_text(text, encoding="utf-8")
    for path in sorted((DOCS / "protocols").glob("*.md")):
        path.write_text(page(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
