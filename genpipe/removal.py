"""What `genpipe data remove` does: take examples out of the data for good, and out of all that was computed from them.

What is to go is written down first, in the project's state, and each step can be taken twice: after a crash the same
command finishes the work. Weights are not touched, and still remember what they were trained on; it is said which.
"""

import json
import shutil
import sys
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from genpipe import affected, dag, locks, modalities
from genpipe.affected import Model
from genpipe.data import cache, dataset
from genpipe.data.dataset import Stored
from genpipe.errors import ConfigError, DataError, StageError
from genpipe.files import write_json
from genpipe.processes import supervise
from genpipe.project import Project

PURPOSE = "genpipe data remove"
HOLDING = ("validate", "augment", "evaluate")  # stages whose outputs hold examples, or show them
REPRODUCED = ("validate", "augment")  # evaluate wants a training first
STATE = ("data_docs", "downloads", "unpacked")  # folders of the project's state that hold examples, or tell of them
ORPHAN_SECONDS = 60  # that a stage may still take whose command was killed
DVC_SECONDS = 15  # that the DVC above such a stage may take after it
FEWEST_DIGITS, SHOWN, SHOWN_DIGITS = 4, 3, 12
TAG = "genpipe.removed_rows"  # of a version: how many rows it was trained on that have been removed since

GC_DROPS = (
    "{places} will keep only what data.dvc and dvc.lock name afterwards. The data and outputs of every other version "
    "are lost, and so are those of other projects that keep theirs in the same place."
)
COMMIT = (
    "- Commit data.dvc and dvc.lock, so that clones lose the examples too; after `genpipe run`, since `dvc pull` in a "
    "clone fails for outputs that dvc.lock does not name."
)
SOURCE = "- Delete them at the source as well: ingest passes over them, and leaves them where they are."
OLDER = (
    "- In DVC's cache older versions of the data and of outputs still hold them. `dvc {command}` deletes all versions "
    "but the present one, with --cloud in the remote too (with --gc or --cloud this command does it)."
)
WEIGHTS = (
    "- The weights of the models above remember them. Train anew (`genpipe run`), promote the new version, then delete "
    "the old ones in MLflow (`genpipe ui`), and their files by `mlflow gc`. Pictures of training examples have been "
    "deleted from their runs."
)
OUTPUTS = "- artifacts/train holds a model of before; `genpipe run` replaces it and evaluates anew."
EVALUATOR = (
    "- The evaluator in artifacts/calibrate was fitted before, and stays. `genpipe run --set calibrate.seed=1` fits "
    "another, with whose scores no older ones can be compared."
)


@dataclass(frozen=True)
class Request:
    """What is to go: rows by id, and whether DVC's cache and its remote are cleaned as well."""

    ids: tuple[str, ...]
    gc: bool
    cloud: bool


def remove(directory: Path, words: Sequence[str], pattern: str | None, *, gc: bool, cloud: bool, yes: bool) -> None:
    """Remove the rows that `words` (ids, or their beginnings) name, and those whose file's path matches `pattern`.

    A removal that was interrupted is completed instead. Raises DataError when a word names no row or several, and
    ConfigError when the removal is not confirmed.
    """
    project = Project.find(directory)
    with locks.held(project.lock("pipeline"), PURPOSE):
        if unfinished(project):
            request = Request(**json.loads(journal(project).read_text(encoding="utf-8")))
            erase(project, request)
            recompute(project)
            print(f"The removal of {count(request.ids)} that was interrupted is complete; ask again for others.")
            return
        stored = Stored.find(project.data)
        request = Request(chosen(stored, words, pattern), gc or cloud, cloud)
        if cloud and not dag.has_remote(project):
            raise ConfigError(["--cloud: DVC has no remote here (`dvc remote add --default NAME PLACE`)"])
        print(f"{stored.about.name}: {count(request.ids)} to remove: {short(request.ids)}")
        knowing = affected.models(project, request.ids)
        tell_models(knowing)
        confirm(request, yes=yes)
        write_json(journal(project), asdict(request))
        erase(project, request)
        recompute(project)
        print(f"{count(request.ids)} removed, never to be taken in again. What is left to do:")
        tell_what_is_left(project, request, knowing)


def journal(project: Project) -> Path:
    """What a removal has begun to remove; there until all of it is erased."""
    return project.state / "removal.json"


def unfinished(project: Project) -> bool:
    return journal(project).exists()


def erase(project: Project, request: Request) -> None:
    """Every step of a removal, each of which changes nothing when it has been taken before."""
    with locks.held(project.lock("stage"), PURPOSE, ORPHAN_SECONDS):
        stored = dataset.remove(project.data, request.ids)
        version(project, stored)
        dag.discard(project, HOLDING)
        cache.forget(project)
        for folder in (project.state / name for name in STATE):
            if folder.exists():
                shutil.rmtree(folder)
        withdraw_from_models(project, stored)
        if request.gc:
            dag.collect_garbage(project, cloud=request.cloud)
    journal(project).unlink()


