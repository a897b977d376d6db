"""Who may read: whoever has the token, on loopback, and nothing but reads.

The page shows what models wrote. So it runs no script but its own, loads nothing from elsewhere, and can be
framed by nobody; a name that is not loopback's is refused, or a foreign page could reach it by rebinding one.
"""

from __future__ import annotations

import re
import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OURS = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
"""Names of loopback; any port, since a tunnel may end at another."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Between the world and the pages."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app, self._token = app, token
        self._cookie = f"sparring-view-{port}"  # cookies know no ports, and two viewers may run

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def covered(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer = self._refusal(scope) or self._entrance(scope) or self._app
        await answer(scope, receive, covered)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        hosts = Headers(scope=scope).getlist("host")
        if len(hosts) != 1 or not OURS.fullmatch(hosts[0]):
            return PlainTextResponse("this viewer answers to 127.0.0.1 and localhost only\n", 421)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("this viewer only reads\n", 405, {"Allow": "GET, HEAD"})
        return None

    def _entrance(self, scope: Scope) -> ASGIApp | None:
        """What is answered to whoever is not let in, or comes in by the address with the token."""
        pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        for name, value in pairs:
            if name == "token" and self._is_it(value):
                rest = urlencode([pair for pair in pairs if pair[0] != "token"])
                path = "/" + scope["path"].lstrip("/")  # two slashes would name another host
                away = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
                away.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
                return away
        given = SimpleCookie()
        try:
            given.load(Headers(scope=scope).get("cookie", ""))
        except CookieError:
            given.clear()
        if self._cookie in given and self._is_it(given[self._cookie].value):
            return None
        return PlainTextResponse("open the address that `sparring view` printed: it has the token\n", 403)

    def _is_it(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._token.encode())
