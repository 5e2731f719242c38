"""GET requests that carry their parameters as a form in the body, as pyupbit sends them.

A middleware of the server, the outermost, because those inside note on the request what becomes of it. That the
exchange reads them is inferred from that client's wide use, not documented; a body on any other method stays as it is.
"""

from collections.abc import Awaitable, Callable

from aiohttp import web
from yarl import URL

from producers.sandbox.quotation import answer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_LONGEST = 65_536


@web.middleware
async def form_as_query(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Put the form where every handler looks: into the query."""
    if request.method == "GET" and request.can_read_body and not request.rel_url.raw_query_string:
        if request.content_type != "application/x-www-form-urlencoded":
            return await handler(request)
        form = await request.content.read(_LONGEST)
        try:
            target = URL(f"{request.rel_url.raw_path}?{form.decode('ascii')}", encoded=True)
        except (ValueError, UnicodeDecodeError):
            return answer({"error": {"name": 400, "message": "Bad Request"}}, status=400)
        request = request.clone(rel_url=target)
    return await handler(request)
