"""What a stay in a car park costs. Money is in cents, time in minutes."""

from __future__ import annotations

from dataclasses import dataclass

DAY = 24 * 60


@dataclass(frozen=True)
class Rate:
    """The prices on the board at the entrance.

    A stay of up to `free` minutes costs nothing; a longer one is billed from its first minute, in blocks
    of `block` minutes, each begun block in full.
    """

    price: int
    block: int = 30
    free: int = 15
    most: int | None = None

    def __post_init__(self) -> None:
        if self.block <= 0 or self.price < 0 or self.free < 0:
            raise ValueError("a block has a length, and neither price nor free time is negative")


def blocks(rate: Rate, minutes: int) -> int:
    """How many blocks a stay takes."""
    if minutes < 0:
        raise ValueError("nobody leaves before arriving")
    if minutes <= rate.free:
        return 0
    return minutes // rate.block + 1


def charge(rate: Rate, minutes: int) -> int:
    """The price of a stay; each day of it costs `rate.most` at most."""
    if rate.most is None:
        return blocks(rate, minutes) * rate.price
    days, rest = divmod(minutes, DAY)
    return days * rate.most + min(blocks(rate, rest) * rate.price, rate.most)


def ticket(rate: Rate, arrived: int, left: int) -> str:
    """The line that the machine prints."""
    minutes = left - arrived
    euros, cents = divmod(charge(rate, minutes), 100)
    return f"{minutes // 60}:{minutes % 60:02} h  {euros}.{cents:02} EUR"
