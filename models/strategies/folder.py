"""Strategies from a folder outside the repository: one `.py` file each, loaded once at the start, by path.

Called by `consumers.trade.runner`. A file `my_rule.py` sets `STRATEGY` to its class and is called `my-rule`; files
whose names begin with `_` are left alone. The digest of all files stands in the run's manifest.
"""

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, cast

import msgspec

from infra.errors import BadSettings
from models.strategies.registry import STRATEGIES, Kinds
from models.strategies.rule import BROKEN, Strategy


class Loaded(NamedTuple):
    """All strategies of a deployment."""

    kinds: Kinds
    digest: str
    """BLAKE2b-128 over the files' names and bytes; empty without a folder."""


def load(folder: Path | None) -> Loaded:
    """The house's strategies and those of `folder`; raises `BadSettings` with the file and what is wrong with it."""
    if folder is None:
        return Loaded(STRATEGIES, "")
    if not folder.is_dir():
        raise BadSettings(f"`trade.strategies_folder`: {folder} is no folder.")
    kinds: dict[str, type[Strategy]] = dict(STRATEGIES)
    hasher = hashlib.blake2b(digest_size=16)
    for file in sorted(folder.glob("*.py")):
        if file.name.startswith("_"):
            continue
        kind = file.stem.replace("_", "-")
        if kind in kinds:
            raise _bad(file, f"there is a strategy {kind!r} already; give the file another name")
        try:
            source = file.read_bytes()
            kinds[kind] = _checked(file, _module_of(file, source))
        except BROKEN as error:
            raise _bad(file, f"{type(error).__name__}: {error}") from error
        hasher.update(f"{file.name}\0{len(source)}\0".encode() + source)
    return Loaded(kinds, hasher.hexdigest())


def _module_of(file: Path, source: bytes) -> ModuleType:
    """Run exactly the bytes that were hashed."""
    spec = importlib.util.spec_from_loader(f"observator_strategy_{file.stem}", None, origin=str(file))
    if spec is None:
        raise ImportError("it cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(file)
    sys.modules[spec.name] = module
    exec(compile(source, str(file), "exec"), module.__dict__)  # noqa: S102 - the person's own file, by their setting
    return module


def _checked(file: Path, module: ModuleType) -> type[Strategy]:
    found = getattr(module, "STRATEGY", None)
    if not isinstance(found, type) or not issubclass(found, msgspec.Struct):
        raise _bad(file, "it must set STRATEGY to its class, a msgspec.Struct with frozen=True")
    if not found.__struct_config__.frozen:
        raise _bad(file, "the class behind STRATEGY must be frozen (class X(msgspec.Struct, frozen=True))")
    for name in ("entry", "leave"):
        if not callable(getattr(found, name, None)):
            raise _bad(file, f"the class behind STRATEGY has no method `{name}`; see models/strategies/rule.py")
    found()
    return cast("type[Strategy]", found)


def _bad(file: Path, reason: str) -> BadSettings:
    return BadSettings(f"`trade.strategies_folder`: the strategy in {file} cannot be used: {reason}.")
