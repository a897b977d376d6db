"""The plots as files: the right size, not blank, and every mark where the data say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from sparring.errors import UserError
from sparring.graphs.stats import Estimate, wilson
from sparring.training import play_plot, plots
from sparring.training.plots import before_after_plot, curves_plot, training_plot

pytestmark = pytest.mark.filterwarnings("error")  # a missing glyph or a bad label is a warning
NAN = float("nan")
HOSTILE = [
    "_hidden",
    "$x_{1}",
    "a$b$c",
    r"\frac{$",
    "解答 🎲",
    "line\nbreak\x00",
    "%s {0}",
    "",
    "x" * 300,
    "\ud800",
]


def pixels(path: Path) -> NDArray[np.uint8]:
    """(height, width, 3) of a PNG."""
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def shows(path: Path, colour: str) -> int:
    """How many pixels have about this colour."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(pixels(path).astype(int) - wanted).max(axis=2) < 12).sum())


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved, to be asked for what is on them."""
    figures: list[Figure] = []
    save = plots.save

    def keep(figure: Figure, out: str | Path) -> Path:
        figures.append(figure)
        return save(figure, out)

    for module in (plots, play_plot):
        monkeypatch.setattr(module, "save", keep)
    return figures


def metrics(step: int, **more: Any) -> dict[str, Any]:
    row = {"step": step, "seconds": 10.0 + 3 * step, "reward": 0.2 + step / 100, "entropy": 3 / (1 + step)}
    row |= {"kl_reference": step / 50, "clip_low": 0.01, "clip_high": 0.02, "length": 5.0, "informative": 0.5}
    return row | more


def point(step: int, hits: int, n: int = 200) -> dict[str, Any]:
    found = wilson(hits, n)
    return {"step": step, "mean": found.mean, "low": found.low, "high": found.high, "n": n}


def line(figure: Figure, panel: int, label: str) -> tuple[list[float], list[float]]:
    """x and y of a labelled line."""
    (found,) = [each for each in figure.axes[panel].get_lines() if each.get_label() == label]
    return list(found.get_xdata()), list(found.get_ydata())


def legend(figure: Figure, panel: int) -> list[str]:
    found = figure.axes[panel].get_legend()
    return [] if found is None else [text.get_text() for text in found.get_texts()]


SERIES = [metrics(step, policy=policy) for policy in ("solver", "critic") for step in range(20)]
DECISIONS = [
    {"step": 5, "decision": "promote"},
    {"step": 10, "decision": "reject"},
    {"step": 15, "decision": "underpowered"},
]


def test_training_plot_draws_everything(tmp_path: Path, drawn: list[Figure]) -> None:
    out = training_plot(
        SERIES,
        tmp_path / "new" / "run.png",
        evaluations={
            "training head": [point(10, 120), point(0, 47)],
            "live": [point(0, 47, 100)],
            "none": [],
        },
        decisions=DECISIONS,
        alarms=[{"step": 7, "monitor": "copying"}, {"step": 8, "monitor": "copying"}],
    )
    assert out == tmp_path / "new" / "run.png" and pixels(out).shape == (950, 1100, 3)
    assert [path.name for path in out.parent.iterdir()] == ["run.png"]  # no half-written file is left
    (figure,) = drawn
    assert line(figure, 0, "training head, n = 200") == ([0, 10], [0.235, 0.6])  # in order of steps
    assert line(figure, 1, "critic") == (list(range(20)), [0.2 + step / 100 for step in range(20)])
    assert line(figure, 4, "solver")[1] == pytest.approx([0.03] * 20)  # clipped on either side
    assert legend(figure, 0) == [
        "training head, n = 200", "live, n = 100", "gate: promote", "gate: reject", "gate: underpowered",
        "alarm: copying",
    ]  # fmt: skip
    assert legend(figure, 1) == ["solver", "critic"]
    for panel in figure.axes:
        assert sorted(each.get_xdata()[0] for each in panel.get_lines() if each.get_color() == "#A00000"
                      and len(each.get_xdata())) == [7, 8]  # fmt: skip
    marks = [each for each in figure.axes[0].collections if str(each.get_label()).startswith("gate")]
    assert [mark.get_offsets()[0][0] for mark in marks] == [5, 10, 15]
    for colour in (*plots.COLOURS[:3], "#666666"):
        assert shows(out, colour) > 30, colour


def test_seconds_place_rows_that_only_know_their_step(tmp_path: Path, drawn: list[Figure]) -> None:
    training_plot(
        [metrics(step) for step in (0, 10, 20)],
        tmp_path / "a.png",
        evaluations={"live": [point(0, 1), point(5, 2), {**point(20, 3), "seconds": 99.0}]},
        alarms=[{"step": 10, "monitor": "balance"}],
        axis="seconds",
    )
    assert line(drawn[0], 0, "live, n = 200")[0] == [10, 25, 99]
    assert line(drawn[0], 1, "policy")[0] == [10, 40, 70]
    assert 40 in [each.get_xdata()[0] for each in drawn[0].axes[2].get_lines() if len(each.get_xdata())]
    assert drawn[0].axes[0].get_xlabel() == "seconds of training"


def test_gaps_empty_panels_and_lone_values(tmp_path: Path, drawn: list[Figure]) -> None:
    values = [0.1, None, 0.3, NAN, 0.5, 0.6]
    rows = [{"step": step, "reward": value, "entropy": None} for step, value in enumerate(values)]
    out = training_plot(rows, tmp_path / "a.png")
    assert np.isnan(line(drawn[0], 1, "policy")[1]).tolist() == [False, True, False, True, False, False]
    dots = drawn[0].axes[1].get_lines()[1]
    assert list(dots.get_xdata()) == [0, 2]
    said = [[text.get_text() for text in panel.texts] for panel in drawn[0].axes]
    assert said == [["not measured"], [], *[["not measured"]] * 5]
    assert pixels(out).std() > 5
    one = training_plot([], tmp_path / "b.png", evaluations={"live": [point(0, 47)]})
    assert shows(one, plots.COLOURS[0]) > 20  # a single evaluation is visible, with its interval
    training_plot([{}, {"step": "x", "reward": "y"}], tmp_path / "c.png", decisions=[{}], alarms=[{}])


def test_hostile_labels_are_drawn_as_they_are(tmp_path: Path, drawn: list[Figure]) -> None:
    e, title = wilson(5, 10), " ".join(HOSTILE)
    rows = [metrics(step, policy=label) for label in HOSTILE for step in (0, 1)]
    decisions = [{"step": 1, "decision": label} for label in HOSTILE]
    alarms = [{"step": 1, "monitor": label} for label in HOSTILE]
    heads = {label: [point(0, 1)] for label in HOSTILE}
    training_plot(
        rows, tmp_path / "a.png", evaluations=heads, decisions=decisions, alarms=alarms, title=title
    )
    each = dict.fromkeys(HOSTILE, e)
    before_after_plot(each, each, tmp_path / "b.png", title=title, labels=("_a", ""))
    runs = {label: [(0.0, 0.1, 0.0, 1.0)] for label in HOSTILE}
    curves_plot(runs, tmp_path / "c.png", title=title, x_label="$_", level=("_$\\x$", 0.5))
    entries = [len(legend(figure, 0)) for figure in drawn]
    assert entries == [3 * len(HOSTILE), 2, len(HOSTILE) + 1]
    assert len(legend(drawn[0], 1)) == len(HOSTILE)
    for label in HOSTILE:
        assert not {"\n", "\x00"} & set(plots.plain(label))


def test_plain_text_of_labels() -> None:
    assert plots.plain("_a") == " _a"
    assert plots.plain("$5") == r"\$5"
    assert plots.plain("é σ − 答") == "é σ − \\u7b54"
    assert plots.plain("x" * 50) == "x" * 35 + "…"


def test_before_after_by_kind(tmp_path: Path, drawn: list[Figure]) -> None:
    before = {"all": wilson(47, 200), "sums": wilson(30, 100)}
    after = {"all": wilson(171, 200), "differences": Estimate(0.72, 0.63, 0.8, 100)}
    out = before_after_plot(before, after, tmp_path / "a.png")
    panel = drawn[0].axes[0]
    heights = [[bar.get_height() for bar in bars] for bars in panel.containers if hasattr(bars, "patches")]
    assert heights == [[0.235, 0.3], [0.855, 0.72]]
    ticks = [tick.get_text() for tick in panel.get_xticklabels()]
    assert ticks == ["all\nn = 200", "sums\nn = 100", "differences\nn = 100"]
    segments = [bars.lines[2][0].get_segments() for bars in panel.containers if not hasattr(bars, "patches")]
    assert segments[1][1][:, 1] == pytest.approx([0.63, 0.8])  # error bars are the interval itself
    assert [text.get_text() for text in panel.texts] == ["0.235", "0.300", "0.855", "0.720"]
    assert pixels(out).shape == (420, 610, 3)


def test_curves_of_several_runs(tmp_path: Path, drawn: list[Figure]) -> None:
    runs = {
        "seed 0": [(30, 0.5, 0.4, 0.6), (0, 0.2, 0.1, 0.3)],
        "control": [(0, 0.2, 0.1, 0.3), (30, NAN, 0.1, 0.3)],
        "not begun": [],
    }
    out = curves_plot(runs, tmp_path / "a.png", level=("before", 0.235), x_label="seconds of training")
    assert legend(drawn[0], 0) == ["seed 0", "control", "before"]
    assert line(drawn[0], 0, "seed 0") == ([0, 30], [0.2, 0.5])
    assert pixels(out).shape == (480, 800, 3)
    band = drawn[0].axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (0.1, 0.6)


def test_nothing_to_draw_and_no_place_to_write_are_said(tmp_path: Path) -> None:
    for draw in (
        lambda: training_plot([], tmp_path / "a.png"),
        lambda: before_after_plot({}, {}, tmp_path / "a.png"),
        lambda: curves_plot({"a": []}, tmp_path / "a.png"),
    ):
        with pytest.raises(UserError, match="nothing to plot"):
            draw()
    with pytest.raises(UserError, match="unknown axis `hours`"):
        training_plot(SERIES, tmp_path / "a.png", axis="hours")  # type: ignore[arg-type]  # what a user may type
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "a.png", tmp_path):
        with pytest.raises(UserError, match="cannot be written"):
            curves_plot({"a": [(0, 0, 0, 0)]}, place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
    assert not list(tmp_path.parent.glob(".*.part"))


def test_an_old_plot_is_replaced_whole_and_kept_on_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.png"
    out.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(UserError, match="No space left"):
            curves_plot({"a": [(0, 0, 0, 0)]}, out)
    assert out.read_bytes() == b"old"
    curves_plot({"a": [(0, 0, 0, 0)]}, out)
    assert pixels(out).size and [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_the_users_matplotlib_is_left_alone_and_left_out(tmp_path: Path) -> None:
    """No pyplot, no import before the first plot, settings of the user neither used nor changed."""
    code = f"""
