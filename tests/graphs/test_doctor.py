"""What `sparring doctor` says of the sandbox: where all holds, where it is weaker, where nothing does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparring.graphs.doctor import Finding, _sandbox
from sparring.tools.sandbox import bubblewrap, selftest
from sparring.tools.sandbox.inside import landlock


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    selftest._tested.cache_clear()
    yield
    selftest._tested.cache_clear()


def said() -> Finding:
    found = _sandbox()
    assert "\n" not in found.detail + found.mend
    return found


@pytest.mark.skipif(not landlock.abi(), reason="this kernel has no Landlock")
def test_the_one_that_holds_is_named_with_what_is_weaker(monkeypatch: pytest.MonkeyPatch) -> None:
    if bubblewrap.program() and (best := said()).state == "ok":
        assert "bwrap+landlock+seccomp" in best.detail and not best.mend
        selftest._tested.cache_clear()
    monkeypatch.setattr(bubblewrap, "program", lambda: None)
    weaker = said()
    assert weaker.state == "note" and "landlock+seccomp" in weaker.detail and "weaker: names" in weaker.detail
    assert "install bubblewrap" in weaker.mend


def test_where_nothing_holds_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    found = said()
    assert found.state == "note" and "Install bubblewrap" in found.detail and "`code`" in found.mend
