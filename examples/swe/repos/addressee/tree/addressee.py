"""Recipients of a mail header: names, addresses, and lists of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

ADDRESS = re.compile(r"[^\s<>@,\"]+@[^\s<>@,\"]+\.[^\s<>@,\".]+")
ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True)
class Person:
    """A name, which may be empty, and an address."""

    name: str
    address: str

    def __str__(self) -> str:
        if not self.name:
            return self.address
        plain = re.fullmatch(r"[\w .'-]+", self.name)
        name = self.name if plain else '"' + re.sub(r'(["\\])', r"\\\1", self.name) + '"'
        return f"{name} <{self.address}>"


def parts(text: str) -> list[str]:
    """The recipients of a list, as they are written."""
    return [part.strip() for part in text.split(",") if part.strip()]


def person(text: str) -> Person:
    """One recipient: `jane@example.org`, `Jane <jane@example.org>` or with the name in quotes.

    Raises:
        ValueError: there is no address.
    """
    name, bracket, rest = text.strip().rpartition("<")
    address = rest.removesuffix(">").strip() if bracket else text.strip()
    if not ADDRESS.fullmatch(address):
        raise ValueError(f"{text!r} has no address")
    name = name.strip()
    if len(name) > 1 and name[0] == name[-1] == '"':
        name = ESCAPED.sub(r"\1", name[1:-1])
    return Person(name, address)


def addresses(text: str) -> list[Person]:
    """The recipients of a header, each address once."""
    found: dict[str, Person] = {}
    for part in parts(text):
        one = person(part)
        found.setdefault(one.address.lower(), one)
    return list(found.values())
