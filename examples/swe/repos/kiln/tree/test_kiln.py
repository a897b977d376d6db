import time

import pytest
from kiln import Step, TooCold, duration, fire, wait_until


class Clock:
    """Time that goes by only while somebody sleeps."""

    def __init__(self, rate=400.0):
        self.now, self.rate = 0.0, rate

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    def kiln(self):
        return self.rate * self.now


def wait(clock, target, **options):
    return wait_until(clock.kiln, target, clock=clock, sleep=clock.sleep, **options)


def test_waits():
    clock = Clock()
    assert wait(clock, 1000, timeout=10, interval=0.5) == 1000
    assert clock.now == 2.5


def test_gives_up():
    with pytest.raises(TooCold, match="of 9000"):
        wait(Clock(), 9000, timeout=3)


def test_a_real_firing_takes_its_time():
    began = time.monotonic()
    steps = [Step(100, hold=0.7), Step(400, hold=0.8)]
    reached = fire(steps, lambda: 800 * (time.monotonic() - began), timeout=5)
    assert len(reached) == 2
    assert time.monotonic() - began >= 1.5


def test_a_slow_kiln_is_waited_for():
    began = time.monotonic()
    assert wait_until(lambda: 50 * (time.monotonic() - began), 100, timeout=20) >= 100
    assert time.monotonic() - began >= 2


def test_duration():
    assert duration([Step(120, hold=60), Step(320)], rate=2) == 210
