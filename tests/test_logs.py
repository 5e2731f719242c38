import io
import json
import logging
from collections.abc import Iterator

import pytest

from infra.errors import DeliveryFailed
from infra.logs import PublishHandler, RateLimit, Redact, client_logger, set_up


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    for handler in handlers:
        root.removeHandler(handler)
    yield root
    for handler in list(root.handlers):
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(False)


def line(text: str, *args: object, name: str = "infra.test", level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, text, args, None)


def test_lines_are_json_with_the_process(root_logger: logging.Logger) -> None:
    stream = io.StringIO()
    set_up("predict", stream=stream)
    set_up("predict", stream=stream)
    logging.getLogger("infra.test").info("joined %s", "g")
    try:
        int("boom")
    except ValueError:
        logging.getLogger("infra.test").exception("failed")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["process"], first["level"], first["logger"], first["text"]) == (
        "predict", "info", "infra.test", "joined g",
    )  # fmt: skip
    assert "ValueError" in second["trace"]
    assert root_logger.level == logging.INFO


def test_lines_can_be_plain(root_logger: logging.Logger) -> None:
    stream = io.StringIO()
    set_up("predict", stream=stream, is_json=False, level="WARNING")
    root_logger.warning("careful")
    root_logger.info("not shown")
    assert stream.getvalue().rstrip().endswith("WARNING predict root: careful")


@pytest.mark.parametrize(
    "text",
    ["Authorization: Bearer eyJhbGciOi.eyJhY2Nlc3.c2lnbmF0dXJl", "secret_key=abcdef", "password: hunter2", "TOKEN=xyz"],
)
def test_what_looks_like_a_secret_is_hidden(text: str) -> None:
    record = line("sent %s", text)
    assert Redact().filter(record)
    assert "[hidden]" in record.getMessage()
    for part in ("eyJ", "abcdef", "hunter2", "xyz"):
        assert part not in record.getMessage()


def test_a_kind_of_line_comes_once_per_interval_and_tells_the_rest() -> None:
    now = 0.0
    limit = RateLimit(10.0, clock=lambda: now)
    assert limit.filter(line("broker 1: refused"))
    assert not limit.filter(line("broker 2: refused"))
    assert limit.filter(line("another kind"))
    now = 11.0
    last = line("broker 3: refused")
    assert limit.filter(last)
    assert last.getMessage() == "broker 3: refused (1 like it left out)"


def test_lines_go_to_a_topic_without_the_edge_of_the_log_itself() -> None:
    published: list[str] = []
    handler = PublishHandler(lambda record: published.append(record.getMessage()))
    handler.emit(line("one"))
    handler.emit(line("about the edge", name="infra.kafka.client"))
    assert published == ["one"]

    def fail(record: logging.LogRecord) -> None:
        raise DeliveryFailed(record.getMessage())

    failing = PublishHandler(fail)
    failing.emit(line("one"))
    assert failing.lost == 1


def test_the_client_logger_is_limited_once() -> None:
    assert client_logger() is client_logger()
    assert sum(isinstance(one, RateLimit) for one in client_logger().filters) == 1
