"""What a protocol measured of its own play, step by step, and of its evaluations: where a collapse shows.

For CoMAS's discussions: what solvers are paid beside how many of them are right, so that agreement among
judges is not mistaken for truth; how scores spread; how far approval can be trusted. For the sneaky game:
who wins, and both recalls of the critic.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sparring.graphs.drawing import Point, add_legend, count_steps, draw_line, new_figure, number_of, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Panel = tuple[str, tuple[str, ...]]
PANELS: tuple[Panel, ...] = (
    ("Solver reward and the truth", ("solver_reward", "right", "right_last", "approved")),
    ("Approval as a verdict", ("judge_accuracy", "judge_precision", "judge_recall")),
    ("Scores", ("score/",)),
    ("Readable and repeated", ("judged", "repeated")),
    ("Games", ("win_rate", "valid", "unsound")),
    ("Critic", ("correct_recall", "error_recall", "false_alarm")),
)
"""Title and figures, all of them shares; `score/` stands for every figure that begins so."""
EVALUATED = "Evaluated: "
WIDTH, HEIGHT = 5.2, 3.1


def play_plot(
    played: Sequence[Point], evaluated: Sequence[Point], out: str | Path, *, title: str = "Play"
) -> Path | None:
    """Draw the figures of a run's play to a PNG, a panel for each group that it has; None without any.

    Args:
        played: a step's figures beside its `step`.
        evaluated: the same of evaluations after so many updates; steps count from 1, so 0 is before any.
    """
    panels = [(name, played, chosen) for name, names in PANELS if (chosen := _present(played, names))]
    panels += [
        (EVALUATED + name.lower(), evaluated, chosen)
        for name, names in PANELS
        if (chosen := _present(evaluated, names))
    ]
    if not panels:
        return None
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with new_figure(WIDTH * columns, HEIGHT * rows + 0.5, title) as figure:
        for place, (name, points, chosen) in enumerate(panels, start=1):
            _draw(figure.add_subplot(rows, columns, place), name, points, chosen)
        return save(figure, out)


def _present(points: Sequence[Point], names: Sequence[str]) -> list[str]:
    """Which of the figures there are, in order."""
    known = sorted({name for point in points for name in point})
    return [
        name
        for wanted in names
        for name in known
        if name == wanted or (wanted.endswith("/") and name.startswith(wanted))
    ]


def _draw(panel: Axes, title: str, points: Sequence[Point], names: Sequence[str]) -> None:
    panel.set_title(title)
    panel.set_ylim(-0.03, 1.03)
    panel.set_xlabel("step")
    count_steps(panel)
    steps = np.array([number_of(point, "step") for point in points])
    for number, name in enumerate(names):
        values = np.array([number_of(point, name) for point in points])
        draw_line(panel, steps, values, name.replace("_", " ").replace("/", " "), number)
    add_legend(panel, "inside")
