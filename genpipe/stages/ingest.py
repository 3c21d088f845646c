"""ingest: bring the source's rows into data/<name>/ and let DVC version them as data.dvc.

It stands before the DAG, as an import: raw data come from outside, and `dvc pull` can bring them instead.
"""

import json
from pathlib import Path
from typing import Annotated, Any

from genpipe import code, dag, remotes
from genpipe.config import Choice, Field, Plugin, plain, settings
from genpipe.data import cache, dataset
from genpipe.data.dataset import Stored
from genpipe.data.stamps import Stamps
from genpipe.deadlines import within
from genpipe.errors import DataError, OutOfReachError, RemoteError, StageError
from genpipe.files import write_json
from genpipe.project import Project

SOURCE_SECONDS = 5.0  # for an answer of a source, which may be a server, or a folder of the network


@settings
class Config:
    source: Annotated[Any, Plugin("genpipe.sources")] = Field(default="digits", description="where raw data come from")


def run(cfg: Config, project: Project) -> dict[str, float]:
    """Write data/<name>/*.parquet, dataset.yaml and data.dvc; what is there already stays untouched.

    What data.dvc names is brought back first where data/ has nothing, or an older version. Where DVC can't, the source
    must give the same rows: raises DataError when it gives others, for those that data.dvc names would be lost, or
    RemoteError where DVC's remote does not answer. A source out of reach is an error only where data.dvc names no data,
    or they are not here.
    """
    source: Choice = cfg.source
    named = dag.versioned_rows(project)
    lost = why_lost(project, named) if named else None
    try:
        stored, added = take_in(source, project)
    except OutOfReachError as error:
        if named is None or lost:
            raise
        print(f"{error}\nThe data that data.dvc names are here and stay as they are.")
        stored, added = Stored.find(project.data), 0
    if lost and stored.digest != named:
        dataset.delete(stored)
        if isinstance(lost, RemoteError):
            raise lost
        raise DataError(
            f"source '{source.kind}' gives other rows than data.dvc names, and those are in no cache or remote of DVC "
            "here; `dvc pull` them from where they are, or remove data.dvc to begin a new history"
        )
    dag.version_data(project, stored.digest)
    write_json(noted_file(project), seen(cfg, project))
    print(f"{stored.about.name}: {stored.rows} examples, {added} of them new or relabelled")
    return {"examples": stored.rows, "added": added}


def why_lost(project: Project, named: str) -> StageError | RemoteError | None:
    """Why data/ does not hold the rows that data.dvc names; None after they have been brought back, if need be.

    Rows that an interrupted run has added since are kept. Raises DataError when data/ holds other rows than those that
    data.dvc names, and DVC can't replace them: what it named before would be versioned as if it were new.
    """
    held = any(project.data.glob("*/dataset.yaml"))
    found = Stored.find(project.data).digest if held else None
    if found != named and (not held or dag.noted_rows(project) != named):
        try:
            remotes.restore_data(project)
        except RemoteError as error:
            if held:
                raise
            print(f"{error}; the source is read instead")
            return error
        except StageError as error:
            if held:
                raise DataError(
                    "data/ holds other rows than data.dvc names, and DVC can't bring those: `dvc pull` them from where "
                    "they are; `dvc checkout --force data.dvc` first drops what in data/ is not versioned; "
                    f"`git checkout` brings another data.dvc ({error})"
                ) from error
            place, why = ("remote", f" ({error})") if dag.has_remote(project) else ("cache", "")
            print(f"the data that data.dvc names are in no {place} here; the source is read instead{why}")
            return error
    dag.note_rows(project, named)
    return None


def take_in(source: Choice, project: Project) -> tuple[Stored, int]:
    """Add what the source gives; files that are as they were last time are not read again."""
    about = source.module.describe(source.config, project.root)
    stamps = Stamps(cache.folder(project, "ingest"), code.digest(f"genpipe.modalities.{about.modality}"))
    found = dataset.add(project.data, about, source.module.rows(source.config, project.root), stamps)
    stamps.keep()
    return found


def pending(project: Project) -> bool:
    """Whether the source may hold rows that data/ has not."""
    cfg, noted = project.section("ingest", Config), noted_file(project)
    if not (project.root / "data.dvc").exists() or not noted.exists():
        return True
    return bool(json.loads(noted.read_text(encoding="utf-8")) != seen(cfg, project))


def asked(project: Project) -> bool | None:
    """As `pending`, for somebody who waits: None where the source has not answered in SOURCE_SECONDS."""
    try:
        return within(SOURCE_SECONDS, lambda: pending(project))
    except TimeoutError:
        return None


def seen(cfg: Config, project: Project) -> dict[str, Any]:
    """The source as it is now."""
    try:
        fingerprint = cfg.source.module.fingerprint(cfg.source.config, project.root)
    except OutOfReachError:
        fingerprint = "out of reach"
    return {"source": plain(cfg.source), "fingerprint": fingerprint}


def noted_file(project: Project) -> Path:
    """The source as it was when it was last read."""
    return project.state / "ingested.json"
