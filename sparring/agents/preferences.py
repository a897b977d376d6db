"""The format of a preference between two responses: `<better>A</better>`."""

from __future__ import annotations

from typing import Literal

from sparring.agents.parsing import Parser
from sparring.agents.results import Comparison
from sparring.agents.tags import one_tag

_SIDES: dict[str, Literal["A", "B", "tie"]] = {"a": "A", "b": "B"}


def preference(*, ties: bool) -> Parser[Comparison]:
    """Exactly one tag that names A or B, or a tie where that may be said; reasons before it are kept."""
    words = {**_SIDES, "tie": "tie"} if ties else _SIDES

    def read(text: str) -> Comparison:
        better, reason = one_tag(text, "better", words)
        return Comparison(reason=reason, better=better)

    ending = "`<better>A</better>` or `<better>B</better>`"
    if ties:
        ending = (
            "`<better>A</better>`, `<better>B</better>` or, where neither is better, `<better>tie</better>`"
        )
    name = "preference/ties" if ties else "preference"
    return Parser(name, "1", f"Give your reasons in a few sentences, then end with {ending}.", read)
