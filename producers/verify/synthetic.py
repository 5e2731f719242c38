"""`observator verify synthetic`: the made market is the same every time, looks like one, and pays what was planted.

Called by the command line and tests. `python -m producers.verify.synthetic SEED SECONDS MARKETS` prints the hash of a
stream: two of those must agree.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from infra.figures import result_of
from producers.sandbox.feeds import Style
from producers.sandbox.synthetic import Plan, Synthetic
from producers.verify import market_statistics, planted

PLANTS = {"no edge": (0.0, 0.0), "linear edge": (1.0, 0.0), "nonlinear edge": (0.0, 1.0)}
HORIZONS_S = (10, 60)
SEED = 7
ERROR = 0.05
"""How often one interval or more would miss by chance, all of them taken together."""
_ROOT = Path(__file__).parents[2]
_STYLES = tuple(Style(is_simple, is_list) for is_simple in (False, True) for is_list in (False, True))


def verify_synthetic(*, quick: bool = False) -> dict[str, object]:
    """Show all three; the statistics stand beside those of the recordings, where there are any, without a limit."""
    figures = _streams(seconds=10 if quick else 300, markets=10 if quick else 250)
    is_met = figures["streams of the same seed that differ"] == 0 and figures["streams of another seed that differ"] > 0
    folder = Path(os.environ.get("OBSERVATOR_DATA") or _ROOT.parent / "shared" / "data")
    figures |= _statistics(folder, seconds=90 if quick else 1_800)
    sessions, session_s = (4, 400) if quick else (60, planted.LONGEST_S)
    slopes = _slopes(sessions, session_s, is_shown=not quick)
    missed = 0
    for (plant, horizon, name), slope in slopes.items():
        missed += not slope.is_as_planted
        for what in ("measured", "planted", "lower", "upper"):
            figures[f"{plant}, {horizon} s, {name}: bp, {what}"] = round(getattr(slope, what), 3)
    figures |= {"intervals": len(slopes), "intervals without what was planted": missed}
    conditions = {
        "quick": quick,
        "seed": SEED,
        "market hours per plant": round(sessions * len(planted.MARKETS) * session_s / 3_600, 1),
        "unit": "expected return in bp per standard deviation of the predictor",
        "interval": f"block bootstrap over market and session, {1 - ERROR:.0%} for all of them together",
        "recordings": str(folder.is_dir()),
    }
    return result_of("synthetic", figures, conditions, passed=is_met and missed == 0)


def stream_hash(seed: int, seconds: int, markets: int) -> str:
    """SHA-256 over every frame in all four formats, in order."""
    digest = hashlib.sha256()
    market = Synthetic(Plan(market_count=markets, seed=seed), planted.START_MS)
    for frame in market.run_until(planted.START_MS + 1_000 * seconds):
        for style in _STYLES:
            digest.update(frame.spell(style))
    return digest.hexdigest()


def _streams(seconds: int, markets: int) -> dict[str, float]:
    """The same seed in another process and in this one, then another seed."""
    with subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-P", "-m", "producers.verify.synthetic", str(SEED), str(seconds), str(markets)],
        stdout=subprocess.PIPE, text=True, cwd=_ROOT,
    ) as child:  # fmt: skip
        same, other = (stream_hash(seed, seconds, markets) for seed in (SEED, SEED + 1))
        elsewhere = child.communicate()[0].strip()
    if child.returncode:
        raise RuntimeError("the process that makes a stream failed")
    return {
        "streams: simulated seconds": seconds,
        "streams: markets": markets,
        "streams of the same seed that differ": int(elsewhere != same),
        "streams of another seed that differ": int(elsewhere != other),
    }


def _statistics(folder: Path, seconds: int) -> dict[str, float]:
    columns = {"synthetic": market_statistics.medians(market_statistics.made(Plan(seed=SEED), seconds))}
    if folder.is_dir():
        columns["recorded Upbit"] = market_statistics.medians(market_statistics.of_upbit(folder))
        columns["recorded Binance"] = market_statistics.medians(market_statistics.of_binance(folder))
    return {
        f"{name}, {column}": values[name]
        for name in columns["synthetic"]
        for column, values in columns.items()
        if name in values
    }


def _slopes(sessions: int, session_s: int, *, is_shown: bool) -> dict[tuple[str, int, str], planted.Slope]:
    count = len(PLANTS) * len(HORIZONS_S) * len(planted.PREDICTORS)
    found: dict[tuple[str, int, str], planted.Slope] = {}
    with Progress(
        TextColumn("market sessions"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(file=sys.stderr), transient=True, disable=not is_shown,
    ) as progress:  # fmt: skip
        task = progress.add_task("", total=len(PLANTS) * sessions)
        for plant, edges in PLANTS.items():
            slopes = planted.measure(
                edges, HORIZONS_S, sessions, session_s, ERROR / count / 2, lambda: progress.advance(task)
            )
            found |= {(plant, horizon, name): slope for (horizon, name), slope in slopes.items()}
    return found


if __name__ == "__main__":
    print(stream_hash(*(int(text) for text in sys.argv[1:4])))
