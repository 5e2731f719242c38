"""Logging of a process: JSON lines on stderr, a rate limit for noisy loggers, and a way into the log's own topic.

`set_up` is called once per process by the command line. Nothing here may write a secret: what `infra.secrets.hide`
takes out is the last net below the rule that secrets are never logged at all.
"""

import contextlib
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import IO

from infra.errors import ObservatorError
from infra.secrets import hide

CLIENT_LOGGER = "infra.kafka.client"


class JsonFormatter(logging.Formatter):
    """One JSON object per line; what is given as `extra` is not written, the text carries it all."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Write the line."""
        fields = {
            "time_ms": int(record.created * 1000),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "text": hide(record.getMessage()),
        }
        if record.exc_info:
            fields["trace"] = hide(self.formatException(record.exc_info))
        return json.dumps(fields, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """One line for people, cleaned like the others."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the line, with its trace."""
        return hide(super().format(record))


class Redact(logging.Filter):
    """The same for lines that no formatter of ours writes."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the line pass, cleaned."""
        text = record.getMessage()
        if (clean := hide(text)) != text:
            record.msg, record.args = clean, ()
        return True


class RateLimit(logging.Filter):
    """One line per kind (the text without digits) and interval; the next one tells how many were left out."""

    def __init__(self, interval_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._interval_s = interval_s
        self._clock = clock
        self._last: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the line passes."""
        text = record.getMessage()
        kind = re.sub(r"\d+", "#", text)[:60]
        with self._lock:
            now = self._clock()
            since, left_out = self._last.get(kind, (-self._interval_s, 0))
            if now - since < self._interval_s:
                self._last[kind] = (since, left_out + 1)
                return False
            self._last[kind] = (now, 0)
        if left_out:
            record.msg, record.args = f"{text} ({left_out} like it left out)", ()
        return True


class PublishHandler(logging.Handler):
    """Hands lines to `publish` (into the topic `logs`); a log that does not answer never stops the program.

    Lines of the Kafka edge itself stay out, or an outage would feed on itself.
    """

    def __init__(self, publish: Callable[[logging.LogRecord], None], level: int = logging.INFO) -> None:
        super().__init__(level)
        self._publish = publish
        self.lost = 0
        self.addFilter(Redact())

    def emit(self, record: logging.LogRecord) -> None:
        """Publish one line or count it as lost."""
        if record.name.startswith("infra.kafka"):
            return
        try:
            self._publish(record)
        except ObservatorError:
            self.lost += 1


def client_logger() -> logging.Logger:
    """The logger that librdkafka writes to, rate-limited (an outage prints 65 lines a second otherwise)."""
    logger = logging.getLogger(CLIENT_LOGGER)
    if not any(isinstance(one, RateLimit) for one in logger.filters):
        logger.addFilter(RateLimit())
    return logger


def set_up(process: str, *, level: str = "INFO", stream: IO[str] | None = None, is_json: bool = True) -> None:
    """Replace the root logger's handlers by one that writes to `stream` (stderr)."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
        with contextlib.suppress(OSError, ValueError):
            handler.close()
    handler = logging.StreamHandler(stream or sys.stderr)
    if is_json:
        handler.setFormatter(JsonFormatter(process))
    else:
        handler.setFormatter(TextFormatter(f"%(asctime)s %(levelname)s {process} %(name)s: %(message)s"))
    root.addHandler(handler)
    root.setLevel(level)
    logging.getLogger("aiokafka").addFilter(RateLimit())
    logging.captureWarnings(True)