def version(project: Project, stored: Stored) -> None:
    """Version the data; tried again for a while, since the DVC above a stage whose command was killed still ends."""
    until = time.monotonic() + DVC_SECONDS
    while True:
        try:
            return dag.version_data(project, stored.digest)
        except StageError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def recompute(project: Project) -> None:
    """Validate and augment what is left. That this fails, as on too few rows, is told; the removal is complete."""
    try:
        for stage in REPRODUCED:
            supervise(dag.reproduce(stage), project.root, pass_on)
    except StageError as error:
        print(f"The examples are erased, but what is left can't be trained on, and `genpipe run` would stop: {error}")


def pass_on(line: str) -> None:
    if not dag.is_advice(line):
        print(line)


def withdraw_from_models(project: Project, stored: Stored) -> None:
    """Of models that were trained on removed rows, delete the pictures of training examples and tag the versions."""
    for model in affected.models(project, stored.removed):
        if model.trained_on:
            from genpipe.records import registry, tracking

            tracking.delete_pictures_of_data(model.run_id)
            for number in model.versions:
                registry.tag_version(project, number, {TAG: str(len(model.trained_on))})


def chosen(stored: Stored, words: Sequence[str], pattern: str | None) -> tuple[str, ...]:
    """The ids that are asked for, sorted. Raises DataError with every word that names none, or more than one."""
    names = sorted({*(row["id"] for row in stored.read_rows(["id"])), *stored.removed})
    found, faults = set[str](), list[str]()
    for word in words:
        hits = starting_with(word.lower(), names)
        if len(hits) == 1:
            found.add(hits[0])
        else:
            faults.append(f"'{word}' {fault(word, hits, stored)}")
    if pattern:
        matching = {name for name, path in paths(stored) if fnmatchcase(path, pattern)}
        found |= matching
        if not matching:
            faults.append(f"--path '{pattern}' matches no example's file")
    if not (found or faults):
        faults.append("name the examples by ids, --path PATTERN or --from FILE")
    if faults:
        raise DataError("; ".join([*faults, "nothing was removed"]))
    return tuple(sorted(found))


def starting_with(word: str, names: Sequence[str]) -> list[str]:
    """Those of the sorted `names` that begin with `word`, two at most; none for a word that is too short."""
    first = bisect_left(names, word)
    return [name for name in names[first : first + 2] if name.startswith(word) and len(word) >= FEWEST_DIGITS]


def fault(word: str, hits: Sequence[str], stored: Stored) -> str:
    if len(word) < FEWEST_DIGITS:
        return f"is too short; give at least {FEWEST_DIGITS} digits of an id"
    return "begins several ids; give more digits" if hits else f"begins the id of no example of {stored.about.name}"


def paths(stored: Stored) -> Iterator[tuple[str, str]]:
    """Id and path of the original file, of the rows that have one."""
    content = modalities.load(stored.about.modality).CONTENT
    for row in stored.read_rows(["id", f"{content}.path"]):
        if path := row[content]["path"]:
            yield row["id"], path


def confirm(request: Request, *, yes: bool) -> None:
    """Say what will be lost, and return when the removal is wanted. Raises ConfigError when it isn't."""
    if request.gc:
        print(GC_DROPS.format(places="DVC's cache and its remote" if request.cloud else "DVC's cache"))
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(["a removal can't be undone, and there is no terminal to ask on; --yes confirms it"])
    if input("This can't be undone. Remove? [y/N] ").strip().lower() not in ("y", "yes"):
        raise ConfigError(["the removal was not confirmed"])


def count(ids: Sequence[str]) -> str:
    return "1 example" if len(ids) == 1 else f"{len(ids):,} examples"


def short(ids: Sequence[str]) -> str:
    """The first few ids, shortened."""
    more = [f"and {len(ids) - SHOWN:,} more"] if len(ids) > SHOWN else []
    return ", ".join([*(name[:SHOWN_DIGITS] for name in ids[:SHOWN]), *more])


def tell_models(knowing: Sequence[Model]) -> None:
    """Which models know the rows, those first that were trained on them."""
    for model in sorted(knowing, key=lambda model: not model.trained_on):
        if model.rows is None:
            print(f"  {model.called} may know them: its run carries no record of its examples")
        elif model.trained_on:
            print(f"  {model.called} was trained on {short(model.trained_on)}")
        else:
            print(f"  {model.called} was only measured on {short(model.measured_on)}")


def tell_what_is_left(project: Project, request: Request, knowing: Sequence[Model]) -> None:
    """What a removal can't reach, and what to do about each."""
    print(COMMIT, SOURCE, sep="\n")
    if not request.gc:
        print(OLDER.format(command=" ".join(dag.GC)))
    if any(model.trained_on or model.rows is None for model in knowing):
        print(WEIGHTS)
    if (project.artifacts / "train").exists():
        print(OUTPUTS)
    if (project.artifacts / "calibrate").exists():
        print(EVALUATOR)
