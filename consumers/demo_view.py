"""The demo's words: what its live view and its closing summary say of a `Watch`. Pure; draws nothing itself."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from consumers.watch import Watch
from infra.settings import Settings
from infra.supervisor import ProcessState
from infra.terminal import Section


class Facts(NamedTuple):
    """What does not change during a run."""

    settings: Settings
    seconds: float | None

    @property
    def feed(self) -> str:
        """The feed in words; what is synthetic is called so."""
        feed = self.settings.feed
        if feed.kind == "synthetic":
            planted = "no predictability planted" if not (feed.linear_edge or feed.nonlinear_edge) else (
                f"planted predictability {feed.linear_edge:g} linear, {feed.nonlinear_edge:g} nonlinear"
            )  # fmt: skip
            return f"SYNTHETIC market of the sandbox exchange (seed {feed.seed}, {planted})"
        if feed.kind == "recording":
            return f"recording {feed.played}, played by the sandbox exchange"
        return "Upbit's public market data (real)"

    @property
    def page(self) -> str:
        """The page's address."""
        return f"http://{self.settings.dashboard.host}:{self.settings.dashboard.port}"


def live(
    watch: Watch, processes: Sequence[ProcessState], facts: Facts, live_s: float
) -> tuple[str, list[Section], str]:
    """Title, panels and the one line of the live view."""
    of = f" of {facts.seconds:.0f}" if facts.seconds else ""
    title = f"OBservator - {facts.feed} - paper orders - live {live_s:.0f}{of} s - page {facts.page} - Ctrl-C ends it"
    sections = [_stages(watch), _forecast(watch), _money(watch), _orders(watch), _refusals(watch), _machine(processes)]
    return title, sections, line(watch, live_s)


def line(watch: Watch, live_s: float) -> str:
    """The state in one line, for outputs that are no terminal."""
    counts, best = watch.counts, watch.largest()
    forecast = f"best {best.expected_bp:.1f} of {_bp(best.needed_bp, watch)} bp" if best else "no forecast yet"
    money = watch.orders.money(watch.mids)
    return (
        f"live {live_s:4.0f} s | books {counts['orderbooks']:,} trades {counts['trades']:,} "
        f"features {counts['features']:,} signals {counts['signals']:,} | {forecast} | "
        f"entries {watch.orders.filled(entries=True)} exits {watch.orders.filled(entries=False)} "
        f"after costs {money['after_costs']:,.0f} KRW | latency p50 {_ms(watch.quantile(0.5))} ms"
    )


def closing(summary: Mapping[str, Any], facts: Facts) -> list[Section]:
    """The tables of the summary."""
    counts, orders, money, forecast = (summary[name] for name in ("counts", "orders", "money", "forecast"))
    needed = forecast["needed_bp"] if forecast["needed_bp"] is not None else forecast["least_needed_bp"]
    is_least = "" if forecast["needed_bp"] is not None else " or more"
    largest = forecast["largest_bp"]
    run = [
        ("feed", facts.feed),
        ("from start to the first live signal", _number(summary["seconds_to_first_live_signal"], "s")),
        ("live", _number(summary["live_seconds"], "s")),
        ("order books, trades", f"{counts['orderbooks']:,}, {counts['trades']:,}"),
        ("late records", f"{summary['late']['records']:,} ({summary['late']['share']:.2%})"),
        ("feature rows, signals", f"{counts['features']:,}, {counts['signals']:,}"),
        ("bin end to signal in the log", _latency(summary["latency_ms"])),
        ("largest forecast", "none" if largest is None else f"{largest:.2f} bp ({forecast['market']})"),
        ("what that trade needed", f"{needed:.2f} bp{is_least}"),
        ("intents, accepted, rejected", f"{counts['intents']:,}, {orders['accepted']:,}, {orders['rejected']:,}"),
        ("entries filled, exits filled (paper)", f"{orders['entries_filled']:,}, {orders['exits_filled']:,}"),
        ("  of which sold because the time was over", f"{summary['sold_at_the_end']:,}"),
        ("money after costs (paper)", f"{money['after_costs']:,.2f} KRW"),
        ("  of which open, at the mid price", f"{money['open']:,.2f} KRW in {money['open_positions']} positions"),
        ("  fees paid", f"{money['fees']:,.2f} KRW"),
        ("with the older rule (threshold and one fee)", _older_rule(summary["older_rule"])),
        ("holes, dead letters", f"{counts['holes']:,}, {counts['dead_letters']:,}"),
        ("processes left behind", str(summary["processes_left"])),
    ]
    sections = [Section("What happened", run)]
    if summary["vetoes"]:
        vetoes = [(reason, f"{count:,}") for reason, count in summary["vetoes"].items()]
        sections.append(Section("Why nothing was traded (changes of reason)", vetoes))
    refused = {**summary["refused_signals"], **summary["refused_windows"]}
    if refused:
        sections.append(Section("Why a model gave no usable forecast", [(why, f"{n:,}") for why, n in refused.items()]))
    books = summary["rows_with_book"]
    rows = [(market, f"{count:,}", f"{books[market]:,}") for market, count in summary["rows"].items()]
    sections.append(Section("Feature rows", _shortened(rows), ("market", "rows", "with a book")))
    return sections


