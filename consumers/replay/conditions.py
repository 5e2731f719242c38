"""What the stages ran with at the time, by the manifests of a run: settings, the model that served, strategies.

Called by every replay and by the parity of a session. Settings of today enter only where a process left no manifest.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_origin

import msgspec

from infra.errors import BadSettings
from infra.log import Record
from infra.manifest import MASK
from infra.settings import Settings
from streams import topics
from streams.history import History, merged
from streams.messages import RunManifest

PROCESSES = ("streams", "predict", "trade")
"""Whose manifests decide what a replay computes."""
_PARTS = ("feed", "grid", "streams", "predict", "trade")


class Conditions(NamedTuple):
    """The settings of each stage's process; plain enough to be handed to another process."""

    streams: Settings
    predict: Settings
    trade: Settings
    serving: str = ""
    """Id of the model that served at first; empty: the one that the settings of predict give."""
    strategies: str = ""
    """Digest of the strategies from outside; empty: not known."""

    @classmethod
    def of(cls, settings: Settings) -> "Conditions":
        """The same settings for all."""
        return cls(settings, settings, settings)


class Segment(NamedTuple):
    """A stretch of a run in which nothing of this changed; `end_ms` is None for the last one. Append times."""

    first_ms: int
    end_ms: int | None
    manifests: Mapping[str, RunManifest]
    """By process; one without a manifest up to here is left out."""
    conditions: Conditions


def segments_of(history: History, today: Settings) -> list[Segment]:
    """All segments of a run, oldest first; one of today's settings where it holds no manifest of these processes."""
    found: list[Segment] = []
    known: dict[str, RunManifest] = {}
    for record, manifest in _manifests(history):
        before = known.get(manifest.process)
        known[manifest.process] = manifest
        if before is not None and before.id == manifest.id:
            continue
        first_ms = record.append_ms if found else 0
        if found and before is None:
            first_ms = found.pop().first_ms  # a process has said what it runs with: that is a start, no change
        elif found:
            found[-1] = found[-1]._replace(end_ms=record.append_ms)
        found.append(Segment(first_ms, None, dict(known), conditions_of(known, today)))
    return found or [Segment(0, None, {}, Conditions.of(today))]


def _manifests(history: History) -> Iterator[tuple[Record, RunManifest]]:
    for record in merged(history, history.spans(["manifests"])):
        try:
            manifest: RunManifest = topics.decode("manifests", record.value)
        except msgspec.DecodeError:
            continue
        if manifest.process in PROCESSES:
            yield record, manifest


def conditions_of(manifests: Mapping[str, RunManifest], today: Settings) -> Conditions:
    """What the processes ran with; today's settings for one without a manifest."""
    settings = {
        name: settings_of(manifests[name], today.home) if name in manifests else today for name in PROCESSES
    }  # fmt: skip
    serving = manifests["predict"].settings.get("serving", "") if "predict" in manifests else ""
    digest = manifests["trade"].settings.get("strategies.digest", "") if "trade" in manifests else ""
    return Conditions(settings["streams"], settings["predict"], settings["trade"], serving, digest)


def settings_of(manifest: RunManifest, home: Path) -> Settings:
    """The settings that a manifest tells, as far as they decide what is computed; models are looked for in `home`.

    A setting that today's program does not know decides nothing in it and is passed over; raises `BadSettings` for a
    value that it cannot read.
    """
    content: dict[str, Any] = {"home": home}
    for name, text in manifest.settings.items():
        part, _, field = name.partition(".")
        if part in _PARTS and field and text not in ("", MASK):
            content.setdefault(part, {}).update(_value(part, field, text))
    try:
        return Settings.model_validate(content)
    except ValueError as error:
        raise BadSettings(f"The manifest {manifest.id} of {manifest.process} cannot be read today: {error}") from error


def _value(part: str, field: str, text: str) -> dict[str, Any]:
    model: Any = Settings.model_fields[part].annotation
    known = model.model_fields.get(field)
    if known is None:
        return {}
    return {field: text.split(",") if get_origin(known.annotation) is list else text}
