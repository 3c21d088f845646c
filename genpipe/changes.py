"""What `genpipe data diff` does: compare the data that two revisions name, by id, and show how they differ."""

import json
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table

from genpipe import revisions, terminal
from genpipe.data.difference import Rows, compare
from genpipe.data.keys import spelt
from genpipe.project import Project
from genpipe.revisions import Revision

SHOWN, DIGITS = 3, 12  # rows of each kind in the table, and digits of their ids
MEANING = {
    "added": "only in {new}",
    "removed": "only in {old}",
    "relabelled": "the same content under another label",
    "quarantined": "set aside in {new} and not in {old}",
    "released": "set aside in {old} and no longer in {new}",
    "other reason": "set aside in both, for other reasons",
}
Entry = dict[str, str]


class Part(NamedTuple):
    """The rows that have changed in one way; spelt out one by one, as they are asked for."""

    rows: int
    entries: Iterator[Entry]


def show(directory: Path, old: str, new: str, *, as_json: bool) -> None:
    """Print what differs between the data of two revisions: counts and the first few, or all of it as JSON.

    Raises DataError when the data of one can't be read.
    """
    project = Project.find(directory)
    before, after = revisions.read(project, old), revisions.read(project, new)
    found = differences(before, after)
    unknown = {one.name: one.missing for one in (before, after) if one.quarantine is None}
    if as_json:
        parts = {name.replace(" ", "_"): list(part.entries) for name, part in found.items()}
        sides = {"old": summary(before), "new": summary(after)}
        json.dump({**sides, **parts, "quarantine_unknown": unknown}, sys.stdout, indent=1)
        print()
        return
    about = f"{after.about.name}: {len(before.rows):,} examples in {old}, {len(after.rows):,} in {new}"
    missed = (f"Which rows were set aside in {name} is not known: {missing}." for name, missing in unknown.items())
    terminal.show(about, table(found, old, new), *missed)


def summary(revision: Revision) -> dict[str, object]:
    return {"revision": revision.name, "dataset": revision.about.name, "examples": len(revision.rows)}


def differences(before: Revision, after: Revision) -> dict[str, Part]:
    """The ways of MEANING in which rows can have changed; those of the quarantine where both sides know theirs."""
    added, removed, (was, now) = compare(before.rows, after.rows)
    found = {
        "added": Part(len(added), entries(after.rows, added, "label")),
        "removed": Part(len(removed), entries(before.rows, removed, "label")),
        "relabelled": Part(len(was), moves(before.rows, was, after.rows, now)),
    }
    if before.quarantine is None or after.quarantine is None:
        return found
    bad, good, (was, now) = compare(before.quarantine, after.quarantine)
    return found | {
        "quarantined": Part(len(bad), entries(after.quarantine, bad, "reason")),
        "released": Part(len(good), entries(before.quarantine, good, "reason")),
        "other reason": Part(len(was), moves(before.quarantine, was, after.quarantine, now)),
    }


def entries(rows: Rows, positions: np.ndarray, word: str) -> Iterator[Entry]:
    """Id and, where there is one, the label or the reason of each row."""
    for position in positions:
        (name,), said = spelt(rows.keys[position : position + 1]), rows.names[rows.said[position]]
        yield {"id": name} | ({word: said} if said else {})


def moves(old: Rows, was: np.ndarray, new: Rows, now: np.ndarray) -> Iterator[Entry]:
    """Id, and what was and is said of each row."""
    for left, right in zip(was, now, strict=True):
        (name,) = spelt(old.keys[left : left + 1])
        yield {"id": name, "from": old.names[old.said[left]], "to": new.names[new.said[right]]}


def table(found: Mapping[str, Part], old: str, new: str) -> Table:
    shown = Table("rows that are", "count", "which means", "the first of them")
    for name, part in found.items():
        some = "\n".join(line(entry) for entry in islice(part.entries, SHOWN))
        more = f"\nand {part.rows - SHOWN:,} more (--json)" if part.rows > SHOWN else ""
        shown.add_row(name, f"{part.rows:,}", MEANING[name].format(old=old, new=new), some + more)
    return shown


def line(entry: Entry) -> str:
    """`00d13af20b7c  3 → 5`."""
    said = f"{entry['from']} → {entry['to']}" if "from" in entry else entry.get("label", entry.get("reason", ""))
    return f"{entry['id'][:DIGITS]}  {said}".rstrip()
