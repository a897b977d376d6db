import pytest
from parking import Rate, blocks, charge, ticket

BOARD = Rate(price=150, most=1200)


@pytest.mark.parametrize(("minutes", "expected"), [(0, 0), (15, 0), (16, 1), (31, 2), (61, 3), (75, 3)])
def test_blocks(minutes, expected):
    assert blocks(BOARD, minutes) == expected


def test_no_stay_of_less_than_nothing():
    with pytest.raises(ValueError):
        blocks(BOARD, -1)


def test_a_day_has_a_maximum():
    assert charge(BOARD, 20 * 60) == 1200
    assert charge(BOARD, 24 * 60 + 20) == 1350


def test_ticket():
    assert ticket(BOARD, 600, 610) == "0:10 h  0.00 EUR"
    assert ticket(BOARD, 600, 690 - 1) == "1:29 h  4.50 EUR"


def test_a_block_has_a_length():
    with pytest.raises(ValueError):
        Rate(price=100, block=0)
