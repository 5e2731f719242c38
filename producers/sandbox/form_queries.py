"""GET requests that carry their parameters as a form in the body, as pyupbit sends them.

A middleware of the server, the outermost, because those inside note on the request what becomes of it. That the
exchange reads them is inferred from that client's wide use, not documented; a body on any other method stays as it is.
"""

from asyncio import IncompleteReadError
from collections.abc import Awaitable, Callable

from aiohttp import web
from yarl import URL

from producers.sandbox.http_log import BROKEN_OFF
from producers.sandbox.quotation import answer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_LONGEST = 65_536


@web.middleware
async def form_as_query(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Put the form where every handler looks: into the query."""
    if request.method == "GET" and request.can_read_body and not request.rel_url.raw_query_string:
        if request.content_type != "application/x-www-form-urlencoded":
            return await handler(request)
        try:
            form = await _whole(request)
            target = URL(f"{request.rel_url.raw_path}?{form.decode('ascii')}", encoded=True)
        except (ValueError, UnicodeDecodeError, *BROKEN_OFF):
            return answer({"error": {"name": 400, "message": "Bad Request"}}, 400)
        request = request.clone(rel_url=target)
    return await handler(request)


async def _whole(request: web.Request) -> bytes:
    """The body, in however many parts it comes; raises `ValueError` where it is too long.

    Not by `request.read`: a request that was read so cannot be cloned.
    """
    try:
        await request.content.readexactly(_LONGEST + 1)
    except IncompleteReadError as ended:
        return ended.partial
    raise ValueError("the form is too long")
