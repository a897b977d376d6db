import pytest
from railmap.lines import Line, best, stops

COAST = Line("coast", ("Harbour", "Mill", "Airport"))
RING = Line("ring", ("Harbour", "Market", "Castle", "Park"), ring=True)


@pytest.mark.parametrize(
    ("start", "end", "count"),
    [("Harbour", "Airport", 2), ("Mill", "Mill", 0), ("Mill", "Harbour", None)],
)
def test_stops_on_a_line(start, end, count):
    assert stops(COAST, start, end) == count


def test_a_ring_goes_on():
    assert stops(RING, "Park", "Market") == 2


def test_no_station_twice():
    with pytest.raises(ValueError, match="twice"):
        Line("loop", ("Mill", "Park", "Mill"))


def test_best():
    assert best([COAST], "Harbour", "Mill") == ("coast", 1)
