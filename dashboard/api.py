"""The API: halts and accounts over HTTP, on this machine only. It does what the verbs do, by their own functions.

`observator.py` hands those in as `Actions`, because rooms do not import each other; `api_gate` decides who may ask.
"""

import logging
import socket
import threading
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import uvicorn
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from dashboard.api_gate import Gate
from dashboard.api_words import Language, language_of, refusal
from infra.errors import Retry, Stop
from infra.secrets import Secret
from infra.settings import AccountName

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
HaltKind = Literal["no-new-orders", "sell-all"]


class Told(NamedTuple):
    """What became of an act."""

    figures: dict[str, Any]
    sentences: list[str]
    is_done: bool = True
    """False: it is written, and holds as soon as an executor runs that reads it."""


class Actions(NamedTuple):
    """What can be asked for; refuses with `Stop`, or `Retry` while the log is away."""

    halts: Callable[[], dict[str, Any]]
    halt: Callable[[str, HaltKind, float, Language], Told]
    """Account, kind, seconds to wait until it has settled."""
    lift: Callable[[str, str, Language], Told]
    """Account, what was typed to confirm."""
    accounts: Callable[[Language], list[dict[str, Any]]]
    resume: Callable[[str, str, Language], dict[str, Any]]
    """Account, what was typed to confirm."""


Target = Annotated[str, Field(pattern=r"^(\*|[A-Za-z0-9][A-Za-z0-9_-]{0,63})$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class HaltBody(_Body):
    """`POST /halts`."""

    account: Target
    kind: HaltKind
    timeout_s: Annotated[float, Field(ge=0, le=60)] = 0.0


class LiftBody(_Body):
    """`POST /halts/lift`: the account's name once more, `all` for the halt of all."""

    account: Target
    confirm: Annotated[str, Field(max_length=64)]


class ResumeBody(_Body):
    """`POST /accounts/{account}/resume`."""

    confirm: Annotated[str, Field(max_length=64)]


def _actions(request: Request) -> Actions:
    found: Actions = request.app.state.actions
    return found


def _language(request: Request) -> Language:
    return language_of(request.headers.get("accept-language", ""))


Acts = Annotated[Actions, Depends(_actions)]
Tongue = Annotated[Language, Depends(_language)]


# --- routes: plain functions, which run in threads because what they call waits ---------------------------------------


def health() -> JSONResponse:
    """That somebody is here; says nothing of anybody."""
    return JSONResponse({"ok": True})


def list_halts(act: Acts) -> JSONResponse:
    """What is halted, and how far each halt is."""
    return JSONResponse(act.halts())


def halt(body: HaltBody, act: Acts, language: Tongue) -> JSONResponse:
    """Halt an account or all; 202 where no executor has read it yet."""
    return _told(act.halt(body.account, body.kind, body.timeout_s, language))


def lift(body: LiftBody, act: Acts, language: Tongue) -> JSONResponse:
    """Lift a halt."""
    return _told(act.lift(body.account, body.confirm, language))


def list_accounts(act: Acts, language: Tongue) -> JSONResponse:
    """The accounts as `observator account list` shows them."""
    return JSONResponse({"accounts": act.accounts(language)})


def resume(account: AccountName, body: ResumeBody, act: Acts, language: Tongue) -> JSONResponse:
    """Let a paused account enter again."""
    return JSONResponse(act.resume(account, body.confirm, language))


def _told(told: Told) -> JSONResponse:
    return JSONResponse({**told.figures, "sentences": told.sentences}, 200 if told.is_done else 202)


# --- errors -----------------------------------------------------------------------------------------------------------


def _on_bad_body(request: Request, error: Exception) -> JSONResponse:
    found = error.errors() if isinstance(error, RequestValidationError) else []
    names = sorted({".".join(str(part) for part in one["loc"] if isinstance(part, str)) for one in found})
    return refusal("bad-body", _language(request), fields=", ".join(names) or "body")


def _on_http(request: Request, error: Exception) -> JSONResponse:
    status = error.status_code if isinstance(error, HTTPException) else 500
    name = {404: "not-found", 405: "wrong-method", 400: "bad-body"}.get(status, "failed")
    return refusal(name, _language(request), fields="body")


def _on_stop(request: Request, error: Exception) -> JSONResponse:
    return refusal("refused", _language(request), text=str(error))


def _on_retry(request: Request, error: Exception) -> JSONResponse:
    logger.info("the log does not answer: %s", error)
    return refusal("log-away", _language(request))


def _on_failure(request: Request, _error: Exception) -> JSONResponse:
    return refusal("failed", _language(request))  # uvicorn logs the trace


def application(actions: Actions, token: Secret, port: int) -> FastAPI:
    """The application; without pages of its own, which would load scripts from elsewhere."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.actions = actions
    app.add_middleware(Gate, token=token, port=port)
    app.get("/health")(health)
    app.get("/halts")(list_halts)
    app.post("/halts")(halt)
    app.post("/halts/lift")(lift)
    app.get("/accounts")(list_accounts)
    app.post("/accounts/{account}/resume")(resume)
    app.add_exception_handler(RequestValidationError, _on_bad_body)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Stop, _on_stop)
    app.add_exception_handler(Retry, _on_retry)
    app.add_exception_handler(Exception, _on_failure)
    return app


def serve(actions: Actions, token: Secret, port: int, stop: threading.Event) -> None:
    """Answer until `stop`; raises `Stop` where the port is in use."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as error:
            raise Stop(f"Port {port} of the API is in use; end what uses it or set dashboard.api_port.") from error
        options = uvicorn.Config(
            application(actions, token, port), log_config=None, access_log=False, server_header=False, lifespan="off",
            ws="none", http="h11", loop="asyncio", limit_concurrency=64, timeout_graceful_shutdown=3,
        )  # fmt: skip
        server = uvicorn.Server(options)
        thread = threading.Thread(target=server.run, args=([listener],), name="api")  # so signals stay ours
        thread.start()
        try:
            while thread.is_alive() and not stop.wait(0.2):
                pass
        finally:
            server.should_exit = True
            thread.join()
