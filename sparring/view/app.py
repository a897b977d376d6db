"""The pages: what each address shows.

Templates escape every value; only `text.py` and `drawing.py` make markup.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import asynccontextmanager
from functools import wraps
from types import MappingProxyType
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from sparring import __version__
from sparring.errors import SparringError, UserError
from sparring.graphs.own import kept_out
from sparring.memory.journal import MAX_NAME, Journal
from sparring.memory.lock import gone
from sparring.memory.policies import lineage
from sparring.memory.schema import Blob
from sparring.view.beside import Beside, beside, said_in
from sparring.view.drawing import Drawing, draw
from sparring.view.episode import read_transcript
from sparring.view.facts import Facts
from sparring.view.guard import Guard
from sparring.view.later import WAIT_S, Later
from sparring.view.own import OWN, Own, written
from sparring.view.policies import (
    columns_of,
    grown,
    mapping,
    metrics_of,
    policy_list,
    read_policy,
    read_update,
    read_version,
    whole,
)
from sparring.view.runs import Page, children, choices, episode_list, run_list, sums_below, sums_of
from sparring.view.text import FILTERS, GLOBALS, PICTURES, TESTS

logger = logging.getLogger(__name__)
WANTED = ("q", "said", "kind", "status", "all", "role", "verdict", "differ", "sort")
Show = Callable[[Request], Response]


class Text(HTMLResponse):
    """Whatever a model can say: what UTF-8 cannot hold (half of a surrogate pair) is shown as an escape."""

    def render(self, content: Any) -> bytes:
        return str(content).encode("utf-8", "backslashreplace")


class Viewer:
    """What the pages read, and how they are rendered.

    Args:
        runs: Those that it is about; None: all.
        wait_s: How long it waits for what takes its time; None: until it is there.
        own: Whether protocols from elsewhere that runs name (`module:Class`) are imported.
    """

    def __init__(
        self,
        journal: Journal,
        name: str,
        runs: Collection[str] | None = None,
        wait_s: float | None = WAIT_S,
        own: bool = False,
    ) -> None:
        self.journal, self.name, self._imports = journal, name, own
        self.facts, self.later = Facts(journal, runs), Later(wait_s)
        self.templates = environment()

    def close(self) -> None:
        self.facts.close()
        self.later.close()

    def page(self, template: str, request: Request, live: bool = False, **values: Any) -> HTMLResponse:
        """A page; a live one fetches itself again now and then."""
        facts = self.facts
        index = {"known": facts.known, "total": facts.total, "ready": facts.ready, "trouble": facts.trouble}
        context = {
            "journal": self.name,
            "index": index,
            "live": live or not facts.ready or facts.trouble is not None,
            "version": __version__,
        }
        return Text(self.templates.get_template(template).render(context | values, path=request.url.path))

    def at(self, path: str, show: Show) -> Route:
        """A page at its address; while it is made nothing else is read."""

        @wraps(show)
        def shown(request: Request) -> Response:
            with self.facts.waiting():
                try:
                    return show(request)
                except SparringError:
                    raise
                except Exception as error:  # a fault of ours, or of whoever wrote the journal
                    logger.exception("no page at %s", request.url.path)
                    return self.wrong(request, error)

        return Route(path, shown)

    # --- pages ------------------------------------------------------------------------------------------

    def runs(self, request: Request) -> Response:
        wanted, page = asked(request)
        found = run_list(self.journal, self.facts, wanted, page)
        return self.page("runs.html", request, live=True, found=found, wanted=wanted)

    def run(self, request: Request) -> Response:
        run = self.journal.run_row(text_of(request, "name"))
        wanted, page = asked(request)
        about = self.about(run, request.query_params)
        heard = self._heard(run, wanted)
        searching = heard is None and "said" in wanted
        none = Page((), 0, 1)
        found = none if searching else episode_list(self.journal, self.facts, run.id, wanted, page, heard)
        return self.page(
            "run.html",
            request,
            live=run.status == "open"
            or searching
            or about["children"].open > 0  # its pool, which is compared with it, comes after it
            or (about["told"] is None and about["report"] is None),
            found=found,
            searching=searching,
            choices=choices(self.facts, run.id),
            wanted=wanted,
            **about,
        )

    def about(self, run: Any, asked: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
        """What a run's page and its export tell of it, above its episodes."""
        own = OWN.get(run.kind)
        return {
            "run": run,
            "gone": gone(run.driver),
            "config": {name: value for name, value in mapping(run.config).items() if name != "tasks"},
            "sums": sums_of(self.facts, [run.id])[run.id],
            "whole": sums_below(self.journal, self.facts, run.id) if own else None,
            "report": None if own else self._report(run),
            "own": own,
            "told": self._own(run, own) if own else None,
            "listed": self._listed(asked, run.id, own),
            "children": children(self.journal, run.id),
        }

    def _report(self, run: Any) -> Any:
        """The report of a run, or None while it is made."""
        from sparring.graphs.report import report

        def made() -> Any:
            with kept_out(not self._imports):
                return report(self.journal, run.id)

        return self.later.get(("report", run.id), self._state(run), lambda: self._told(run, made))

    def _state(self, run: Any) -> tuple[Any, ...]:
        """Where this has changed, a run or one of its own has grown."""
        return run.status, run.epoch, sums_below(self.journal, self.facts, run.id)

    def _heard(self, run: Any, wanted: Mapping[str, str]) -> list[int] | None:
        """Episodes in which the wanted words were said; None: none are wanted, or they are looked for."""
        if not (words := wanted.get("said")):
            return None
        found: list[int] | None = self.later.get(
            ("said", run.id, words),
            self._state(run),
            lambda: said_in(self.journal, self.facts, run.id, words),
        )
        return found

    def _told(self, run: Any, made: Callable[[], Any]) -> Any:
        """What a run tells of itself, or a sentence on why it tells nothing."""
        try:
            return made()
        except UserError as error:  # it has nothing to tell yet
            return str(error)
        except SparringError:
            raise
        except Exception as error:  # it holds what no driver of ours writes
            said = f"{type(error).__name__}: {error}"[:300]
            logger.warning("what run %r tells of itself cannot be read: %r", run.id, said)
            return f"what the journal holds of this run cannot be read ({said})"

    def _own(self, run: Any, own: Own) -> Any:
        """What a run of a kind of its own tells, as markup, or None while that is made."""

        template = self.templates.get_template(own.template)

        def made() -> Markup:
            return Markup(template.render(own=own.read(self.journal, run.id), run=run))

        def told() -> Markup:
            found = self._told(run, made)
            return found if isinstance(found, Markup) else Markup(template.render(nothing=found, run=run))

        state = (run.status, run.epoch, written(self.journal, run.id))
        return self.later.get(("own", run.id), state, told)

    def _listed(self, asked: Mapping[str, str], run: str, own: Own | None) -> Mapping[str, Any]:
        if own is None or own.listed is None:
            return {}
        return own.listed(self.journal, run, asked, page_number(asked.get("part", "1")))

    def policies(self, request: Request) -> Response:
        wanted, page = asked(request)
        found = policy_list(self.journal, wanted.get("q", ""), page)
        return self.page("policies.html", request, found=found, wanted=wanted)

    def policy(self, request: Request) -> Response:
        found = read_policy(self.journal, text_of(request, "name"), asked(request)[1])
        return self.page("policy.html", request, found=found)

    def version(self, request: Request) -> Response:
        number = whole(text_of(request, "number"), "number of a version")
        version, at = read_version(self.journal, text_of(request, "policy"), number)
        steps = self.later.get(
            ("lineage", version.id), grown(self.journal), lambda: lineage(self.journal, version.id)
        )
        values = {"shown": version, "heads": at, "steps": steps, "columns": columns_of(steps or [])}
        return self.page("version.html", request, live=steps is None, metrics_of=metrics_of, **values)

    def update(self, request: Request) -> Response:
        number = whole(text_of(request, "id"), "id of an update", digits=18)
        return self.page("update.html", request, found=read_update(self.journal, number, asked(request)[1]))

    def episode(self, request: Request) -> Response:
        found = read_transcript(self.journal, text_of(request, "id"))
        run = self.journal.run_row(found.episode.run_id)
        live = "open" in (found.episode.status, run.status)
        wanted, _ = asked(request)
        values = {"found": found, "run": run, "graph": self.graph(run), "wanted": wanted}
        return self.page(
            "episode.html", request, live=live, beside=self._beside(found.episode, run, wanted), **values
        )

    def _beside(self, episode: Any, run: Any, wanted: Mapping[str, str]) -> Beside | None:
        """The neighbours of an episode in the list that the reader comes from."""
        heard = self._heard(run, wanted)
        if heard is None and "said" in wanted:
            return None
        return beside(self.journal, self.facts, run.id, wanted, episode.number, heard)

    def blob(self, request: Request) -> Response:
        wanted = request.path_params["hash"].replace("\0", "")
        rows = self.journal.read(select(Blob).where(Blob.hash == wanted))
        if not rows:
            raise UserError("there is no such file in this journal")
        picture = rows[0].media_type in PICTURES  # what else there is must not be shown as it says it is
        return Response(
            rows[0].data, media_type=rows[0].media_type if picture else "application/octet-stream"
        )

    def graph(self, run: Any) -> Drawing | None:
        """The drawing of what a run plays; None where it is not at hand."""
        config = mapping(run.config)
        return draw(run.protocol, config.get("options"), self._imports)

    def wrong(self, request: Request, error: Exception) -> Response:
        """Bad addresses, a journal that does not answer or holds what no page can show, said on a page."""
        message, status = str(error), 503
        if isinstance(error, HTTPException):
            message, status = "there is no such page", 404
        elif isinstance(error, UserError):
            status = 404
        elif not isinstance(error, SparringError):
            message = f"this page cannot be made of what the journal holds ({type(error).__name__}: {error})"
            status = 500
        page = self.page("error.html", request, message=message[:2000])
        page.status_code = status
        return page


