"""The pages: what each address shows.

Templates escape every value; only `text.py` and `drawing.py` make markup.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from sqlalchemy import select
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sparring import __version__
from sparring.errors import SparringError, UserError
from sparring.memory.journal import Journal
from sparring.memory.policies import lineage
from sparring.memory.schema import Blob
from sparring.view.drawing import draw
from sparring.view.episode import read_transcript
from sparring.view.facts import Facts
from sparring.view.guard import Guard
from sparring.view.later import Later
from sparring.view.own import OWN, Own, written
from sparring.view.policies import (
    columns_of,
    grown,
    metrics_of,
    policy_list,
    read_policy,
    read_update,
    read_version,
    whole,
)
from sparring.view.runs import children, choices, episode_list, run_list, sums_below, sums_of
from sparring.view.text import FILTERS, GLOBALS, TESTS

PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
WANTED = ("q", "kind", "status", "role", "verdict", "differ", "sort")
Show = Callable[[Request], Response]


class Viewer:
    """What the pages read, and how they are rendered."""

    def __init__(self, journal: Journal, name: str) -> None:
        self.journal, self.name = journal, name
        self.facts, self.later = Facts(journal), Later()
        self.templates = environment()

    def page(self, template: str, request: Request, live: bool = False, **values: Any) -> HTMLResponse:
        """A page; a live one fetches itself again now and then."""
        facts = self.facts
        index = {"known": facts.known, "total": facts.total, "ready": facts.ready, "trouble": facts.trouble}
        context = {
            "journal": self.name,
            "index": index,
            "live": live or not facts.ready,
            "version": __version__,
        }
        return HTMLResponse(
            self.templates.get_template(template).render(context | values, path=request.url.path)
        )

    # --- pages ------------------------------------------------------------------------------------------

    def runs(self, request: Request) -> Response:
        wanted, page = asked(request)
        found = run_list(self.journal, self.facts, wanted, page)
        moving = any(row.status == "open" for row, _ in found.rows)
        return self.page("runs.html", request, live=moving or not found.total, found=found, wanted=wanted)

    def run(self, request: Request) -> Response:
        run = self.journal.run_row(request.query_params.get("name", ""))
        wanted, page = asked(request)
        own = OWN.get(run.kind)
        told = self._own(run, own) if own else None
        report = None if own else self._report(run)
        return self.page(
            "run.html",
            request,
            live=run.status == "open" or (told is None and report is None),
            run=run,
            sums=sums_of(self.facts, [run.id])[run.id],
            whole=sums_below(self.journal, self.facts, run.id) if own else None,
            report=report,
            own=own,
            told=told,
            listed=self._listed(request, run.id, own),
            found=episode_list(self.journal, self.facts, run.id, wanted, page),
            choices=choices(self.facts, run.id),
            children=children(self.journal, run.id),
            wanted=wanted,
        )

    def _report(self, run: Any) -> Any:
        """The report of a run, or None while it is made."""
        from sparring.graphs.report import report

        done = tuple(self.facts.ask("SELECT count(*), sum(calls) FROM facts WHERE run = ?", (run.id,))[0])
        state = (run.status, run.epoch, done)
        return self.later.get(("report", run.id), state, lambda: report(self.journal, run.id))

    def _own(self, run: Any, own: Own) -> Any:
        """What a run of a kind of its own tells, as markup, or None while that is made."""

        def made() -> Markup:
            template, values = self.templates.get_template(own.template), {}
            try:
                values = {"own": own.read(self.journal, run.id)}
            except UserError as error:  # it has nothing to tell yet
                values = {"nothing": str(error)}
            return Markup(template.render(values, run=run))

        state = (run.status, run.epoch, written(self.journal, run.id))
        return self.later.get(("own", run.id), state, made)

    def _listed(self, request: Request, run: str, own: Own | None) -> Mapping[str, Any]:
        if own is None or own.listed is None:
            return {}
        given = request.query_params
        return own.listed(self.journal, run, given, page_number(given.get("part", "1")))

    def policies(self, request: Request) -> Response:
        wanted, page = asked(request)
        found = policy_list(self.journal, wanted.get("q", ""), page)
        return self.page("policies.html", request, found=found, wanted=wanted)

    def policy(self, request: Request) -> Response:
        found = read_policy(self.journal, request.query_params.get("name", ""), asked(request)[1])
        return self.page("policy.html", request, found=found)

    def version(self, request: Request) -> Response:
        given = request.query_params
        number = whole(given.get("number", ""), "number of a version")
        version, at = read_version(self.journal, given.get("policy", ""), number)
        steps = self.later.get(
            ("lineage", version.id), grown(self.journal), lambda: lineage(self.journal, version.id)
        )
        values = {"shown": version, "heads": at, "steps": steps, "columns": columns_of(steps or [])}
        return self.page("version.html", request, live=steps is None, metrics_of=metrics_of, **values)

    def update(self, request: Request) -> Response:
        number = whole(request.query_params.get("id", ""), "id of an update", digits=18)
        return self.page("update.html", request, found=read_update(self.journal, number, asked(request)[1]))

    def episode(self, request: Request) -> Response:
        found = read_transcript(self.journal, request.query_params.get("id", ""))
        run = self.journal.run_row(found.episode.run_id)
        graph = draw(run.protocol, (run.config or {}).get("options"))
        live = found.episode.status == "open"
        return self.page("episode.html", request, live=live, found=found, run=run, graph=graph)

    def blob(self, request: Request) -> Response:
        rows = self.journal.read(select(Blob).where(Blob.hash == request.path_params["hash"]))
        if not rows:
            raise UserError("there is no such file in this journal")
        picture = rows[0].media_type in PICTURES  # what else there is must not be shown as it says it is
        return Response(
            rows[0].data, media_type=rows[0].media_type if picture else "application/octet-stream"
        )

    def wrong(self, request: Request, error: Exception) -> Response:
        """Bad addresses and a journal that does not answer, said on a page."""
        status = 404 if isinstance(error, UserError) else 503
        page = self.page("error.html", request, message=str(error))
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


def asked(request: Request) -> tuple[Mapping[str, str], int]:
    """Filters and the page's number, as an address has them."""
    given = request.query_params
    wanted = {name: given[name].strip() for name in WANTED if given.get(name, "").strip()}
    return wanted, page_number(given.get("page", "1"))


def page_number(given: str) -> int:
    """The number of a table's part; the first where it is none."""
    return int(given) if given.isascii() and given.isdigit() and len(given) < 9 else 1


def make_app(journal: Journal, name: str, token: str, port: int) -> Starlette:
    """The application over an open journal, to be served on loopback at this port."""
    viewer = Viewer(journal, name)

    @asynccontextmanager
    async def following(_: Starlette) -> Any:
        viewer.facts.start()
        try:
            yield
        finally:
            viewer.facts.close()
            viewer.later.close()

    return Starlette(
        routes=[
            Route("/", viewer.runs),
            Route("/run", viewer.run),
            Route("/episode", viewer.episode),
            Route("/policies", viewer.policies),
            Route("/policy", viewer.policy),
            Route("/version", viewer.version),
            Route("/update", viewer.update),
            Route("/blob/{hash}", viewer.blob),
            Mount("/static", StaticFiles(packages=[("sparring.view", "static")])),
        ],
        middleware=[Middleware(Guard, token=token, port=port)],
        exception_handlers={SparringError: viewer.wrong},
        lifespan=following,
    )
