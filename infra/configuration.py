"""Builds `Settings` from a file, `OBSERVATOR_...` variables and the command line, and writes them for the processes.

Called by the command line alone; every other part gets settings as an argument. Never holds a secret.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    JsonConfigSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from infra.errors import BadSettings
from infra.settings import Settings

PREFIX = "OBSERVATOR_"
FILE_VARIABLE = "OBSERVATOR_SETTINGS"
DEFAULT_FILE = Path("observator.toml")
OTHER_VARIABLES = {FILE_VARIABLE, "OBSERVATOR_DATA", "OBSERVATOR_CACHE", "OBSERVATOR_WORKER"}
"""Variables with our prefix that are no settings: this file's place, test data, downloaded jars, a worker's number."""

_SECRET_NAME = re.compile(r"secret|password|token|(^|[._])key$")
_PASSWORD = re.compile(r"(://[^:/@\s]*:)[^@/\s]*@")


class _Variables(EnvSettingsSource):
    """Variables, whose lists may be written with commas instead of as JSON."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        annotation = str(field.annotation)
        if annotation.startswith("list") and isinstance(value, str) and not value.lstrip().startswith("["):
            return [part.strip() for part in value.split(",") if part.strip()]
        return super().decode_complex_value(field_name, field, value)


def load(file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Settings of this deployment: `overrides` before variables before the file before defaults.

    Without `file`, the variable `OBSERVATOR_SETTINGS` names it, else `observator.toml` is taken where it exists. Raises
    `BadSettings` with the name that is wrong; relative paths are made absolute against the working folder.
    """
    source = _file_of(file)
    _refuse_unknown_variables()

    class Deployment(Settings, BaseSettings):
        model_config = SettingsConfigDict(
            env_prefix=PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, case_sensitive=False
        )

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - replaced by ours, which reads lists
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library's signature
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library's signature
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            chosen = InitSettingsSource(settings_cls, dict(overrides or {}))
            return (init_settings, chosen, _Variables(settings_cls), *_file_source(settings_cls, source))

    try:
        found = Deployment()
    except ValidationError as error:
        raise BadSettings(explain(error)) from error
    except (SettingsError, tomllib.TOMLDecodeError, ValueError, OSError) as error:
        where = f" ({source})" if source else ""
        raise BadSettings(f"The settings{where} cannot be read: {_cause(error)}.") from error
    return absolute(Settings.model_validate(found.model_dump()))


def absolute(settings: Settings) -> Settings:
    """The same settings with paths that mean the same in every working folder."""
    paths = {"recording": settings.feed.recording, "recording_trades": settings.feed.recording_trades}
    feed = settings.feed.model_copy(
        update={name: path.expanduser().absolute() if path else None for name, path in paths.items()}
    )
    folder = settings.trade.strategies_folder
    trade = settings.trade.model_copy(update={"strategies_folder": folder.expanduser().absolute() if folder else None})
    target = settings.archive.target
    if target and not target.startswith("s3://"):
        target = str(Path(target).expanduser().absolute())
    archive = settings.archive.model_copy(update={"target": target})
    home = settings.home.expanduser().absolute()
    return settings.model_copy(update={"home": home, "feed": feed, "trade": trade, "archive": archive})


def save(settings: Settings, file: Path) -> None:
    """Write settings so that `load` reads the same ones back (JSON)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".new")
    fresh.write_text(settings.model_dump_json(indent=1) + "\n")
    fresh.replace(file)


def flat(settings: Settings) -> dict[str, str]:
    """Every setting by its dotted name, as it could stand in a variable.

    What is named like a secret is masked, and so is a password inside an address.
    """
    found: dict[str, str] = {}

    def visit(prefix: str, value: object) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                visit(f"{prefix}.{name}" if prefix else str(name), inner)
        else:
            text = "" if value is None else ",".join(value) if isinstance(value, list) else str(value)
            found[prefix] = "***" if text and _SECRET_NAME.search(prefix) else _PASSWORD.sub(r"\1***@", text)

    visit("", settings.model_dump(mode="json"))
    return found


def explain(error: ValidationError) -> str:
    """One sentence that names each wrong setting."""
    problems = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"]) or "settings"
        if problem["type"] == "extra_forbidden":
            problems.append(f"there is no setting `{name}`{_variable_of(name)}{_suggestion(name)}")
        else:
            problems.append(f"`{name}` is {problem['input']!r}: {problem['msg'][:1].lower()}{problem['msg'][1:]}")
    return f"Wrong settings: {'; '.join(problems)}. `observator show-config` lists the names."


def _suggestion(name: str) -> str:
    names = flat(Settings())
    near = difflib.get_close_matches(name, [*names, *{known.split(".")[0] for known in names}], n=1)
    return f" (did you mean `{near[0]}`?)" if near else ""


def _variable_of(name: str) -> str:
    variable = PREFIX + name.replace(".", "__").upper()
    return f" (variable {variable})" if variable in {set_name.upper() for set_name in os.environ} else ""


def _file_of(file: Path | None) -> Path | None:
    if file is None and (named := os.environ.get(FILE_VARIABLE)):
        file = Path(named)
    if file is None:
        return DEFAULT_FILE if DEFAULT_FILE.is_file() else None
    if not file.is_file():
        raise BadSettings(f"The settings file {file} does not exist.")
    return file


def _file_source(kind: type[BaseSettings], file: Path | None) -> tuple[PydanticBaseSettingsSource, ...]:
    if file is None:
        return ()
    if file.suffix == ".json":
        return (JsonConfigSettingsSource(kind, json_file=file),)
    return (TomlConfigSettingsSource(kind, toml_file=file),)


def _refuse_unknown_variables() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in os.environ:
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper in OTHER_VARIABLES:
            continue
        if upper.split("__")[0] not in known:
            dotted = upper.removeprefix(PREFIX).lower().replace("__", ".")
            raise BadSettings(
                f"The variable {name} names no setting{_suggestion(dotted)}. `observator show-config` lists the names."
            )


def _cause(error: BaseException) -> str:
    cause: BaseException = error.__cause__ or error
    return f"{error}".rstrip(".") if cause is error else f"{error} ({cause})"
