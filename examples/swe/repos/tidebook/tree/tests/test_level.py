import pytest
from tidebook import level, minutes, read

HARBOUR = read("05:10 low 0.8\n11:25 high 4.6\n17:40 low 1.0\n23:50 high 4.4")


@pytest.mark.parametrize(
    ("time", "metres"),
    [("05:10", 0.8), ("08:17", 2.692), ("11:25", 4.6), ("17:40", 1.0)],
)
def test_level(time, metres):
    assert level(HARBOUR, minutes(time)) == pytest.approx(metres, abs=0.01)


def test_the_sea_falls_after_high_water():
    assert level(HARBOUR, minutes("12:00")) > level(HARBOUR, minutes("14:00"))