import sys
from sparring.training import plots
assert "matplotlib" not in sys.modules
import matplotlib
matplotlib.rcParams["figure.facecolor"] = "black"
matplotlib.rcParams["text.usetex"] = True
settings = lambda: {{name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}}
before = settings()  # to read the backend would import pyplot
plots.curves_plot({{"a": [(0, 0.5, 0.4, 0.6)]}}, {str(tmp_path / "a.png")!r})
assert "matplotlib.pyplot" not in sys.modules
assert settings() == before
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
    assert pixels(tmp_path / "a.png")[0, 0].tolist() == [255, 255, 255]


def test_figures_of_the_play_in_panels_of_their_own(drawn: list[Figure], tmp_path: Path) -> None:
    """A panel for each group that there is; scores by value; probes apart; a gap where a step has none."""
    played = [
        {"step": 1, "solver_reward": 0.5, "right": 0.25, "score/1": 0.5, "score/3": 0.5},
        {"step": 2, "right": 0.5, "versions": [1, 2]},
        {"step": 3, "solver_reward": 0.9, "right": 0.25, "score/3": 1.0, "strange": 1.0},
    ]
    probes = [{"step": 0, "judge_recall": 0.75}, {"step": 3, "judge_recall": 1.0}]
    out = play_plot.play_plot(played, probes, tmp_path / "deep" / "play.png")
    [figure] = drawn
    titles = [panel.get_title() for panel in figure.axes]
    assert titles == ["Solver reward and the truth", "Scores", "Evaluated: approval as a verdict"]
    x, y = line(figure, 0, "solver reward")
    assert x == [1, 2, 3] and (y[0], y[2]) == (0.5, 0.9) and np.isnan(y[1])
    assert line(figure, 0, "right")[1] == [0.25, 0.5, 0.25]
    assert line(figure, 1, "score 3")[1][::2] == [0.5, 1.0]
    assert line(figure, 2, "judge recall") == ([0, 3], [0.75, 1.0])
    assert out is not None and pixels(out).shape[1] > 1000


def test_a_protocol_that_measures_nothing_of_its_play_has_no_such_plot(tmp_path: Path) -> None:
    assert play_plot.play_plot([{"step": 1}], [{"step": 0, "accuracy": 0.5}], tmp_path / "play.png") is None
    assert not (tmp_path / "play.png").exists()
