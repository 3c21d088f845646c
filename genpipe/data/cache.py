"""What was computed from a shard, kept for the next run: data that grew cost what was added.

It lies in the project's state, since DVC deletes a stage's outputs before the stage runs. An entry is the file
`<key>-<digest>`: the key is over all that the result depends on (the shard's bytes, which of its rows, settings, code),
the digest over the entry's own bytes, so that a damaged one is noticed and computed again.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from genpipe.data import parallel
from genpipe.files import written_aside
from genpipe.project import Project

AHEAD = 8  # shards a worker that are computed before they are asked for; their results are files
SMALL_BYTES = 2 * 2**20  # so little is computed sooner than processes start


class Part(NamedTuple):
    """A shard, and what a stage wants of it."""

    shard: Path
    first: int  # the number of its first row in the dataset
    chosen: np.ndarray | None = None  # which of its rows, as booleans; all of them unless given


Work = Callable[[Part, Path], None]


def folder(project: Project, stage: str) -> Path:
    return project.state / "cache" / stage


def forget(project: Project) -> None:
    """Delete what all stages have kept."""
    if (project.state / "cache").exists():
        shutil.rmtree(project.state / "cache")


def of_parts(kept: Path, parts: Sequence[Part], work: Work, depends: str) -> Iterator[Path]:
    """For each part, in order, the file that `work(part, file)` has written of it, now or in an earlier run.

    `kept` is the folder of the entries, `depends` tells what the result depends on beside the part: settings and code.
    The work is shared between the cores (see `parallel.ordered`, also for what `work` can be) and must not depend on
    `part.first`. Entries that no part needed are deleted in the end.
    """
    keys = [key_of(part, depends) for part in parts]
    sound = [entry_of(kept, key) for key in keys]
    missing = [(key, part) for key, part, entry in zip(keys, parts, sound, strict=True) if not entry]
    small = sum(part.shard.stat().st_size for _, part in missing) < SMALL_BYTES
    made = parallel.ordered(partial(make, kept, work), missing, few=len(missing) if small else 1, ahead=AHEAD)
    used = set[Path]()
    for known in sound:
        entry = known or next(made)
        used.add(entry)
        yield entry
    for stale in set(kept.glob("*")) - used:
        stale.unlink()


def key_of(part: Part, depends: str) -> str:
    rows = b"" if part.chosen is None else np.packbits(part.chosen).tobytes()
    return hashlib.sha256(f"{digest_of(part.shard)} {depends} ".encode() + rows).hexdigest()[:32]


def entry_of(kept: Path, key: str) -> Path | None:
    """The entry of that key, if there is a sound one."""
    return next((entry for entry in kept.glob(f"{key}-*") if entry.name == f"{key}-{digest_of(entry)}"), None)


def make(kept: Path, work: Work, missing: tuple[str, Part]) -> Path:
    """A new entry."""
    key, part = missing
    return put(kept, key, partial(work, part))


def put(kept: Path, key: str, write: Callable[[Path], None]) -> Path:
    """An entry of what `write(file)` writes."""
    with written_aside(kept / key) as aside:
        write(aside)
    return (kept / key).rename(kept / f"{key}-{digest_of(kept / key)}")


def digest_of(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:32]
