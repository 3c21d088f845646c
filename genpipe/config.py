"""Settings: typed, each default stated once beside the code that it configures, all faults told in one message.

params.yaml holds departures from the defaults, one section a stage. A settings class is a dataclass marked with
`@settings`; a field annotated with `Plugin` names a module (a generator, a source) and holds that module's settings.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from genpipe import plugins
from genpipe.errors import ConfigError

__all__ = ["Choice", "Field", "Plugin", "explain", "faults_of", "parse", "plain", "settings"]

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
def settings(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass that checks types and ranges and refuses unknown keys."""
    return dataclass(  # type: ignore[return-value]  # the class itself, with checks
        frozen=True, kw_only=True, config=ConfigDict(extra="forbid", allow_inf_nan=False)
    )(cls)


class Plugin(NamedTuple):
    """Marks a field as a choice among the modules of `package`, each with settings of its own in `Config`."""

    package: str


@dataclasses.dataclass(frozen=True)
class Choice:
    """A plug-in by name, with its settings: `{kind: gan, latent_dim: 32}` in params.yaml."""

    package: str
    kind: str
    config: Any

    @property
    def module(self) -> ModuleType:
        return plugins.load(self.package, self.kind)


def parse(cls: type[T], given: object, place: str) -> T:
    """`given` as settings of class `cls`; `place` is its dotted place in the file, for messages.

    Raises ConfigError with every fault found, in `given` and in the settings of the plug-ins that it names.
    """
    value, faults = faults_of(cls, given, place)
    if value is None:
        raise ConfigError(faults)
    return value


def faults_of(cls: type[T], given: object, place: str) -> tuple[T | None, list[str]]:
    """The settings, or None and what is wrong with `given`; a class's own checks may raise ConfigError."""
    if not isinstance(given, Mapping):
        return None, [f"params.yaml: {place} is {given!r}; it must be a mapping of settings"]
    values, faults = dict(given), list[str]()
    for name, package in plugin_fields(cls).items():
        chosen = values.get(name, default_of(cls, name))
        values[name], found = choose(package, chosen, f"{place}.{name}")
        faults += found
    try:
        whole = TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        faults += dict.fromkeys(sentence(cls, place, detail) for detail in causes(error.errors()))
    except ConfigError as error:
        faults += error.faults
    return (None, faults) if faults else (whole, [])


def choose(package: str, given: object, place: str) -> tuple[Choice | None, list[str]]:
    """The plug-in that `given` names: a mapping with `kind` and settings, or the name alone."""
    chosen = {"kind": given} if isinstance(given, str) else dict(given) if isinstance(given, Mapping) else {}
    kind = chosen.pop("kind", None)
    try:
        module = plugins.load(package, str(kind))
    except plugins.UnknownPluginError as error:
        named, known = ("missing" if kind is None else repr(kind)), ", ".join(error.known)
        return None, [f"params.yaml: {place}.kind is {named}; known {error.noun}: {known}{error.hint}"]
    config, faults = faults_of(module.Config, chosen, place)
    return Choice(package, str(kind), config), faults


