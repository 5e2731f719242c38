"""Starts the page: the process `page` becomes Streamlit. Called by the command line; loads nothing of the page."""

import os
import sys
from pathlib import Path
from typing import NoReturn

from infra.configuration import FILE_VARIABLE, save
from infra.errors import Stop
from infra.servers import ports
from infra.settings import Settings


def become_page(settings: Settings) -> NoReturn:
    """Replace this process by Streamlit; raises `Stop` where the page's port is in use."""
    page = settings.dashboard
    if not ports.is_free(page.port):
        raise Stop(f"Port {page.port} of the page is in use; end what uses it or set dashboard.port.")
    script = Path(__file__).with_name("app.py")
    options = {
        "server.address": page.host,
        "server.port": str(page.port),
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
    }
    arguments = [sys.executable, "-m", "streamlit", "run", str(script), *(f"--{k}={v}" for k, v in options.items())]
    kept = settings.home / "run" / "page.json"
    save(settings, kept)
    os.environ[FILE_VARIABLE] = str(kept)  # also what was given on the command line
    sys.stdout.flush()
    os.execv(sys.executable, arguments)  # noqa: S606 - no shell, our own arguments


def with_free_port(settings: Settings) -> Settings:
    """The same settings, with another port for the page where the usual one is in use."""
    if ports.is_free(settings.dashboard.port):
        return settings
    page = settings.dashboard.model_copy(update={"port": ports.port_of(settings.home, "page")})
    return settings.model_copy(update={"dashboard": page})
