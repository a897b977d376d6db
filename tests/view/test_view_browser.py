"""The pages and the export in a real browser: nothing hostile runs, and a page follows its run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import hostile
import pytest
from selenium.common.exceptions import StaleElementReferenceException
from view_server import Served, serving

import sparring
from sparring.agents.engines.base import Request
from sparring.agents.engines.scripted import ScriptedEngine
from sparring.memory.journal import Journal
from sparring.view.export import export
from sparring.view.text import link

CANARY = """
window.pwned = 0;
for (const name of ["alert", "confirm", "prompt", "print", "open"])
  window[name] = () => { window.pwned = name; };
window.broken = [];
addEventListener("securitypolicyviolation",
  (event) => window.broken.push(event.violatedDirective + event.blockedURI));
addEventListener("error", (event) => window.broken.push(String(event.message)));
"""
EVERYTHING = """
for (const one of document.querySelectorAll("details")) one.open = true;
for (const one of document.querySelectorAll("main *")) {
  for (const kind of ["mouseover", "focus", "mouseenter", "load", "error", "toggle"])
    one.dispatchEvent(new Event(kind));
  one.focus?.();
}
return [window.pwned, window.broken,
        document.querySelectorAll("iframe,object,embed,base").length,
        [...document.querySelectorAll("*")].flatMap((one) => [...one.attributes])
          .filter((one) => one.name.startsWith("on")).length,
        [...document.links].filter((one) => !["http:", "file:"].includes(one.protocol)).length,
        [...document.images].filter((one) => one.complete && !one.naturalWidth).length];
"""
CLEAN = [0, [], 0, 0, 0, 0]


@pytest.fixture
def browser(chromium: Any) -> Iterator[Any]:
    """A browser in which every page notes what runs and what is refused."""
    added = chromium.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": CANARY})
    chromium.get_log("browser")
    yield chromium
    chromium.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    for reset in ("Emulation.clearDeviceMetricsOverride", "Emulation.setEmulatedMedia"):
        chromium.execute_cdp_cmd(reset, {})
    chromium.get("about:blank")


def until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """What a condition gives as soon as it is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(StaleElementReferenceException):  # the page was renewed between finding and reading
            if found := condition():
                return found
        time.sleep(0.1)
    raise AssertionError("it did not come to be")


def test_the_canary_sings_where_scripts_run(browser: Any, tmp_path: Path) -> None:
    """Or the next test could not fail."""
    page = tmp_path / "open.html"
    page.write_text(f"<main>{hostile.LINE}</main>")
    browser.get(page.as_uri())
    assert until(lambda: browser.execute_script("return window.pwned"))


def test_nothing_hostile_runs(cruel: str, cruel_pages: list[str], browser: Any, tmp_path: Path) -> None:
    out = tmp_path / "run.html"
    export(cruel, hostile.RUN, out)
    with serving(cruel) as served:
        browser.get(served.enter())
        pages = [path for path in cruel_pages if not path.startswith("/blob")]
        for address in (*(served.origin + path for path in pages), out.as_uri()):
            browser.get(address)
            assert browser.execute_script(EVERYTHING) == CLEAN, address
        assert "{{7*7}}" in browser.find_element("tag name", "main").text
        noted = [entry for entry in browser.get_log("browser") if "status of 404" not in entry["message"]]
    assert not noted


@pytest.fixture
def play(memory: str) -> Iterator[Callable[[], threading.Event]]:
    """Plays a run in a thread; a turn is only said when the event that it returns lets it."""
    threads: list[threading.Thread] = []
    go = threading.Event()

    def start() -> threading.Event:
        tasks = [{"id": f"t{number}", "question": f"{number} + 1?", "answer": "4"} for number in range(3)]

        async def reply(request: Request, seed: int) -> str:
            import asyncio

            while len(request.messages) > 2 and not go.is_set():
                await asyncio.sleep(0.05)
            return "A long word.\n\n" * 40 + "Answer: 4"

        engine = ScriptedEngine(reply, delay_s=0.05)
        asked: dict[str, Any] = {"engine": engine, "memory": memory, "run": "r", "rounds": 2, "agents": 2}
        threads.append(threading.Thread(target=lambda: sparring.play("du", tasks, **asked)))
        threads[-1].start()
        return go

    yield start
    go.set()
    for thread in threads:
        thread.join()


