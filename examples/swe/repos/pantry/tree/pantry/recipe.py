"""Recipes: what goes in, for how many."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

from pantry.quantity import read_amount, show_amount


@dataclass
class Ingredient:
    """So much of something; `fixed` ones (a bay leaf) are the same for any number of guests."""

    name: str
    amount: Fraction
    unit: str = ""
    fixed: bool = False

    def __str__(self) -> str:
        return " ".join(filter(None, [show_amount(self.amount), self.unit, self.name]))


@dataclass
class Recipe:
    """A dish for a number of guests."""

    title: str
    serves: int
    ingredients: list[Ingredient] = field(default_factory=list)

    def add(self, line: str, fixed: bool = False) -> None:
        """Add an ingredient, written `AMOUNT; UNIT; NAME`, where the unit may be empty."""
        amount, unit, name = (part.strip() for part in line.split(";"))
        self.ingredients.append(Ingredient(name, read_amount(amount), unit, fixed))

    def scaled(self, guests: int) -> Recipe:
        """The recipe for another number of guests."""
        if guests < 1:
            raise ValueError("a recipe is for one guest at least")
        factor = Fraction(guests, self.serves)
        scaled = replace(self, serves=guests)
        for ingredient in scaled.ingredients:
            if not ingredient.fixed:
                ingredient.amount *= factor
        return scaled

    def shopping(self, guests: int) -> list[str]:
        """The lines of the shopping list, by name."""
        wanted = self.scaled(guests).ingredients
        return [str(one) for one in sorted(wanted, key=lambda one: one.name)]
