"""Asks the API of a run folder, as people's programs do; used by `secrets_api` and `bench_memory`."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.servers.ports import port_of


def ask(
    home: Path, path: str, headers: Mapping[str, str] | None = None, body: dict[str, Any] | None = None
) -> tuple[int, str]:
    """Status and text of the answer, with its headers where it is a refusal; 0 while nobody answers."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port_of(home, 'api')}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={**(headers or {}), "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - our own address
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, f"{error.headers}{error.read().decode()}"
    except OSError:
        return 0, ""
