"""One sandbox exchange by itself, without Kafka or the rest of the system: what `observator sandbox` runs.

It tells how to reach it and is never part of a deployment.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop

from infra.errors import BadSettings
from infra.servers.ports import port_of
from infra.settings import Settings
from producers.sandbox.configuration import from_settings
from producers.sandbox.front import HOSTS
from producers.sandbox.server import Sandbox


def overrides(
    *,
    market: str | None,
    recording: Path | None,
    markets: str | None,
    seed: int | None,
    speed: float | None,
    warmup_seconds: int | None,
    port: int | None,
    limits: str | None,
) -> dict[str, Any]:
    """The verb's options as settings; what is not given stays as the settings have it."""
    if recording is not None and market not in {None, "recording"}:
        raise BadSettings("--recording and another --market exclude each other.")
    kind = "recording" if recording is not None else market
    if kind == "recording" and (recording is None or not recording.is_file()):
        raise BadSettings(f"The recording {recording} does not exist." if recording else "Name one with --recording.")
    feed: dict[str, Any] = {
        "kind": "upbit" if kind == "follow" else kind,  # the feed whose topics are followed
        "recording": recording,
        "seed": seed,
        "speed": speed,
        "warmup_seconds": warmup_seconds,
    }
    if markets is not None and markets.isdigit():
        feed["market_count"] = int(markets)
    elif markets is not None:
        feed["markets"] = markets.split(",")
    sandbox = {"port": port, **({} if limits is None else _limits(limits))}
    return {"feed": _given(feed), "sandbox": _given(sandbox)}


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _limits(text: str) -> dict[str, Any]:
    if text == "none":
        return {"is_limited": False}
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(size.isdigit() for _, _, size in pairs):
        raise BadSettings(f"--limits: {text!r} is neither `none` nor `group=size,...` (for example `order=100`).")
    return {"is_limited": True, "limits": {group: int(size) for group, _, size in pairs}}


def run(
    settings: Settings,
    stop: Callable[[], bool],
    tell: Callable[[dict[str, Any]], None],
    *,
    host: str | None = None,
    has_front: bool = True,
) -> None:
    """Serve until `stop` says so; `tell` is called once, with the way in. Raises `AlreadyRunning` on a busy port."""
    if settings.feed.kind == "upbit" and not settings.kafka.bootstrap:
        raise BadSettings("A followed market is read from a running log: name its broker with `kafka.bootstrap`.")
    port = settings.sandbox.port or port_of(settings.home, "sandbox")
    front_port = port_of(settings.home, "sandbox-front") if has_front else None
    configuration = dataclasses.replace(
        from_settings(settings, port), host=host or settings.sandbox.host, front_port=front_port, starts_at_once=True
    )

    async def serve() -> None:
        sandbox = Sandbox(configuration)
        await sandbox.serve(stop, lambda: tell(way_in(sandbox)))

    uvloop.run(serve())


def way_in(sandbox: Sandbox) -> dict[str, Any]:
    """How to reach a sandbox that listens: addresses, files with keys, and what clients with fixed addresses need."""
    settings = sandbox.configuration
    host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host  # noqa: S104 - compared, not listened on
    place = f"{host}:{sandbox.port}"
    found: dict[str, Any] = {
        "market": settings.kind,
        "rest": f"http://{place}",
        "websocket": f"ws://{place}/websocket/v1",
        "status": f"http://{place}/sandbox/status",
        "access_key": settings.access_key,
        "secret_key_file": str((settings.secrets_path / settings.access_key).resolve()),
        "control_token_file": str((settings.secrets_path / "sandbox-control").resolve()),
    }
    if sandbox.front is not None:
        authority = str((settings.secrets_path.parent / "sandbox-authority.pem").resolve())
        found["stands_in_for"] = list(HOSTS)
        found["environment"] = {
            "HTTPS_PROXY": f"http://{host}:{sandbox.front.port}",
            "NO_PROXY": f"{host},localhost",
            "SSL_CERT_FILE": authority,
            "REQUESTS_CA_BUNDLE": authority,
            "WEBSOCKET_CLIENT_CA_BUNDLE": authority,
        }
    return found


def told(found: dict[str, Any]) -> str:
    """The same for people."""
    lines = [
        f"The sandbox exchange runs with a {found['market']} market; no real money is anywhere near. Ctrl-C stops it.",
        "",
        f"  REST        {found['rest']}/v1/...",
        f"  websocket   {found['websocket']}  (own orders: {found['websocket']}/private)",
        f"  access key  {found['access_key']}",
        f"  secret key  stands in {found['secret_key_file']}",
        f"  status      {found['status']}  (the control token stands in {found['control_token_file']})",
    ]
    if "environment" in found:
        lines += ["", f"Clients that know {', '.join(found['stands_in_for'])} only, in the shell that starts them:", ""]
        lines += [f"  export {name}={value}" for name, value in found["environment"].items()]
    return "\n".join(lines)
