"""The daily report as one HTML page: no script, no network, Korean and English with a switch. Pure.

Called by `consumers.report.command_line`. Everything that comes from the log is escaped.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from html import escape
from typing import Any

from consumers.report.split import CAUSES
from consumers.report.verdict import line_of
from consumers.report.words import both, time_of

MOST_ORDERS = 2_000
"""More rows than this make a page that no browser likes; the JSON holds all of them."""
_AMOUNTS = ("expected", "traded", "total", *CAUSES)
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:1180px;padding:1rem;color:#1a1a1a;background:#fff}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin:2rem 0 .4rem}p{margin:.3rem 0}small{color:#555}
p{overflow-wrap:anywhere}svg{max-width:100%;min-width:30rem;height:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}.wide{overflow-x:auto}
th,td{padding:.25rem .5rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
.top{display:flex;gap:1rem;flex-wrap:wrap}.top div{flex:1;min-width:min(16rem,100%);box-sizing:border-box}
.top div{overflow-wrap:anywhere;border:1px solid #ccc;padding:.8rem}
.top b{display:block;font-size:1.7rem}.bad{color:#b00020}.good{color:#00662b}
#english{position:absolute;opacity:0}label{margin-left:.5rem}
label{float:right;border:1px solid #888;padding:.15rem .6rem;cursor:pointer}
#english:focus+label{outline:2px solid #06c}
#english:checked~main .ko,#english:checked~label .ko,.en{display:none}
#english:checked~main .en,#english:checked~label .en{display:inline}
@media(prefers-color-scheme:dark){body{background:#111;color:#eee}small{color:#aaa}.bad{color:#ff7b89}
.good{color:#6ddb8f}}
"""


def page(report: Mapping[str, Any]) -> str:
    """The whole page."""
    title = escape(both("title", day=report["day"])[0])
    body = "".join(_sections(report))
    return (
        f'<!doctype html><html lang="ko"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head><body>'
        f'<input type="checkbox" id="english"><label for="english">{_say("language")}</label>'
        f"<main>{body}</main></body></html>\n"
    )


def _sections(report: Mapping[str, Any]) -> Iterable[str]:
    yield f"<h1>{_say('title', day=report['day'])}</h1>"
    yield f"<p><small>{_say('read_from', source=report['source'])}</small></p>"
    yield _top(report)
    if not report["records"] and not report["market_records"] and not report["problems"]:
        yield f"<p>{_say('empty')}</p>"
        return
    yield from _of_orders(report)
    yield _clock(report["clock"], report["market_records"]) + _holes(report["holes"]) + _parity(report["parity"])
    yield _others(report["other_fills"])
    if report["problems"]:
        yield _headed("problems") + "".join(f"<p>{escape(text)}</p>" for text in report["problems"])


def _of_orders(report: Mapping[str, Any]) -> Iterable[str]:
    """What there is of orders and refusals; nothing where there was none."""
    if report["difference"]:
        yield _headed("difference", "difference_note")
        yield _table(("quote", *_AMOUNTS), [[row["quote"], *_amounts(row)] for row in report["difference"]])
        yield from map(_bars, report["difference"])
    ledgers = [[*(row[name] for name in ("account", "strategy", "market")), *_amounts(row)]
               for row in report["by_ledger"]]  # fmt: skip
    if ledgers:
        yield _headed("by_ledger") + _table(("account", "strategy", "market", *_AMOUNTS), ledgers)
    names = ("order", "time", "account", "market", "side", "purpose", "fills", *_AMOUNTS, "notes")
    if report["orders"]:
        yield _headed("orders") + _table(names, [_order(row) for row in report["orders"][:MOST_ORDERS]])
    vetoes = [[row["reason"], row["recorded"], row["replayed"]] for row in report["vetoes"]]
    if vetoes:
        yield _headed("vetoes") + _table(("reason", "recorded", "replayed"), vetoes)


def _top(report: Mapping[str, Any]) -> str:
    money = " ".join(f"{_number(amount)} {escape(quote)}" for quote, amount in report["money"].items())
    kind = {"yes": "good", "no": "bad"}.get(report["verdict"], "")
    return (
        f'<div class="top"><div>{_say("money")}<b>{money or _say("no_money")}</b><small>{_say("money_note")}</small>'
        f'</div><div>{_say("live_equals")}<b class="{kind}">{_say(report["verdict"])}</b>'
        f"<small>{_pair(report['reason_korean'], report['reason'])}</small></div></div>"
    )


def _clock(rows: Sequence[Mapping[str, Any]], looked_at: int) -> str:
    if not rows:
        return _headed("clock", "no_clock") if looked_at else ""
    cells = [[_say(row["kind"]), row["records"], row["first"], row["off_ms"], row["source"]] for row in rows]
    return _headed("clock") + _table(("kind", "records", "first", "off", "source"), cells, is_html=(0,))


