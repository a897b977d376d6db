"""Printing a menu."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def cents(price: str) -> int:
    """Cents of a price as it is written in French, `9,50`."""
    whole, _, rest = price.partition(",")
    return int(whole) * 100 + int(rest.ljust(2, "0"))


def ligne(plat: Mapping[str, str], largeur: int = 40) -> str:
    """A dish and its price, dots between them, a star for dishes with allergens."""
    nom = plat["plat"] + ("*" if plat["allergènes"] else "")
    euros, rest = divmod(cents(plat["prix"]), 100)
    prix = f"{euros},{rest:02} €"
    return f"{nom} {'.' * (largeur - len(nom) - len(prix) - 2)} {prix}"


def page(plats: Iterable[Mapping[str, str]], largeur: int = 40) -> str:
    return "\n".join(ligne(plat, largeur) for plat in plats)
