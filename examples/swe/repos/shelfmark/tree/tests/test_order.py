import pytest
from shelfmark import shelved


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param("QA76 .B25", "QA76 .B7", id="cutters: .B25 - .B7 [decimals]"),
        pytest.param("QA76 .B7", "QA76 .B7 1999", id="year: none - 1999"),
        pytest.param("QA76", "QA76.9", id="decimal: none - .9"),
        pytest.param("Q300", "QA9", id="letters: Q - QA"),
    ],
)
def test_order(first, second):
    assert shelved([second, first]) == [first, second]


def test_a_shelf():
    shelf = ["PR6 .A1", "QA76 .B7 1987", "QA76 .B7 1999 [2nd copy]", "QA76.9 .D3"]
    assert shelved(reversed(shelf)) == shelf
