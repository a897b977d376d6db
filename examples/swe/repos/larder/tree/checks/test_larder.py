import pytest
from larder import Larder


def test_keeps(clock):
    larder = Larder(2, clock=clock)
    larder.put("jam", 1)
    assert larder.get("jam") == 1
    assert larder.get("ham", "none") == "none"
    assert (larder.hits, larder.misses) == (1, 1)


@pytest.mark.clock
def test_use_by(clock):
    larder = Larder(2, keep=10, clock=clock)
    larder.put("milk", 1)
    clock.now = 10
    assert larder.get("milk") is None
    assert len(larder) == 0


def test_the_oldest_goes(clock):
    larder = Larder(2, clock=clock)
    for name in ("jam", "ham", "egg"):
        larder.put(name, name)
    assert [larder.get(name) for name in ("jam", "ham", "egg")] == [None, "ham", "egg"]


def test_makes_once(clock):
    larder, made = Larder(1, clock=clock), []
    for _ in range(3):
        larder.fetch("tea", lambda: made.append(1) or "tea")
    assert made == [1]


def test_room():
    with pytest.raises(ValueError):
        Larder(0)
