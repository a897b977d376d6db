import pytest
from tidebook import clock, minutes, read


def test_lines_are_sorted():
    assert [clock(tide.at) for tide in read("11:25 high 4.6\n05:10 low 0.8\n")] == ["05:10", "11:25"]


def test_high_and_low_take_turns():
    with pytest.raises(ValueError, match="11:25"):
        read("11:25 low 1.0\n05:10 low 0.8")


@pytest.mark.parametrize("text", ["24:00", "12:60", "-1:00"])
def test_no_time_of_day(text):
    with pytest.raises(ValueError):
        minutes(text)
