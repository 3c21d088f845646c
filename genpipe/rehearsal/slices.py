"""A slice of a project's data in a folder elsewhere: few examples, spread over all, as ingest would store them.

What is tried out before a run (`genpipe run --dry-run`, `genpipe run --smoke`) works on such a slice and leaves the
project alone. The rows come from data/; before the first ingest from the source, if it need not fetch them.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from genpipe import modalities
from genpipe.config import Choice
from genpipe.data import dataset
from genpipe.data.dataset import Dataset, Stored
from genpipe.data.rows import Row
from genpipe.project import Project
from genpipe.stages import ingest

SHARDS = 4  # of which a slice is taken, at most: each may be 64 MiB
COUNTING_SECONDS = 3.0
FEW = 16  # rows that warm up


@dataclass(frozen=True)
class Slice:
    """Some rows of a dataset, stored in a folder of their own."""

    stored: Stored
    rows: int  # that the whole dataset has, as far as they were counted
    counted: bool  # whether there are no more than these
    origin: str  # where they are from, in words
    pace: float = 0.0  # seconds that it took to store one row; 0 where it was stored already


def take(
    project: Project, folder: Path, count: int, *, a_class: int = 0, seconds: float = math.inf, fetch: bool = False
) -> Slice | None:
    """About `count` rows, at least `a_class` a class, stored below `folder`; fewer if they would take more `seconds`.

    None where nothing is known of the rows before they are fetched. With `fetch` they are, as ingest does it, and what
    was fetched stays for ingest. Raises DataError as the source does.
    """
    if any(project.data.glob("*/dataset.yaml")):
        stored = Stored.find(project.data)
        return of_stored(stored, folder, max(count, a_class * len(stored.about.classes)))
    source: Choice = project.section("ingest", ingest.Config).source
    at_hand = getattr(source.module, "at_hand", lambda config, root: True)
    if fetch or at_hand(source.config, project.root):
        about: Dataset = source.module.describe(source.config, project.root)
        wanted = max(count, a_class * len(about.classes))
        return of_source(about, partial(source.module.rows, source.config, project.root), folder, wanted, seconds)
    expected = getattr(source.module, "expected", None)
    return made_up(expected(source.config), folder, count) if expected else None


def of_stored(stored: Stored, folder: Path, count: int) -> Slice:
    """Rows of shards that are spread over all of them, and in each over its length."""
    shards = [stored.shards[place] for place in spread(len(stored.shards), SHARDS)]
    each = -(-count // max(len(shards), 1))
    tables = [pq.read_table(shard) for shard in shards]
    some = pa.concat_tables(table.take(pa.array(spread(len(table), each))) for table in tables)
    target = folder / stored.about.name
    target.mkdir(parents=True)
    file = dataset.shard_file(target, 0)
    pq.write_table(some, file, compression="zstd")
    taken = dataset.commit(replace(stored, folder=target, shards=(file,), removed=()))
    return Slice(taken, stored.rows, counted=True, origin="in data/")


def of_source(about: Dataset, give: Callable[[], Iterator[Row]], folder: Path, count: int, seconds: float) -> Slice:
    """Every so many-th of the rows that `give()` gives, stored as ingest does."""
    rows, whole = counted(give(), COUNTING_SECONDS)

    def some(count: int) -> Iterator[Row]:
        step = max(1, rows // count) if whole else 1
        return islice(give(), 0, step * count, step)

    with TemporaryDirectory(dir=folder.parent) as warming:
        pace = added(Path(warming), about, some(FEW))[1]
    stored, pace = added(folder, about, some(int(min(max(seconds / pace, FEW), count))))
    return Slice(stored, rows, whole, "in the source", pace)


def made_up(expected: tuple[Dataset, int, Sequence[int]], folder: Path, count: int) -> Slice:
    """Random examples of the shape that the dataset is known to have."""
    published, rows, shape = expected
    about = replace(published, columns=())
    stored, pace = added(folder, about, random_rows(about, shape, count))
    return Slice(
        stored, rows, counted=True, origin="as published; not fetched yet, so random ones were measured", pace=pace
    )


def random_rows(about: Dataset, shape: Sequence[int], count: int) -> Iterator[Row]:
    rng, content = np.random.default_rng(0), modalities.load(about.modality).CONTENT
    for number in range(count):
        label = {"label": number % len(about.classes)} if about.classes else {}
        yield {content: rng.integers(0, 256, shape, np.uint8), **label}


def added(folder: Path, about: Dataset, rows: Iterable[Row]) -> tuple[Stored, float]:
    """The rows as ingest stores them, and the seconds that each took."""
    begun = time.perf_counter()
    stored, count = dataset.add(folder, about, rows)
    return stored, (time.perf_counter() - begun) / max(count, 1)


def counted(rows: Iterator[Row], seconds: float) -> tuple[int, bool]:
    """How many there are, and whether that is all; counting ends so many seconds after the first one."""
    begun, number = math.inf, 0
    for number, _ in enumerate(rows, 1):
        begun = min(begun, time.perf_counter())
        if number % 100 == 0 and time.perf_counter() - begun > seconds:
            return number, False
    return number, True


def spread(length: int, most: int) -> list[int]:
    """At most so many places in a row of `length`, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, min(most, length)).astype(int)).tolist()  # type: ignore[no-any-return]
