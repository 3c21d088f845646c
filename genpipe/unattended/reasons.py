"""Why a project's model would be made anew: what dvc.lock and the registry know of the last, held against now."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from genpipe import __version__, dag, installed, locks
from genpipe.data.dataset import Stored
from genpipe.project import Project
from genpipe.records import registry, tracking
from genpipe.stages import check, ingest, register
from genpipe.unattended.pending import Pending

ROWS = "the source may hold new rows"
SHOWN = 6  # settings, or files of code, that a reason names


def show(directory: Path, *, as_json: bool) -> None:
    """Print what is to be done, and why, new rows of the source among it."""
    project = Project.find(directory)
    with locks.working(project, "genpipe pending"):  # asking the registry tidies up after a killed promotion
        found = replace(pending(project), source=ingest.asked(project))
    print(found.json() if as_json else told(found))


def told(found: Pending) -> str:
    """In a sentence; rows that the source may hold would go through every stage, whatever DVC says before they do."""
    unknown = f"whether there are new rows is not known: the source did not answer in {ingest.SOURCE_SECONDS:g} s"
    if found.source:
        names = ["ingest", *dag.with_downstream(["data.dvc"]), "register"]
        why = "; ".join([ROWS, *found.reasons])
    elif found.any:
        names = [*found.stages, *(["register"] if found.register else [])]
        why = "; ".join([*found.reasons, *([unknown] if found.source is None else [])])
    else:
        nothing = "Nothing: data, settings and code are those of the registered model"
        return f"{nothing}; {unknown}." if found.source is None else f"{nothing}, and the source has no new rows."
    return f"To be done: {', '.join(names)}. Why: {why}."


def pending(project: Project) -> Pending:
    """Ask DVC and the registry. Raises ConfigError with all faults of the settings."""
    check(project)
    changed = dag.status(project)
    stages = dag.with_downstream([*changed, *dag.outdated(project)])
    last = max(registry.versions(project), key=lambda version: int(version.version), default=None)
    registers = bool(stages) or register.pending(project)
    reasons = list(reasons_of(project, changed, last.tags if last else {})) if stages else []
    if stages and not reasons:
        reasons.append(f"dvc status names {', '.join(changed)}")
    if registers and not stages:
        reasons.append("the registry lacks this model, or its evaluation")
    trained = datetime.fromtimestamp(last.creation_timestamp / 1000, UTC) if last else None
    return Pending(tuple(stages), registers, tuple(reasons), trained)


def reasons_of(project: Project, changed: Mapping[str, list[Any]], last: Mapping[str, str]) -> Iterator[str]:
    """In words; `last` are the tags of the last version."""
    stages = locked(project)
    if not stages:
        yield "the first run"
        return
    names = {name for parts in changed.values() for name in inputs(parts)}
    if "data" in names or "data.dvc" in changed:
        yield data_reason(project, last)
    if settings := [line for name in stages for line in differences(project, name, stages[name])]:
        yield f"settings: {shortened(settings)}"
    if "suites" in names:
        yield "the rules of validation (suites/)"
    if code := sorted(name for name in names if name.startswith("genpipe/")):
        yield f"code: {shortened(code)}"
    if installed.FILE in names or dag.outdated(project):
        yield f"code: another genpipe is installed ({__version__})"
    if names == set() and any("changed outs" in part for parts in changed.values() for part in parts):
        yield "outputs are missing or not those of dvc.lock"
    if any(part == "changed command" for parts in changed.values() for part in parts):
        yield "commands of dvc.yaml"


def inputs(parts: list[Any]) -> Iterator[str]:
    """The dependencies of a stage that DVC says have changed."""
    for part in parts:
        if isinstance(part, dict):
            yield from part.get("changed deps", {})


def data_reason(project: Project, last: Mapping[str, str]) -> str:
    """How many rows there are more than those of the last version."""
    rows = Stored.find(project.data).rows
    known = json.loads(last.get(tracking.DATASET, "{}")).get("rows")
    if known is None:
        return f"new data: {rows:,} rows"
    return f"new data: {rows - known:+,} rows, {rows:,} in all" if rows != known else f"other data: {rows:,} rows"


def locked(project: Project) -> dict[str, Any]:
    """The stages as dvc.lock has them."""
    file = project.root / "dvc.lock"
    content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else None
    return dict((content or {}).get("stages", {}))


def differences(project: Project, stage: str, entry: Mapping[str, Any]) -> Iterator[str]:
    """The keys of a stage's section of params.yaml that are not as dvc.lock has them: `train.steps 100 → 200`."""
    then = dict(tracking.flat({stage: entry.get("params", {}).get("params.yaml", {}).get(stage) or {}}))
    now = dict(tracking.flat({stage: project.params.get(stage) or {}}))
    for key in sorted(then.keys() | now.keys()):
        if then.get(key) != now.get(key):
            yield f"{key} {then.get(key, 'default')} → {now.get(key, 'default')}"


def shortened(lines: list[str]) -> str:
    more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return ", ".join(lines[:SHOWN]) + more