def environment() -> Environment:
    """Templates whose every value is escaped."""
    loader = PackageLoader("sparring.view")
    made = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    made.filters.update(FILTERS)
    made.globals.update(GLOBALS)
    made.tests.update(TESTS)
    return made


def text_of(request: Request, name: str) -> str:
    """A part of an address; without NUL, which PostgreSQL refuses, and no longer than a name can be."""
    return request.query_params.get(name, "").replace("\0", "")[:MAX_NAME]


def asked(request: Request) -> tuple[Mapping[str, str], int]:
    """Filters and the page's number, as an address has them."""
    wanted = {name: text for name in WANTED if (text := text_of(request, name).strip())}
    return wanted, page_number(text_of(request, "page") or "1")


def page_number(given: str) -> int:
    """The number of a table's part; the first where it is none."""
    return int(given) if given.isascii() and given.isdigit() and len(given) < 9 else 1


def make_app(journal: Journal, name: str, token: str, port: int, own: bool = False) -> ASGIApp:
    """The application over an open journal, to be served on loopback at this port; `own` as of `Viewer`."""
    viewer = Viewer(journal, name, own=own)

    @asynccontextmanager
    async def following(_: Starlette) -> Any:
        viewer.facts.start()
        try:
            yield
        finally:
            viewer.close()

    pages = Starlette(
        routes=[
            viewer.at("/", viewer.runs),
            viewer.at("/run", viewer.run),
            viewer.at("/episode", viewer.episode),
            viewer.at("/policies", viewer.policies),
            viewer.at("/policy", viewer.policy),
            viewer.at("/version", viewer.version),
            viewer.at("/update", viewer.update),
            viewer.at("/blob/{hash}", viewer.blob),
            Mount("/static", StaticFiles(packages=[("sparring.view", "static")])),
        ],
        exception_handlers={SparringError: viewer.wrong, HTTPException: viewer.wrong},
        lifespan=following,
    )
    return Guard(pages, token, port)  # around all of it, what is answered to a fault of ours too
