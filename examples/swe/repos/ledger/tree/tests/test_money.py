import pytest
from ledger.money import share, show, split


@pytest.mark.parametrize(("cents", "text"), [(1205, "12.05"), (-1205, "-12.05"), (7, "0.07")])
def test_show(cents, text):
    assert show(cents) == text


def test_half_goes_up():
    assert [share(5, 1, 10), share(4, 1, 10), share(335, 90, 100)] == [1, 0, 302]


def test_split_without_rest():
    assert split(900, [1, 2, 0]) == [300, 600, 0]


@pytest.mark.parametrize("weights", [[], [0, 0], [2, -1]])
def test_no_weights(weights):
    with pytest.raises(ValueError):
        split(100, weights)