def test_a_page_follows_its_run(memory: str, play: Callable[[], threading.Event], browser: Any) -> None:
    go = play()
    with Journal.open(memory, read_only=True) as journal:
        from sqlalchemy import select

        from sparring.memory.schema import Episode, Turn

        first = until(lambda: len(journal.read(select(Turn.id))) >= 6 and journal.read(select(Episode)))[0]
    with serving(memory) as served:
        browser.get(served.enter(link("/run", name="r")))
        field = browser.find_element("css selector", "input[type=search]")
        field.send_keys("half a wo")
        runs = browser.current_window_handle
        browser.switch_to.new_window("tab")
        browser.get(served.origin + link("/episode", id=first.id))
        browser.execute_script("window.same = document.querySelector('article'); window.scrollTo(0, 300);")
        opened = browser.find_element("css selector", "details.saw")
        opened.find_element("tag name", "summary").click()
        browser.execute_script("document.querySelector('article.turn').focus({preventScroll: true})")
        scrolled = browser.execute_script("return scrollY")
        held = browser.execute_script("return document.activeElement.id")
        assert len(browser.find_elements("css selector", "article.turn")) == 2 and held.startswith("turn-")
        go.set()
        until(lambda: len(browser.find_elements("css selector", "article.turn")) == 4)
        until(lambda: "done" in browser.find_element("css selector", "h1").text)
        assert browser.execute_script("return window.same === document.querySelector('article')"), (
            "it was loaded anew"
        )
        assert opened.get_property("open") and browser.execute_script("return scrollY") == scrolled
        assert browser.execute_script("return document.activeElement.id") == held
        assert "verdict" in browser.find_element("css selector", ".transcript").text
        until(lambda: browser.find_element("tag name", "body").get_attribute("data-live") is None)
        browser.close()
        browser.switch_to.window(runs)
        until(lambda: "3 of 3 done" in browser.find_element("id", "summary").text)
        assert field.get_property("value") == "half a wo" and field == browser.switch_to.active_element
        field.send_keys("rd\n")
        until(lambda: "No episode fits" in browser.find_element("id", "episodes").text)
        assert "q=half+a+word" in browser.current_url
        served.stop()
        until(lambda: "not running any more" in browser.find_element("id", "gone").text)
    with serving(memory, served.port) as again:  # with its own cookie, which the browser still has
        assert again.port == served.port
        until(lambda: not browser.find_element("id", "gone").text)
    assert not [
        entry for entry in browser.get_log("browser") if "ERR_CONNECTION_REFUSED" not in entry["message"]
    ]


def test_the_footer_counts_while_the_journal_is_read(
    cruel: str, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparring.view.facts import Facts

    go, read = threading.Event(), Facts._read

    def slow(facts: Facts, numbers: Any) -> None:
        go.wait(60)
        read(facts, numbers)

    monkeypatch.setattr(Facts, "_read", slow)
    with serving(cruel) as served:
        browser.get(served.enter())
        until(lambda: "Reading the journal: 0 of 2 episodes" in browser.find_element("id", "index").text)
        go.set()
        until(lambda: "Reading" not in browser.find_element("id", "index").text)


@pytest.fixture(scope="module")
def cruel_served(cruel: str) -> Iterator[Served]:
    with serving(cruel) as served:
        yield served


def test_keys(cruel_served: Served, cruel_pages: list[str], browser: Any) -> None:
    def press(key: str) -> str:
        browser.switch_to.active_element.send_keys(key)
        return str(
            browser.execute_script(
                "const at = document.activeElement; return at.id || at.className || at.tagName"
            )
        )

    browser.get(cruel_served.enter())
    browser.get(cruel_served.origin + next(page for page in cruel_pages if page.startswith("/episode")))
    assert press("\ue004") == "skip"  # Tab
    assert press("\ue007") == "main" or browser.current_url.endswith("#main")  # Enter
    items = [one.get_attribute("id") for one in browser.find_elements("css selector", ".item")]
    browser.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
    assert [press("j"), press("j"), press("k"), press("k"), press("j")] == [
        *items[:2],
        items[0],
        items[0],
        items[1],
    ]
    shown = browser.execute_script(
        "const box = document.activeElement.getBoundingClientRect();"
        "return box.top < innerHeight && box.bottom > 0"
    )
    assert shown
    details = "return [...document.querySelectorAll('main details')].map((one) => one.open)"
    press("o")
    assert all(browser.execute_script(details))
    press("o")
    assert not any(browser.execute_script(details))
    browser.get(cruel_served.origin + link("/run", name=hostile.RUN))
    assert press("/") == "INPUT"
    assert press("j") == "INPUT" and browser.switch_to.active_element.get_property("value") == "j"
    assert press("\ue00c") == "BODY"  # Escape
    episodes = browser.find_elements("css selector", "#episodes a.item")
    assert len(episodes) > 1
    first, second = (one.get_attribute("href") for one in episodes[:2])
    browser.get(first)
    for key, there in (("n", second), ("p", first)):
        browser.find_element("tag name", "body").send_keys(key)
        until(lambda there=there: browser.current_url == there)
    browser.back()
    browser.get(cruel_served.origin + link("/run", name=hostile.RUN))
    order = []
    for _ in range(40):
        press("\ue004")
        order.append(
            browser.execute_script(
                "const at = document.activeElement; return at.name || at.className || at.tagName"
            )
        )
    wanted = ["skip", "name", "q", "said", "status", "role", "verdict", "differ", "sort", "item"]
    start = order.index("skip") if "skip" in order else 0
    places = [order.index(name, start) for name in wanted[wanted.index("skip") if "skip" in order else 2 :]]
    assert places == sorted(places), order


def test_a_narrow_screen_does_not_scroll_sideways(
    cruel: str, cruel_served: Served, cruel_pages: list[str], browser: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run.html"
    export(cruel, hostile.RUN, out)
    narrow = {"width": 375, "height": 700, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    browser.get(cruel_served.enter())
    pages = [path for path in cruel_pages if not path.startswith("/blob")]
    for address in (*(cruel_served.origin + path for path in pages), out.as_uri()):
        browser.get(address)
        browser.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 375, address
