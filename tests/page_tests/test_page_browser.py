import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from infra.tables import views as t

if TYPE_CHECKING:
    from tests.page_tests.conftest import World

CHROMIUM = next((path for path in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(path).exists()), "")
ROOT = Path(__file__).parents[2]
PATIENCE_MS = 30_000
# An unassigned code point is drawn as the font's empty box: a Korean letter must not look like it.
HAS_KOREAN_LETTERS = """() => {
  const draw = (text) => {
    const canvas = document.createElement("canvas");
    const context = canvas.getContext("2d");
    context.font = "40px " + getComputedStyle(document.body).fontFamily;
    context.fillText(text, 5, 60);
    return canvas.toDataURL();
  };
  return draw("호") !== draw("\\u0378") && draw("호") !== draw("가");
}"""


class PageServer:
    """The page as the supervisor runs it."""

    def __init__(self, world: "World", port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._world = world
        self._log = world.home / "page.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environ = {**os.environ, "OBSERVATOR_SETTINGS": str(self._world.settings_file)}
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "observator", "process", "page"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environ, cwd=ROOT,
            )  # fmt: skip
        ends_s = time.monotonic() + PATIENCE_MS / 1000
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=2):
                    return
            except OSError:
                assert self._process.poll() is None, self._log.read_text()
                assert time.monotonic() < ends_s, self._log.read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


@pytest.fixture
def browser() -> Iterator[Browser]:
    if not CHROMIUM:
        if os.environ.get("CI", "").lower() not in {"", "0", "false"}:
            pytest.fail("chromium is missing: `make setup-dev` installs it")
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield browser
        browser.close()


@pytest.fixture
def served(open_world: "Callable[[int], World]") -> Iterator[tuple["World", PageServer]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = open_world(port)
    world.fill()
    server = PageServer(world, port)
    server.start()
    yield world, server
    server.stop()


def test_the_page_in_a_browser(browser: Browser, served: tuple["World", PageServer]) -> None:
    world, server = served
    context = browser.new_context(locale="ko-KR", viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)

    page.goto(f"{server.url}/?market=KRW-BTC")
    expect(page.get_by_test_id("market-name")).to_contain_text("KRW-BTC 비트코인")
    expect(page.get_by_test_id("venue")).to_have_text("모의")
    expect(page.get_by_test_id("disclaimer")).to_contain_text("투자 권유가 아닙니다")
    expect(page.locator(".js-plotly-plot")).to_have_count(2)
    assert page.evaluate(HAS_KOREAN_LETTERS)

    _what_changes_comes_by_itself(page, world)
    _a_lost_database_is_said_and_found_again(page, world)

    page.get_by_text("English").click()
    expect(page.get_by_test_id("venue")).to_have_text("PAPER")
    expect(page.get_by_test_id("sign-of-life")).to_contain_text("Today 29,238 forecasts")
    expect(page).to_have_url(re.compile(r"lang=en"))
    expect(page).to_have_url(re.compile(r"market=KRW-BTC"))
    assert page.evaluate("window.isSamePage")

    assert errors == []
    hosts = {re.split("[/:]", url.partition("://")[2])[0] for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}

    server.stop()
    server.start()
    world.book(152_300_000.0, 1000.0, at_ms=world.now_ms + 9000)
    world.sync()
    expect(page.get_by_test_id("book")).to_contain_text("152,301,000")
    expect(page.get_by_test_id("venue")).to_have_text("PAPER")
    context.close()


def _what_changes_comes_by_itself(page: Page, world: "World") -> None:
    page.evaluate("window.isSamePage = true")
    book, trades = page.get_by_test_id("book"), page.get_by_test_id("trades")
    for step in (1, 2, 3):
        bid = 152_249_000.0 + 1000 * step
        world.book(bid, 1000.0, at_ms=world.now_ms + step)
        world.trade(10 + step, bid)
        world.sync()
        expect(book).to_have_attribute("data-version", str(world.now_ms + step))
        expect(book.locator(".price.bid").first).to_have_text(f"{bid:,.0f}")
        expect(book.locator(".price.ask").last).to_have_text(f"{bid + 1000:,.0f}")
        expect(trades).to_have_attribute("data-version", str(10 + step))
        expect(page.get_by_test_id("last-price")).to_contain_text(f"▲ {bid:,.0f}")
    assert page.evaluate("window.isSamePage")


def _a_lost_database_is_said_and_found_again(page: Page, world: "World") -> None:
    file = t.path_of(world.home)
    world.stop_views()
    away = file.rename(file.with_suffix(".away"))
    expect(page.get_by_text("화면용 데이터베이스를 읽지 못해")).to_be_visible()
    expect(page.get_by_test_id("venue")).to_have_text("모의")
    away.rename(file)
    world.book(152_290_000.0, 1000.0, at_ms=world.now_ms + 10)
    world.sync()
    expect(page.get_by_test_id("book")).to_contain_text("152,291,000")
    expect(page.get_by_text("화면용 데이터베이스를 읽지 못해")).to_have_count(0)
    assert page.evaluate("window.isSamePage")
