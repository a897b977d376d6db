"""Writes the task files of this folder: sums and differences of one and of two digits.

    python examples/arithmetic/make_tasks.py

The 200 one-digit problems are split into quarters by a hash of the pair of numbers without its order, so
both orders of a sum (and both differences of a pair) are on one side. `digits_train` is all but the
held-out quarter; `digits_half` leaves out the gate's as well. `digits_zero_one` holds the 40 problems whose
second number is 0 or 1: in every second one the first number is the answer.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

from sparring.memory.tasks import save_tasks

HERE = Path(__file__).parent
KINDS = {"+": "sum", "-": "difference"}


def problem(a: int, sign: str, b: int) -> dict[str, Any]:
    answer = a + b if sign == "+" else a - b
    question = f"{a} {sign} {b} ="
    return {
        "id": f"{a}{sign}{b}",
        "question": question,
        "answer": str(answer),
        "check": "math",
        "kind": KINDS[sign],
    }


def one_digit() -> list[dict[str, Any]]:
    """All 200 ordered problems."""
    return [problem(a, sign, b) for sign in KINDS for a in range(10) for b in range(10)]


def quarter(row: dict[str, Any]) -> int:
    """Which quarter of the pairs of its kind a problem is in: 0 is held out, 1 is the gate's."""
    order = sorted(
        ((a, b) for a in range(10) for b in range(a, 10)), key=lambda pair: _hash(row["kind"], pair)
    )
    first, second = sorted(int(word) for word in row["question"].split() if word.isdigit())
    return 4 * order.index((first, second)) // len(order)


def _hash(kind: str, pair: tuple[int, int]) -> bytes:
    return hashlib.sha256(f"{kind} {pair[0]} {pair[1]}".encode()).digest()


def two_digit_sums(count: int, seed: int) -> list[dict[str, Any]]:
    """Random distinct sums of two numbers from 10 to 99."""
    pairs = random.Random(seed).sample([(a, b) for a in range(10, 100) for b in range(10, 100)], count)
    return [problem(a, "+", b) for a, b in pairs]


def mixed_sums(count: int, seed: int) -> list[dict[str, Any]]:
    """Random distinct sums of a number from 10 to 99 and one below 10."""
    pairs = random.Random(seed).sample([(a, b) for a in range(10, 100) for b in range(10)], count)
    return [problem(a, "+", b) for a, b in pairs]


def main() -> None:
    digits = one_digit()
    save_tasks(HERE / "digits.jsonl", digits)
    save_tasks(HERE / "digits_held_out.jsonl", (row for row in digits if quarter(row) == 0))
    save_tasks(HERE / "digits_gate.jsonl", (row for row in digits if quarter(row) == 1))
    save_tasks(HERE / "digits_half.jsonl", (row for row in digits if quarter(row) > 1))
    save_tasks(HERE / "digits_train.jsonl", (row for row in digits if quarter(row) > 0))
    save_tasks(
        HERE / "digits_zero_one.jsonl", (row for row in digits if row["question"].split()[2] in ("0", "1"))
    )
    sums = two_digit_sums(800, seed=0)
    save_tasks(HERE / "two_digits_held_out.jsonl", sums[600:])
    easy = [row for row in digits if row["kind"] == "sum"]
    stages = (easy, mixed_sums(200, seed=1), sums[:600])
    staged = [{**row, "stage": number} for number, rows in enumerate(stages) for row in rows]
    save_tasks(HERE / "curriculum.jsonl", staged)


if __name__ == "__main__":
    main()