def _older_rule(shadow: Mapping[str, Any]) -> str:
    return f"{shadow['trades']:,} trades, {shadow['result']:+,.0f} KRW"


def _stages(watch: Watch) -> Section:
    counts = watch.counts
    rows = [
        ("order books", f"{counts['orderbooks']:,}", ""),
        ("trades", f"{counts['trades']:,}", ""),
        ("features", f"{counts['features']:,}", _number(watch.lag_seconds("features"), "s")),
        ("signals", f"{counts['signals']:,}", _number(watch.lag_seconds("signals"), "s")),
        ("order intents", f"{len(watch.orders.intents):,}", ""),
        ("order events", f"{watch.records['order-events']:,}", ""),
        ("late", f"{sum(watch.late.values()):,} ({watch.late_share():.2%})", ""),
        ("holes, dead letters", f"{counts['holes']:,}, {watch.records['dead-letters']:,}", ""),
    ]
    return Section(f"Stages, {len(watch.markets)} markets", rows, ("", "records", "behind the feed"))


def _forecast(watch: Watch) -> Section:
    best = watch.largest()
    rows = [
        ("largest forecast", f"{best.expected_bp:.2f} bp {best.market}" if best else "none yet"),
        ("what a trade needs", f"{_bp(best.needed_bp if best else None, watch)} bp"),
        ("bin end to signal", _latency({"p50": watch.quantile(0.5), "p99": watch.quantile(0.99)})),
        ("models", ", ".join(sorted(watch.models)) or "none yet"),
    ]
    return Section("Forecasts", rows)


def _orders(watch: Watch) -> Section:
    orders = watch.orders
    rows = [(name, f"{len(found):,}") for name, found in orders.outcomes.items() if found]
    rows += [(f"rejected: {name}", f"{count:,}") for name, count in orders.rejections.most_common(3)]
    entries, exits = orders.filled(entries=True), orders.filled(entries=False)
    return Section("Paper orders", [("entries filled, exits filled", f"{entries:,}, {exits:,}"), *rows])


def _money(watch: Watch) -> Section:
    money = watch.orders.money(watch.mids)
    rows = [
        ("after costs", f"{money['after_costs']:,.0f} KRW"),
        ("realised", f"{money['realised']:,.0f} KRW"),
        (f"open ({money['open_positions']:.0f}), at the mid price", f"{money['open']:,.0f} KRW"),
        ("fees", f"{money['fees']:,.0f} KRW"),
    ]
    return Section("Paper money", rows)


def _refusals(watch: Watch) -> Section:
    counts = {**watch.vetoes, **watch.refused_signals, **watch.refused_windows}
    rows = [(why, f"{count:,}") for why, count in sorted(counts.items(), key=lambda one: -one[1])[:8]]
    return Section("Why nothing was traded", rows or [("nothing refused yet", "")])


def _machine(processes: Sequence[ProcessState]) -> Section:
    rows = [
        (one.name, one.state, f"{one.memory_mb:.0f} MB", f"{one.restarts} restarts" if one.restarts else "")
        for one in processes
    ]
    return Section("Processes", rows)


def _shortened(rows: Sequence[tuple[str, ...]], most: int = 20) -> list[tuple[str, ...]]:
    return [*rows[:most], *([(f"and {len(rows) - most} more",)] if len(rows) > most else [])]


def _bp(needed: float | None, watch: Watch) -> str:
    return f"{needed:.1f}" if needed is not None else f"{watch.least_needed_bp:.1f} or more"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _number(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.1f} {unit}"


def _latency(found: Mapping[str, float | None]) -> str:
    return f"p50 {_ms(found['p50'])} ms, p99 {_ms(found['p99'])} ms"
