"""What `genpipe promote`, `rollback` and `history` do: check a version, move the champion, show how it has moved.

A version is trusted only as the registry gives it out: its files must be those that were registered, and its own code
must draw samples from them in a fresh process.
"""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import yaml
from rich.console import RenderableType
from rich.markup import escape

from genpipe import terminal
from genpipe.champion import contestants, ledger, versions
from genpipe.champion.verdict import Verdict, of_tags
from genpipe.data.arrays import DataSpec
from genpipe.drawing import about, labels_of
from genpipe.errors import RegistryError
from genpipe.project import Project
from genpipe.records import registry
from genpipe.records.registry import EVALUATION, ModelVersion
from genpipe.records.tracking import COMMIT, DIRTY

PROBED, PROBE_SECONDS = 4, 900.0  # samples that a version must give, and how long a busy machine may take for them


def promote(directory: Path, word: str, why: str, *, allow_dirty: bool) -> None:
    """Check the version that `word` names and make it champion. Raises RegistryError when it can't be trusted."""
    project = Project.find(directory)
    ledger.reconcile(project)
    version, champion = registry.resolve(project, word), ledger.champion(project)
    ledger.refuse_again(version, champion)
    if not allow_dirty:
        refuse_uncommitted(project, version)
    refuse_untrusted(project, version)
    verdict = of_tags(version.tags)
    event = ledger.promote(project, version, why=why, verdict=of_gate(verdict), compared_with=champion)
    print(f"{version.name}: version {event.version} is champion{in_place_of(event)}")


def of_gate(verdict: Verdict | None) -> str:
    """How a promotion by hand stands to what the gate had said of the version."""
    if verdict is None:
        return "without a verdict of the gate"
    return f"{'' if verdict.outcome == 'promoted' else 'against '}the gate's verdict: {verdict.title}"


def rollback(directory: Path, why: str) -> None:
    """Put back the champion that the present one replaced. Raises RegistryError when it can't be trusted any more."""
    project = Project.find(directory)
    event = ledger.rollback(project, why=why, check=lambda version: refuse_untrusted(project, version))
    print(f"{project.mlflow.registry.name}: version {event.version} is champion again{in_place_of(event)}")


def in_place_of(event: ledger.Event) -> str:
    return f", in place of version {event.replaced}" if event.replaced else ""


def history(directory: Path, *, as_json: bool) -> None:
    """Print every move of the champion, oldest first."""
    project = Project.find(directory)
    past, name = ledger.reconcile(project), project.mlflow.registry.name
    if as_json:
        moves = [{**asdict(event), "at": event.at.isoformat()} for event in past]
        print(json.dumps({"name": name, "moves": moves}, indent=2, ensure_ascii=False))
    elif not past:
        print(f"{name}: no version has been champion yet")
    else:
        terminal.show(f"[bold]Champions of {name}[/bold] (times in UTC)", *map(told, past))


def told(event: ledger.Event) -> RenderableType:
    """When and how the champion moved; below it why, and what the gate had said."""
    version = f"version {event.version}" if event.version else "no version"
    by = f" by {event.by}" if event.by else ""
    why = [f"why: {event.why}"] if event.why else []
    lines = [f"{version}{in_place_of(event)}, {event.kind}{by}", *why, *([event.verdict] if event.verdict else [])]
    return terminal.beside(f"{event.at:%Y-%m-%d %H:%M}", *map(escape, lines))


def refuse_untrusted(project: Project, version: ModelVersion) -> None:
    """Raises RegistryError, or StageError, unless a version is whole, as it was registered, and can be sampled."""
    refuse_unregistered(version)
    folder = contestants.whole(project, version)
    probe(folder, version)


def refuse_unregistered(version: ModelVersion) -> None:
    """Raises RegistryError for a version whose registration was cut short, or that somebody else registered."""
    if registry.MODEL not in version.tags or EVALUATION not in version.tags:
        raise RegistryError(
            f"version {version.version} of {version.name} has no tags {registry.MODEL} and {EVALUATION}: its "
            f"registration did not come to its end. `git checkout {version.tags.get(COMMIT, 'its commit')}` and `dvc "
            "checkout` bring its outputs back; `genpipe stage register` completes it from them"
        )


def refuse_uncommitted(project: Project, version: ModelVersion) -> None:
    """Raises RegistryError for a model whose code or settings are in no commit."""
    origin = registry.origin(project, version)
    if COMMIT not in origin or origin.get(DIRTY) == "true":
        state = "changes that were not committed" if COMMIT in origin else "no commit of git's"
        raise RegistryError(
            f"version {version.version} of {version.name} was made with {state}, so nobody can make it again; commit "
            "and run the pipeline, or take it as it is with --allow-dirty"
        )


def probe(folder: Path, version: ModelVersion) -> None:
    """Draw samples from a version's files in a fresh process.

    Raises RegistryError when they are not of the shape and type that its signature promises, and StageError when its
    code fails.
    """
    data, asked = DataSpec.of(about(folder)["data"]), versions.signature(folder)
    rows = asked.rows(labels_of(data, PROBED, None))
    drawn = versions.sampled(folder, rows, {**asked.options, "seed": 0}, seconds=PROBE_SECONDS)
    content = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))["signature"]
    promised = json.loads(content["outputs"])[0]["tensor-spec"]
    shape, dtype = (PROBED, *promised["shape"][1:]), promised["dtype"]
    if (drawn.shape, str(drawn.dtype)) != (shape, dtype):
        raise RegistryError(
            f"version {version.version} of {version.name} gives samples of shape {drawn.shape} and type {drawn.dtype}, "
            f"not {shape} and {dtype} as its signature says; nothing was moved"
        )
    if not np.isfinite(drawn).all():
        raise RegistryError(
            f"version {version.version} of {version.name} gives samples that are no numbers; nothing was moved"
        )
