"""What `genpipe compare` does: two models drawn anew with the same labels, seed and counts, and scored on one bench."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table

from genpipe import terminal
from genpipe.champion import contestants, gate, ledger
from genpipe.champion.contestants import Contestant
from genpipe.metrics import SCORES
from genpipe.project import Project
from genpipe.records import registry


class Row(NamedTuple):
    """One score of two models: means over the draws, and the interval of the paired difference, second less first."""

    title: str
    first: float
    second: float
    low: float
    high: float
    better: str  # the name of the better one; `not shown` where the interval holds 0, `–` where neither way is better

    @property
    def difference(self) -> float:
        return self.second - self.first


def compare(directory: Path, first: str, second: str) -> None:
    """Score both and print a table. Raises ComparisonError when they are unlike."""
    project = Project.find(directory)
    ledger.reconcile(project)
    one, other = named(project, directory, first), named(project, directory, second)
    contestants.refuse_unlike(one, other)
    bench, plan = contestants.prepared(project, one)
    with ThreadPoolExecutor(2) as pool:  # half of the time goes into starting processes
        drawn = list(pool.map(lambda contestant: contestant.samples(plan), (one, other)))
    left, right = (contestants.scores(bench, plan, samples) for samples in drawn)
    draws, count = plan.held_out.shape
    part = gate.held_out_part(count / len(bench.held_out), alike=one.kind == other.kind)
    show(one, other, rows((one.name, left), (other.name, right), part))
    print(f"{draws} draws of {count} samples, seed {plan.seed}, evaluator {bench.evaluator.digest[:12]}")
    for each in (one, other):
        print(f"{each.name} is drawn with {json.dumps(dict(each.options)) if each.options else 'its own defaults'}")


def named(project: Project, directory: Path, word: str) -> Contestant:
    """A folder of train's outputs, or a version by number, alias or URI. Raises RegistryError when it is neither.

    Raises DataError for a version that was trained on examples that are held out now.
    """
    folder = directory / word
    if folder.is_dir():
        return contestants.of_folder(folder, word)
    version = registry.resolve(project, word)
    contestants.refuse_seen(project, version)
    return contestants.of_version(project, version)


def rows(first: tuple[str, gate.Draws], second: tuple[str, gate.Draws], held_out: float = gate.ALIKE) -> list[Row]:
    """One row a score, in the order of SCORES, from names and scores by draw, and what held-out data add (gate.py)."""
    (one, left), (other, right) = first, second
    found = []
    for score in (name for name in SCORES if name in left[0]):
        before, after = (np.array([draw[score] for draw in draws]) for draws in (left, right))
        apart = gate.difference(after, before, held_out)
        better = other if (apart.mean < 0) == gate.lower_is_better(score) else one
        if SCORES[score].better == "like real":
            better = "–"
        elif apart.low <= 0 <= apart.high:
            better = "not shown"
        means = float(before.mean()), float(after.mean())
        found.append(Row(SCORES[score].title, *means, apart.low, apart.high, better))
    return found


def show(one: Contestant, other: Contestant, found: Sequence[Row]) -> None:
    table = Table("score", one.name, other.name, "difference", "interval", "better")
    for row in found:
        interval = f"{row.low:+.4g} to {row.high:+.4g}"
        values = (f"{row.first:.4g}", f"{row.second:.4g}", f"{row.difference:+.4g}", interval)
        table.add_row(row.title, *values, row.better)
    terminal.show(table)
