"""Who may ask the API: this machine's address, JSON, and the token of the run folder. In front of every route.

A page of another origin that is open in a browser can neither read the token nor send JSON without being asked first
(nothing here allows it), and a name that somebody else lets point at this machine is refused by its `Host`.
"""

import hmac
import os
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from dashboard.api_words import language_of, refusal
from infra.errors import Stop
from infra.secrets import Secret, keep_secret

MOST_BYTES = 4096
OPEN_PATHS = ("/health",)
TOKEN = "api-token"  # noqa: S105 - the name of its file


def keep_token(home: Path) -> Secret:
    """The token of a run folder, made once, readable by its owner only; raises `Stop` where others can read it."""
    folder = home / "run" / "secrets"
    text = keep_secret(folder, TOKEN)
    if os.stat(folder / TOKEN).st_mode & 0o077 or len(text) < 32:  # noqa: PTH116 - the Path's own says the same
        raise Stop(f"{folder / TOKEN} is readable by others or damaged: remove it, and a new token is made.")
    return Secret(text)


class Gate:
    """Lets a request pass or answers it with what is wrong."""

    def __init__(self, app: ASGIApp, token: Secret, port: int) -> None:
        self._app = app
        self._token = token
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one request."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        if name := self._problem(scope, headers):
            language = language_of(headers.get("accept-language", ""))
            await refusal(name, language, most=MOST_BYTES)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _problem(self, scope: Scope, headers: Headers) -> str:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return "wrong-host"
        if scope["path"] in OPEN_PATHS and scope["method"] == "GET":
            return ""
        scheme, _, given = headers.get("authorization", "").partition(" ")
        is_ours = hmac.compare_digest(given.strip().encode(), self._token.reveal().encode())
        if scheme.lower() != "bearer" or not is_ours:
            return "no-token"
        return _problem_of_body(headers) if scope["method"] == "POST" else ""


def _problem_of_body(headers: Headers) -> str:
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return "not-json"
    length = headers.get("content-length", "")
    if not length.isdigit():
        return "no-length"
    return "too-large" if int(length) > MOST_BYTES else ""
