"""Rating curves as a PNG, drawn from the match rows."""

from __future__ import annotations

from pathlib import Path

from sparring.memory.journal import Journal
from sparring.training.league.ratings import openskill_curve
from sparring.training.league.record import read_field
from sparring.training.story import plots_folder

Drawn = tuple[float, float, float, float]
"""Place, value, and the band from low to high."""
MOST = 200
"""Points of a curve that are drawn; more would hide each other."""


def draw(journal: Journal, run: str, folder: str | None = None) -> list[Path]:
    """Write the openskill curves of a tournament's players to `ratings.png`; nothing where no game counts."""
    from sparring.training.plots import curves_plot

    field = read_field(journal, run)
    curves: dict[str, list[Drawn]] = {name: [] for name in field.entrants.order}
    for point in openskill_curve(field.games, field.void):
        low, high = point.mu - point.sigma, point.mu + point.sigma
        curves[point.player].append((point.position + 1.0, point.mu, low, high))
    if not any(curves.values()):
        return []
    thin = {name: _thinned(points) for name, points in curves.items()}
    out = plots_folder(journal, run, folder) / "ratings.png"
    title = f"Ratings of {run}, game by game"
    return [
        curves_plot(thin, out, title=title, x_label="games of the schedule", y_label="openskill, mu ± sigma")
    ]


def _thinned(points: list[Drawn]) -> list[Drawn]:
    step = -(-len(points) // MOST) or 1
    return points[(len(points) - 1) % step :: step]  # the last one stays
