"""Invoices: items, a discount for all of them, a total."""

from __future__ import annotations

from dataclasses import dataclass, field

from ledger.money import share, show


@dataclass
class Invoice:
    """Items with their prices in cents; `discount` in percent."""

    number: str
    discount: int = 0
    items: list[tuple[str, int]] = field(default_factory=list)

    def add(self, name: str, cents: int) -> None:
        self.items.append((name, cents))

    @property
    def full(self) -> int:
        """What it would cost without discount."""
        return sum(cents for _, cents in self.items)

    @property
    def total(self) -> int:
        """What is to be paid."""
        return share(self.full, 100 - self.discount, 100)

    def lines(self) -> list[tuple[str, int]]:
        """The items at what they cost after discount."""
        return [(name, share(cents, 100 - self.discount, 100)) for name, cents in self.items]

    def text(self) -> str:
        """The invoice on paper."""
        body = [f"{name:<20}{show(cents):>10}" for name, cents in self.lines()]
        return "\n".join([f"Invoice {self.number}", *body, f"{'Total':<20}{show(self.total):>10}"])
