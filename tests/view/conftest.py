"""The journal fixtures of `tests/memory`, a journal full of hostile text, a viewer's server, a browser."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import hostile
import pytest

from sparring.memory.journal import Journal

_spec = spec_from_file_location("memory_conftest", Path(__file__).parents[1] / "memory" / "conftest.py")
assert _spec is not None and _spec.loader is not None
_fixtures = module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)
template, databases, database = _fixtures.template, _fixtures.databases, _fixtures.database
memory, journal, postgres_only = _fixtures.memory, _fixtures.journal, _fixtures.postgres_only
SERVER = _fixtures.SERVER
CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    *(
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
    ),
    *("--disable-background-networking", "--disable-component-update", "--window-size=1280,900"),
)


@pytest.fixture(scope="session")
def cruel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A memory URL of a journal with hostile text wherever somebody can write."""
    if SERVER is None:
        url = str(tmp_path_factory.mktemp("cruel") / "cruel.db")
    else:
        _fixtures._administer(f"CREATE DATABASE {hostile.DATABASE}")
        url = _fixtures._url(hostile.DATABASE)
    hostile.write(url)
    yield url
    if SERVER is not None:
        _fixtures._administer(f"DROP DATABASE {hostile.DATABASE} WITH (FORCE)")


@pytest.fixture(scope="session")
def cruel_pages(cruel: str) -> list[str]:
    """The address of every page of that journal."""
    with Journal.open(cruel, read_only=True) as journal:
        return hostile.pages(journal)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real browser without a window."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if not CHROMIUM.exists() or not DRIVER.exists():
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()
