import pytest
from addressee import Person, addresses, person


@pytest.mark.parametrize(
    "text",
    [
        "jane@example.org",
        "Jane <j@example.org>",
        '"Jane [home]" <j@example.org>',
        '"J\\"D" <j.d@example.org>',
    ],
)
def test_one_person_comes_back(text):
    assert str(person(text)) == text


@pytest.mark.parametrize("text", ["", "Jane", "jane@", "Jane <jane>", "a@b@example.org"])
def test_no_address(text):
    with pytest.raises(ValueError):
        person(text)


def test_list():
    assert addresses("jane@example.org, , Max Li <max@example.org>") == [
        Person("", "jane@example.org"),
        Person("Max Li", "max@example.org"),
    ]


def test_each_address_once():
    assert len(addresses("Jane <jane@example.org>, JANE@example.org")) == 1