def causes(details: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Without lists that are too short only since a value in them, told by itself, is wrong."""
    paths = [detail["loc"] for detail in details]
    return [
        detail
        for detail, path in zip(details, paths, strict=True)
        if detail["type"] != "too_short" or not any(other[: len(path)] == path != other for other in paths)
    ]


def sentence(cls: type, place: str, detail: ErrorDetails) -> str:
    """One fault as `params.yaml: PLACE is VALUE; what it must be`."""
    kind, path, limits, value = detail["type"], detail["loc"], detail.get("ctx", {}), detail["input"]
    if kind == "missing" and isinstance(path[-1], int):  # so pydantic calls a tuple that is too short
        kind, path = "too_short", path[:-1]
    where = ".".join([place, *(str(step) for step in path)])
    match kind:
        case "too_short" | "too_long" | "tuple_type" if count := length_at(cls, path):
            rule = f"it must be a list of {count} values"
        case "too_short":
            rule = f"it must be a list of {limits['min_length']} or more"
        case "tuple_type":
            rule = "it must be a list"
        case "unexpected_keyword_argument":
            known = ", ".join(field.name for field in dataclasses.fields(class_at(cls, path[:-1])))
            return f"params.yaml: {where} is not a key; known keys: {known}"
        case "missing":
            return f"params.yaml: {where} is missing; it has no default"
        case "greater_than_equal":
            rule = f"it must be at least {limits['ge']}"
        case "greater_than":
            rule = f"it must be more than {limits['gt']}"
        case "less_than_equal":
            rule = f"it must be at most {limits['le']}"
        case "less_than":
            rule = f"it must be less than {limits['lt']}"
        case "finite_number":
            rule = "it must be a finite number"
        case "literal_error":
            rule = f"allowed: {limits['expected']}"
        case "value_error":  # a check over several keys
            return f"params.yaml: {where}: {limits['error']}"
        case _:
            rule = detail["msg"][0].lower() + detail["msg"][1:]
    return f"params.yaml: {where} is {value!r}; {rule}"


def class_at(cls: type, path: Sequence[int | str]) -> type:
    """The settings class that stands at `path` within `cls`."""
    for step in path:
        hint = get_type_hints(cls).get(str(step), cls)
        cls = next((inner for inner in (hint, *get_args(hint)) if dataclasses.is_dataclass(inner)), cls)  # type: ignore[assignment]
    return cls


def length_at(cls: type, path: Sequence[int | str]) -> int:
    """How many values the tuple at `path` within `cls` holds; 0 where no tuple stands, or one of any length."""
    owner = class_at(cls, path[:-1])
    hint = get_type_hints(owner).get(str(path[-1])) if path else None
    return len(get_args(hint)) if get_origin(hint) is tuple and Ellipsis not in get_args(hint) else 0


def plugin_fields(cls: type) -> dict[str, str]:
    """Name → package, for each field of `cls` that is marked with `Plugin`."""
    found: dict[str, str] = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        marks = [mark for mark in get_args(hint) if isinstance(mark, Plugin)] if get_origin(hint) is Annotated else []
        found |= {name: mark.package for mark in marks}
    return found


def default_of(cls: type, name: str) -> Any:
    (field,) = (field for field in dataclasses.fields(cls) if field.name == name)
    default = field.default.get_default() if isinstance(field.default, FieldInfo) else field.default
    return None if default is dataclasses.MISSING else default


def plain(value: Any) -> Any:
    """Settings as dictionaries, lists and scalars, every default written out: what config.json holds."""
    if isinstance(value, Choice):
        return {"kind": value.kind, **plain(value.config)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


class Row(NamedTuple):
    """A key as `genpipe config` shows it."""

    key: str
    type: str
    default: str
    meaning: str


def explain(cls: type, place: str) -> Iterator[Row]:
    """Every key below `place` with type, default and meaning; settings within settings are walked."""
    hints, chosen = get_type_hints(cls), plugin_fields(cls)
    for field in dataclasses.fields(cls):
        hint, key = hints[field.name], f"{place}.{field.name}"
        info = field.default if isinstance(field.default, FieldInfo) else FieldInfo(default=field.default)
        if field.name in chosen:
            known = " | ".join(plugins.names(chosen[field.name]))
            yield Row(f"{key}.kind", known, shown_default(info), info.description or "")
        elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from explain(hint, key)
        elif inner := settings_listed(hint):
            yield Row(key, "list", shown_default(info), info.description or "")
            yield from explain(inner, f"{key}.N")
        else:
            yield Row(key, type_name(hint), shown_default(info), info.description or "")


def shown_default(info: FieldInfo) -> str:
    return "required" if info.is_required() else str(plain(info.get_default(call_default_factory=True)))


def settings_listed(hint: Any) -> type | None:
    """The class of the settings of which `hint` is a list, if it is one."""
    first = next(iter(get_args(hint)), None)
    return first if get_origin(hint) is tuple and isinstance(first, type) and dataclasses.is_dataclass(first) else None


def type_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " | ".join(str(choice) for choice in get_args(hint))
    if isinstance(hint, type) and not get_args(hint):
        return hint.__name__
    return re.sub(r"[\w.]+\.(\w+)", r"\1", str(hint))
