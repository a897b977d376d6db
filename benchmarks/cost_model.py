"""What a CoMAS run of the paper's size takes with this design, from figures measured here and a data sheet.

    python -m benchmarks.cost_model [--times 100] [--gpus 8] [--completion 400] [--prompt 1500] ...

Everything of Sparring itself is measured (docs/benchmarks.md names the commands); no GPU was there to measure
generation and training on, so those come from a roofline: bytes and operations a token needs, over what the
data sheet gives, times a share that systems of this kind reach. Change any of it by its option.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, fields

HOUR = 3600.0


@dataclass(frozen=True)
class Run:
    """CoMAS at l = 4: 2,000 tasks, 4 copies, 192,000 samples a policy (2510.08529, Table 3)."""

    turns: float = 768_000
    policies: int = 4
    steps: int = 31
    """Collections, each followed by an update of every policy: 2,000 tasks, 64 at a time."""
    prompt: float = 1500
    """Tokens; the paper allows 28,672."""
    shared: float = 0.6
    """Share of them that a prefix cache already holds: the discussion so far."""
    completion: float = 400
    """Tokens; the paper allows 4,096."""
    episodes: float = 32
    """At a time, for each GPU; all policies speak in each."""
    processes: float = 1
    """That play: more than one are Ray workers on PostgreSQL."""


@dataclass(frozen=True)
class Model:
    """Qwen2.5-3B-Instruct."""

    parameters: float = 3.09e9
    kv_bytes: float = 36 * 2 * 2 * 128 * 2
    """Of one token: layers, keys and values, heads, dimensions, bytes."""


@dataclass(frozen=True)
class Gpu:
    """A100-80GB by its data sheet, and the shares of it that are taken for reached."""

    count: int = 8
    flops: float = 312e12
    bandwidth: float = 2.0e12
    decode_share: float = 0.5
    """Of the bandwidth bound of decoding."""
    prefill_share: float = 0.5
    """Of the peak of the matrix units."""
    train_share: float = 0.35


@dataclass(frozen=True)
class Measured:
    """Of Sparring, on one core of a shared x86-64 machine (docs/benchmarks.md)."""

    turn_cpu_s: float = 0.82e-3
    """Protocol, prompt, parsing and journal, of one turn."""
    turns_per_s: float = 1198
    """Of one process that waits for every commit (`FULL`)."""
    turn_bytes: float = 3389 - 200 * 8 - 200 * 4
    """Of a journaled turn, without ids, log-probabilities and text of its completion."""
    rewards_per_s: float = 6500
    experience_s: float = 0.31
    """To read 4,096 turns of a policy."""
    swap_s: float = 0.39
    """Until a new adapter answers."""
    prompt_sharing: float = 1.0
    """How much less a trainer computes where samples share prompts; 1: CoMAS's prompts are all different."""


@dataclass(frozen=True)
class Line:
    what: str
    seconds: float
    note: str


def lines(run: Run, model: Model, gpu: Gpu, measured: Measured) -> Iterator[Line]:
    """Wall seconds of each part, as if it were alone."""
    tokens, fresh = run.turns * run.completion, run.turns * run.prompt * (1 - run.shared)
    batch = run.episodes * run.policies
    step_bytes = 2 * model.parameters + batch * (run.prompt + run.completion / 2) * model.kv_bytes
    rate = batch / step_bytes * gpu.bandwidth * gpu.decode_share
    yield Line(
        "generation: decoding", tokens / (rate * gpu.count), f"{rate:,.0f} tokens/s a GPU, batch {batch:.0f}"
    )
    prefill = gpu.flops * gpu.prefill_share / (2 * model.parameters)
    yield Line(
        "generation: new prompt tokens", fresh / (prefill * gpu.count), f"{prefill:,.0f} tokens/s a GPU"
    )
    trained = run.turns * (run.completion + run.prompt) / measured.prompt_sharing
    speed = gpu.flops * gpu.train_share / (4 * model.parameters)
    yield Line(
        "training, adapters",
        trained / (speed * gpu.count),
        f"{speed:,.0f} tokens/s a GPU; no gradient of the base",
    )
    plays = measured.turns_per_s * run.processes
    yield Line("protocol and journal", run.turns / plays, f"{plays:,.0f} turns/s")
    yield Line("rewards", run.turns / measured.rewards_per_s, f"{measured.rewards_per_s:,.0f} turns/s")
    yield Line("experience", run.turns / 4096 * measured.experience_s, "4,096 turns in 0.31 s")
    yield Line(
        "adapter swaps", run.steps * run.policies * measured.swap_s, f"{run.steps * run.policies:.0f} of them"
    )


def journal_bytes(run: Run, measured: Measured) -> float:
    """Ids and log-probabilities of completions, ids of new prompt tokens, text once (4 bytes a token)."""
    own = run.completion * (4 + 4 + 4) + run.prompt * (1 - run.shared) * 4
    return run.turns * (measured.turn_bytes + own)


def table(run: Run, model: Model, gpu: Gpu, measured: Measured) -> str:
    parts = list(lines(run, model, gpu, measured))
    wall = sum(part.seconds for part in parts)
    rows = [f"| {one.what} | {_time(one.seconds)} | {one.seconds / wall:.1%} | {one.note} |" for one in parts]
    needed = run.turns / wall
    return "\n".join(
        [
            f"{run.turns:,.0f} turns of {run.policies} policies on {gpu.count} GPUs",
            "",
            "| part | wall time | share | |",
            "| --- | --: | --: | --- |",
            *rows,
            f"| one after the other | {_time(wall)} | | |",
            "",
            f"{needed:,.1f} turns a second over all; one process plays up to {measured.turns_per_s:,.0f}",
            f"journal: {journal_bytes(run, measured) / 1e9:,.1f} GB, "
            f"{journal_bytes(run, measured) / run.turns:,.0f} bytes a turn",
            f"CPU of protocol and journal: {_time(run.turns * measured.turn_cpu_s)} of one core",
        ]
    )


def _time(seconds: float) -> str:
    return f"{seconds / HOUR:.2f} h" if seconds > HOUR / 4 else f"{seconds:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--times", type=float, default=1, help="so many times the samples and the collections"
    )
    parser.add_argument("--gpus", type=int, default=8)
    parts = (Run, Model, Gpu, Measured)
    for part in parts:
        for each in fields(part):
            if each.name not in ("count",):
                parser.add_argument(f"--{each.name.replace('_', '-')}", type=float, default=each.default)
    given = vars(parser.parse_args())
    given["count"], given["turns"] = given.pop("gpus"), given["turns"] * given["times"]
    given["steps"] *= given.pop("times")
    made = [part(**{each.name: given[each.name] for each in fields(part)}) for part in parts]
    print(table(*made))  # type: ignore[arg-type]  # one of each, in order


if __name__ == "__main__":
    main()
