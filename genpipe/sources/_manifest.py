"""Tables that name one file a line with its label, text and split: CSV with a header, or JSON lines."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from genpipe.config import Field, settings
from genpipe.errors import DataError
from genpipe.sources._own import split_named


@settings
class Columns:
    """What the columns are called; those that a table lacks are simply not there, but for that of the files."""

    file: str = Field(default="file_name", description="column of the file's path, seen from the table's folder")
    label: str = Field(default="label", description="column of the class, by name or number")
    text: str = Field(default="text", description="column of the caption")
    split: str = Field(default="split", description="column of the split that the publisher chose")


class Entry(NamedTuple):
    file: str
    label: str | None
    text: str | None
    split: str | None


def header(table: Path) -> tuple[str, ...]:
    """The names of a table's columns; of JSON lines those of the first. Raises DataError for an empty table."""
    first = next(records(table), None)
    if first is None:
        raise DataError(f"{table} holds no row")
    return tuple(first)


def entries(table: Path, columns: Columns) -> Iterator[Entry]:
    """A table's rows in order. Raises DataError with the line of the one that can't be used."""
    for line, record in enumerate(records(table), start=2 if table.suffix == ".csv" else 1):
        if not (file := text_of(record, columns.file)):
            raise DataError(f"{table}, row at line {line}: '{columns.file}' is empty or no column; it names the file")
        split = split_named(text_of(record, columns.split) or "", f"{table}, row at line {line}")
        yield Entry(file, text_of(record, columns.label), text_of(record, columns.text), split)


def text_of(record: Mapping[str, Any], column: str) -> str | None:
    value = record.get(column)
    return None if value is None or value == "" else str(value)


def records(table: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as lines:
            if table.suffix == ".csv":
                yield from csv.DictReader(lines, strict=True)
                return
            for line in lines:
                if line.strip():
                    record = json.loads(line)
                    if not isinstance(record, dict):
                        raise DataError(f"{table}: a line holds {line.strip()[:40]!r}; each must be a JSON object")
                    yield record
    except (ValueError, csv.Error) as error:  # broken JSON, or bytes that are no UTF-8, is a ValueError
        raise DataError(f"{table} can't be read as a table: {error}") from error