def _holes(found: Mapping[str, Any]) -> str:
    names = ("market", "books", "trades", "late", "holes", "hole_seconds", "stale", "stale_seconds")
    if not found["days"]:
        return ""
    text = _headed("hole_ledger") + _table(names, [[row[name] for name in names] for row in found["days"]])
    if not found["stretches"]:
        return f"{text}<p>{_say('no_holes')}</p>"
    stretches = [
        [row["market"], _say(row["kind"]), time_of(row["from_ms"]), time_of(row["to_ms"]), row["reason"],
         f"{row['topic']}/{row['partition']}/{row['offset']}"]
        for row in found["stretches"][:MOST_ORDERS]
    ]  # fmt: skip
    return text + _table(("market", "kind", "from", "to", "reason", "first"), stretches, is_html=(1,))


def _parity(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return _headed("parity", "no_parity")
    made = f" ({escape(time_of(found['made_ms']))})" if found["made_ms"] else ""
    lines = [f"<b>{_say(found['verdict'])}</b>{made}", *(escape(str(one)) for one in found["problems"])]
    lines += [f"{escape(line)}: {_say(kind)}" for line, kind in map(line_of, found["differences"])]
    lines += [
        _say("not_compared", rows=f"{one['records']:,} {one['topic']}", why=str(one["reason"]))
        for one in found["not_comparable"]
    ]
    lines += [_say("not_covered", rows=f"{count:,} {topic}") for topic, count in found["not_covered"].items() if count]
    return _headed("parity") + "".join(f"<p>{line}</p>" for line in lines)


def _others(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    names = ("time", "account", "market", "side", "price", "quantity", "fee")
    cells = [[time_of(row["event_ms"]), row["account"], row["market"], _say(row["side"]), row["price"], row["quantity"],
              row["fee"]] for row in rows[:MOST_ORDERS]]  # fmt: skip
    return _headed("other_fills") + _table(names, cells, is_html=(3,))


def _order(row: Mapping[str, Any]) -> list[object]:
    notes = " · ".join(_say(note) for note in row["notes"])
    first = [row["intent_id"], time_of(row["event_ms"]), row["account"], row["market"]]
    words = [_Html(_say(row["side"])), _Html(_say(row["purpose"]))]
    return [*first, *words, len(row["fills"]), *_amounts(row), _Html(notes)]


class _Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def _amounts(row: Mapping[str, Any]) -> list[object]:
    return [_number(row[name]) for name in _AMOUNTS]


def _bars(row: Mapping[str, Any]) -> str:
    """The causes as bars to both sides of a line."""
    values = {name: Decimal(row[name]) for name in CAUSES}
    largest = max((abs(value) for value in values.values()), default=Decimal(0)) or Decimal(1)
    lines = []
    for number, (name, value) in enumerate(values.items()):
        width = float(abs(value) / largest) * 250
        left, colour = (400 - width, "#b00020") if value < 0 else (400.0, "#00662b")
        y = number * 22
        korean, english = both(name)
        lines.append(
            f'<text x="0" y="{y + 15}" font-size="13" fill="currentColor"><tspan class="ko">{escape(korean)}</tspan>'
            f'<tspan class="en">{escape(english)}</tspan></text>'
            f'<rect x="{left:.1f}" y="{y + 3}" width="{width:.1f}" height="15" fill="{colour}"/>'
        )
    return (
        f'<div class="wide"><svg viewBox="0 0 660 {len(values) * 22}" width="660" role="img"'
        f' aria-label="{escape(row["quote"])}">'
        f'<line x1="400" x2="400" y1="0" y2="{len(values) * 22}" stroke="#888"/>{"".join(lines)}</svg></div>'
    )


def _table(names: Sequence[str], rows: Sequence[Sequence[object]], is_html: Sequence[int] = ()) -> str:
    head = "".join(f"<th>{_say(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(cell, at in is_html)}</td>" for at, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(cell: object, is_html: bool) -> str:  # noqa: FBT001 - one caller, just above
    return str(cell) if is_html or isinstance(cell, _Html) else escape(str(cell))


def _headed(key: str, note: str = "") -> str:
    return f"<h2>{_say(key)}</h2>" + (f"<p><small>{_say(note)}</small></p>" if note else "")


def _say(key: str, **values: str) -> str:
    return _pair(*both(key, **values))


def _pair(korean: str, english: str) -> str:
    return f'<span class="ko">{escape(korean)}</span><span class="en" lang="en">{escape(english)}</span>'


def _number(text: str) -> str:
    """An amount for people: at most two decimals; the JSON holds every digit."""
    told = f"{Decimal(text):,.2f}"
    return "0.00" if told == "-0.00" else told
