"""The lines of `old_messages/`: one file per version of the messages, each line as that version wrote it.

Run as a program it prints the lines that today's messages still lack: put them into a new file there and never change
the older ones.
"""

import sys
import types
import typing
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import msgspec

FOLDER = Path(__file__).parent / "old_messages"
AT_MS = 1_763_686_800_000


def all_lines() -> list[tuple[str, bytes]]:
    """File and line, oldest version first."""
    files = sorted(FOLDER.glob("*.jsonl"))
    return [(file.name, line) for file in files for line in file.read_bytes().splitlines()]


def missing_lines(kinds: typing.Iterable[type[Any]], encode: typing.Callable[[Any], bytes]) -> list[bytes]:
    """Of each message whose fields differ from all lines of before: all fields set, and those with defaults left out.

    And one more for each word that a field may hold and no line has.
    """
    lines = [msgspec.json.decode(line) for _, line in all_lines()]
    shapes = {shape_of(line) for line in lines}
    words = {(line["type"], name, value) for line in lines for name, value in line.items() if isinstance(value, str)}
    found = []
    for kind in kinds:
        whole = filled(kind)
        line = encode(whole)
        told = msgspec.json.decode(line)
        if shape_of(told) not in shapes:
            found.append(line)
            words |= {(told["type"], name, value) for name, value in told.items() if isinstance(value, str)}
            bare = without_defaults(kind, line)
            found.extend([bare] if bare != line else [])
        hints = typing.get_type_hints(kind)
        fresh = [
            (name, word)
            for name in kind.__struct_fields__
            for word in _words(hints[name])
            if (told["type"], name, word) not in words
        ]
        found.extend(encode(msgspec.structs.replace(whole, **{name: word})) for name, word in fresh)
    return found


def _words(hint: Any) -> tuple[Any, ...]:
    """The words that a field may hold; none for a field that takes any."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    if typing.get_origin(hint) in {types.UnionType, typing.Union}:
        return tuple(word for one in typing.get_args(hint) for word in _words(one))
    return ()


def shape_of(value: Any) -> Any:
    """The names in a decoded line, those of enclosed objects too, and the tag."""
    if isinstance(value, dict):
        tag = value.get("type") if isinstance(value.get("type"), str) else None
        return (tag, *sorted((name, shape_of(one)) for name, one in value.items()))
    return tuple(shape_of(one) for one in value[:1]) if isinstance(value, list) else ()


def filled(kind: type[Any]) -> Any:
    """A message with every field set."""
    hints = typing.get_type_hints(kind)
    return kind(**{name: _value(name, hints[name]) for name in kind.__struct_fields__})


def without_defaults(kind: type[Any], line: bytes) -> bytes:
    """The same line without the fields that may be left out."""
    told = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    needed = {field.encode_name for field in msgspec.structs.fields(kind) if field.required}
    return msgspec.json.encode({name: value for name, value in told.items() if name in {"type", *needed}})


def _value(name: str, hint: Any) -> Any:
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) in {types.UnionType, typing.Union}:
        return _value(name, next(one for one in arguments if one is not type(None)))
    if arguments:
        return _of_several(name, typing.get_origin(hint), arguments)
    if hint is msgspec.Raw:
        return msgspec.Raw(b'{"state":[1,null]}')
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return filled(hint)
    number = AT_MS if name.endswith("_ms") else 7
    plain: dict[Any, Any] = {bool: True, int: number, float: 0.5, Decimal: Decimal("6000.10"), str: f"{name} 가"}
    return plain[hint]


def _of_several(name: str, origin: Any, arguments: tuple[Any, ...]) -> Any:
    if origin is Literal:
        return next(one for one in arguments if one)
    one = _value(name, arguments[-1])
    return [one] if origin is list else {"a": one}


if __name__ == "__main__":
    from streams.messages import ALL, encode

    for one in missing_lines(ALL, encode):
        sys.stdout.buffer.write(one + b"\n")
