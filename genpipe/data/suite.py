"""The suite: the file of rules that a team reads and edits, suites/<modality>.yaml at the project's root.

It is a list; each entry names an expectation of Great Expectations, the manifest's column that it is about, the
expectation's own options, the reason that people read, and the action: `quarantine` sets the rows aside that break it,
`stop` ends the run before training, `report` only counts.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pyarrow as pa
import yaml

from genpipe.data import manifest
from genpipe.data.rules import BOUNDS, MASKS, WHOLE, Rule
from genpipe.errors import ConfigError

ACTIONS = ("quarantine", "stop", "report")
OWN_KEYS = ("expectation", "column", "reason", "action")
# In place of a set of labels: those that the data's classes have.
CLASSES = "classes"
EXAMPLE = "- {expectation: expect_column_values_to_be_null, column: error, reason: can't be read, action: quarantine}"


def file_of(root: Path, modality: str) -> Path:
    return root / "suites" / f"{modality}.yaml"


def read(root: Path, modality: ModuleType) -> list[Rule]:
    """The rules of the project at `root` for a modality. Raises ConfigError with every fault found."""
    file = file_of(root, modality.__name__.rpartition(".")[2])
    place = file.relative_to(root).as_posix()
    if not file.is_file():
        raise ConfigError([
            f"{place} is absent, which says what data must fulfil; take it from a new project (`genpipe init`), or "
            f"write one, a list of entries such as `{EXAMPLE}`"
        ])  # fmt: skip
    try:
        entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError([f"{place}: {' '.join(str(error).split())}"]) from None
    if not isinstance(entries, list) or not entries:
        raise ConfigError([f"{place} must be a list of entries such as `{EXAMPLE}`"])
    columns = {field.name: field.type for field in manifest.fields(modality)}
    faults = [f"{place}, entry {number}: {fault}" for number, entry in enumerate(entries, 1)
              for fault in faults_of(entry, columns)]  # fmt: skip
    same = [expectation_of(entry) for entry in entries]
    faults += [f"{place}, entry {number}: the expectation of entry {same.index(one) + 1} again; let one entry say it"
               for number, one in enumerate(same, 1) if one and one in same[: number - 1]]  # fmt: skip
    if faults:
        raise ConfigError(faults)
    return [rule_of(entry) for entry in entries]


def expectation_of(entry: Any) -> dict[str, Any]:
    """What Great Expectations is told of an entry; it drops one of two that are equal."""
    return {name: entry[name] for name in entry if name not in ("reason", "action")} if isinstance(entry, dict) else {}


def rule_of(entry: Mapping[str, Any]) -> Rule:
    options = {name: value for name, value in entry.items() if name not in OWN_KEYS}
    return Rule(entry["expectation"], entry.get("column"), entry["reason"], entry["action"], options)


def for_classes(rules: Sequence[Rule], classes: int) -> list[Rule]:
    """The rules for data with so many classes: their labels in place of `classes`; none about labels without any."""
    if not classes:
        return [rule for rule in rules if rule.column != "label"]
    labels = {"value_set": list(range(classes))}
    return [
        replace(rule, options={**rule.options, **labels}) if rule.options.get("value_set") == CLASSES else rule
        for rule in rules
    ]


def faults_of(entry: Any, columns: Mapping[str, pa.DataType]) -> Iterator[str]:
    """What is wrong with one entry, and what is allowed."""
    if not isinstance(entry, Mapping):
        yield f"is {entry!r}; it must be a mapping such as `{EXAMPLE}`"
        return
    name = entry.get("expectation")
    if not isinstance(name, str) or (name not in MASKS and name not in WHOLE):
        yield f"expectation is {name!r}; about rows: {', '.join(MASKS)}; about the whole: {', '.join(WHOLE)}"
        return
    if not isinstance(entry.get("reason"), str) or not entry["reason"]:
        yield "reason is missing; it is what people read of a row that breaks the rule"
    actions = ACTIONS if name in MASKS else ACTIONS[1:]
    if entry.get("action") not in actions:
        why = "" if name in MASKS else f" ({name} is about all rows together)"
        yield f"action is {entry.get('action')!r}; allowed: {', '.join(actions)}{why}"
    yield from faults_of_column(entry, columns)
    yield from faults_of_options(entry)


def faults_of_column(entry: Mapping[str, Any], columns: Mapping[str, pa.DataType]) -> Iterator[str]:
    column, name = entry.get("column"), entry["expectation"]
    of = MASKS[name].of if name in MASKS else WHOLE[name].of
    if of == "nothing":
        if column is not None:
            yield f"column is {column!r}; {name} is about the number of rows and takes none"
        return
    fitting = [one for one, kind in columns.items() if of in ("values", content(kind))]
    if column not in fitting:
        yield f"column is {column!r}; columns of {of} are {', '.join(fitting)}"


def content(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "numbers"
    return "values" if pa.types.is_boolean(kind) else "text"


def faults_of_options(entry: Mapping[str, Any]) -> Iterator[str]:
    allowed, needed = options_of(entry["expectation"], str(entry.get("action")))
    given = {name: value for name, value in entry.items() if name not in OWN_KEYS}
    yield from (f"{name} is not an option of it; options: {', '.join(allowed) or 'none'}"
                for name in given if name not in allowed)  # fmt: skip
    if set(BOUNDS) <= set(allowed) and not set(BOUNDS) & set(given):
        yield f"it needs {' or '.join(BOUNDS)}"
    yield from (f"{name} is missing, which it needs" for name in needed if name not in given)
    for name, value in given.items():
        if name in allowed and not KINDS[name].right(value):
            yield f"{name} is {value!r}; it must be {KINDS[name].what}"
    if given.get("value_set") == CLASSES and entry.get("column") != "label":
        yield f"value_set is '{CLASSES}', which is for the column label; here it must be a list"


def options_of(expectation: str, action: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The options that an expectation may have, and those that it must have."""
    if expectation in WHOLE:
        allowed = WHOLE[expectation].options
        return allowed, tuple(name for name in allowed if name not in (*BOUNDS, "strict_min", "strict_max"))
    _, *arguments = inspect.signature(MASKS[expectation].broken).parameters.values()
    mostly = () if action == "quarantine" else ("mostly",)  # each row that breaks the rule is set aside, many or few
    needed = tuple(argument.name for argument in arguments if argument.default is argument.empty)
    return (*(argument.name for argument in arguments), *mostly), needed


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_pattern(value: Any) -> bool:
    try:
        return bool(re.compile(value))
    except (re.error, TypeError):
        return False


class Kind(NamedTuple):
    """What an option must be."""

    right: Callable[[Any], bool]
    what: str


KINDS: Mapping[str, Kind] = {
    "min_value": Kind(is_number, "a number"),
    "max_value": Kind(is_number, "a number"),
    "threshold": Kind(is_number, "a number"),
    "strict_min": Kind(lambda value: isinstance(value, bool), "true or false"),
    "strict_max": Kind(lambda value: isinstance(value, bool), "true or false"),
    "mostly": Kind(lambda value: is_number(value) and 0 <= value <= 1, "a share from 0 to 1"),
    "regex": Kind(is_pattern, "a regular expression"),
    "value_set": Kind(lambda value: isinstance(value, list) or value == CLASSES, f"a list, or `{CLASSES}`"),
    "partition_object": Kind(lambda value: isinstance(value, Mapping), "a mapping of values and weights"),
}
