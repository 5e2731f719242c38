"""The logger of the HTTP server: what a client's broken request raises is answered with 400 and is no error of ours.

Used by the server. Without it every such request is a traceback, and a flood of them fills the disk.
"""

import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

logger = logging.getLogger(__name__)

BROKEN_OFF = (web.RequestPayloadError, ConnectionError)
"""What reading a body raises where the client leaves in its middle or has spoilt it."""


class OwnErrors(logging.Filter):
    """Lets everything pass but clients' errors."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is to be written."""
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | web.RequestPayloadError))


logger.addFilter(OwnErrors())
