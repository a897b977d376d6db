import pytest
from shelfmark import CallNumber, parse


@pytest.mark.parametrize(
    "text", ["QA76.9 .D3 1999 [oversize]", "Z7 .B2 .C3", "PR6 .A1 2001 [gift - 2 copies]", "QA9 [a [b]"]
)
def test_tidy_numbers_come_back(text):
    assert str(parse(text)) == text


def test_parts():
    assert parse("QA 76.9.D3  1999") == CallNumber("QA", "76", "9", ("D3",), 1999)


@pytest.mark.parametrize("text", ["", "76.9", "qa76", "QA76 [open", "QA76 .D"])
def test_what_is_no_call_number(text):
    with pytest.raises(ValueError):
        parse(text)
