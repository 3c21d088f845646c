"""Tables that name one file a line with its label, text and split: CSV with a header, or JSON lines."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from genpipe.config import Field, settings
from genpipe.errors import DataError
from genpipe.sources._own import legible, split_named


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
    """The names of a table's columns; of JSON lines those of any line. Raises DataError for an empty table."""
    alike = 1 if table.suffix == ".csv" else None
    names = dict.fromkeys(name for _, record in islice(records(table), alike) for name in record)
    if not names:
        raise DataError(f"{table} holds no row; fill it, or move it away")
    return tuple(names)


def entries(table: Path, columns: Columns) -> Iterator[Entry]:
    """A table's rows in order. Raises DataError with the line of the one that can't be used."""
    for line, record in records(table):
        where = f"{table}, row at line {line}"
        file, label, text, split = (
            text_of(record, name, where) for name in (columns.file, columns.label, columns.text, columns.split)
        )
        if not file:
            raise DataError(f"{where}: '{columns.file}' is empty or no column; it names the file")
        yield Entry(file, label, text, split_named(split or "", where))


def text_of(record: Mapping[str, Any], column: str, where: str) -> str | None:
    value = record.get(column)
    text = "" if value is None else str(value)
    if "\0" in text or legible(text) != text:  # JSON can write half of a pair of surrogates
        raise DataError(f"{where}: '{column}' holds {ascii(text)[:60]}, which is no text; mend that row")
    return text or None


def records(table: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Each row with the number of its last line."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as lines:
            if table.suffix == ".csv":
                reader = csv.DictReader(lines, strict=True)
                yield from ((reader.line_num, record) for record in reader)
            else:
                yield from json_lines(lines, table)
    except (OSError, ValueError, csv.Error) as error:  # broken JSON, or bytes that are no UTF-8, is a ValueError
        raise DataError(f"{table} can't be read as a table: {error}") from error


def json_lines(lines: Iterable[str], table: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            record = json.loads(line)
            if not isinstance(record, dict):
                raise DataError(f"{table}, line {number}, holds {line.strip()[:40]!r}; each must be a JSON object")
            yield number, record
