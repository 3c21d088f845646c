"""Checks of a project's own files: settings, git and DVC, locks, the disk, and where training would run."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from genpipe import dag, installed, locks, remotes, rwlock
from genpipe.config import faults_of
from genpipe.errors import ConfigError, GenpipeError, RemoteError
from genpipe.project import Project, foreign
from genpipe.stages import STAGES, check
from genpipe.summary import in_bytes
from genpipe.unattended import keeping
from genpipe.watching import journal
from genpipe.watching.doctor import Finding, State

LEAST_BYTES = 200 * 2**20  # without which nothing can be written
REMOTE_SECONDS = 30


def settings(project: Project) -> Iterator[Finding]:
    """params.yaml, mlflow.yml, the rules for data, and the record of the installed code."""
    try:
        check(project)
        yield Finding("settings", "ok", "params.yaml, mlflow.yml and suites/ are right")
    except ConfigError as error:
        yield from (Finding("settings", "wrong", fault, error.remedy) for fault in error.faults)
    if not (project.root / installed.FILE).exists():
        return
    if stale := [name for name in STAGES if name in dag.outdated(project)]:
        text = f"{installed.FILE} and dvc.yaml are not those of the installed genpipe for {', '.join(stale)}"
        yield Finding("code", "warning", text, "`genpipe run` takes the installed one, and does these stages again")
    else:
        yield Finding("code", "ok", f"{installed.FILE} names the installed code")


def versioned(project: Project) -> Iterator[Finding]:
    """git and DVC under the project."""
    from genpipe.records import tracking

    if refused(project):
        text, _, remedy = foreign(project.root).faults[0].partition("; ")
        yield Finding("git", "wrong", f"git does not work here: {text}", remedy)
    elif not tracking.git(project, "rev-parse", "HEAD"):
        text = "the project is in no commit of git's, so no version can be made again, nor become champion by itself"
        yield Finding("git", "warning", text, "git init && git add . && git commit")
    elif tracking.code_state(project)[tracking.DIRTY] == "true":
        text = "code or settings are not committed: a model of theirs becomes champion only with --allow-dirty"
        yield Finding("git", "warning", text, "git status, then git commit")
    else:
        yield Finding("git", "ok", "all code and settings are committed")
    try:
        yield Finding("DVC", "ok", f"cache {cache(project)}")
    except GenpipeError as error:
        yield Finding("DVC", "wrong", str(error), "dvc init, in the project's folder")


def refused(project: Project) -> bool:
    """Whether git takes the project for another user's, and says nothing else of it."""
    env = os.environ | {"LC_ALL": "C"}
    words = ["git", "rev-parse", "--git-dir"]
    done = subprocess.run(words, cwd=project.root, env=env, capture_output=True, text=True, check=False)
    return "dubious ownership" in done.stderr


def cache(project: Project) -> Path:
    return Path(dag.dvc(project, "cache", "dir").strip())


def remote(project: Project) -> Iterator[Finding]:
    """Where data and outputs are kept beside this machine's cache."""
    if fault := keeping.remote_fault(project):
        text, _, remedy = fault.partition("; ")
        yield Finding("remote", "warning", text, remedy)
    if not dag.default_remote(project) or not (project.root / "data.dvc").exists():
        return
    try:
        place = remotes.refuse_silent(project)
    except RemoteError as error:
        yield Finding("remote", "wrong", str(error), error.remedy)
        return
    if json.loads(dag.dvc(project, "status", "--cloud", "--json", "data.dvc", within_seconds=REMOTE_SECONDS)):
        yield Finding("remote", "warning", f"{place} lacks data that data.dvc names", "dvc push")
    else:
        yield Finding("remote", "ok", f"{place} holds the data that data.dvc names")


def locked(project: Project) -> Iterator[Finding]:
    """Locks of ours and of DVC's that a killed process has left."""
    held = locks.notes(project.lock("pipeline").parent)
    for name, who in held.items():
        if who.alive:
            yield Finding("lock", "ok", f"{name} is held by {who}")
        else:
            text = f"{name}: {who} was killed; the system has let go of its lock, and the next run replaces its note"
            yield Finding("lock", "warning", text, "`genpipe run` goes on where it was")
    blocking = list(rwlocked(project))
    yield from blocking
    if not held and not blocking:
        yield Finding("lock", "ok", "nobody works on the project, and nothing is left of a killed process")
    last = journal.runs(project)[-1:]
    if last and last[0].vanished:
        text = f"the last run ended without a word in {last[0].stage or 'its beginning'}: `genpipe status`"
        yield Finding("last run", "warning", text, "`genpipe run` goes on, a training from its last checkpoint")


def rwlocked(project: Project) -> Iterator[Finding]:
    """What DVC's list of paths in use (.dvc/tmp/rwlock) says of processes, and for which of them DVC waits in vain."""
    file, about = rwlock.record_file(project), "DVC's lock"
    remedy = f"`genpipe run` frees it; before DVC by hand: rm {file}"
    try:
        holders = rwlock.holders(project)
    except ValueError:
        yield Finding(about, "warning", f"{file} was cut off by a kill", remedy)
        return
    for number, works in sorted(holders.items()):
        if works:
            yield Finding(about, "ok", f"process {number} is at work")
        elif psutil.pid_exists(number):
            text = f"{file} names process {number}, which was killed; DVC waits for another one of that number by now"
            yield Finding(about, "warning", text, remedy)
        else:
            yield Finding(about, "ok", f"process {number} was killed; the next command of DVC drops its entries")


def disk(project: Project) -> Iterator[Finding]:
    """The free room where the project writes, against what it holds: a run writes outputs beside the last ones."""
    held = sum(size(folder) for folder in (project.data, project.artifacts))
    places = {"project": project.root, "state": project.state, "cache": cache(project)}
    for name, place in distinct(places).items():
        free = shutil.disk_usage(existing(place)).free
        text = f"{in_bytes(free)} free for {name}, whose data and outputs take {in_bytes(held)}"
        remedy = "make room; `dvc gc --workspace` drops what no file here names any more"
        state: State = "wrong" if free < LEAST_BYTES else "warning" if free < held else "ok"
        yield Finding("disk", state, text, "" if state == "ok" else remedy)


def distinct(places: dict[str, Path]) -> dict[str, Path]:
    """One place a disk, under the names of all that lie on it."""
    by_disk: dict[int, list[str]] = {}
    for name, place in places.items():
        by_disk.setdefault(existing(place).stat().st_dev, []).append(name)
    return {" and ".join(names): places[names[0]] for names in by_disk.values()}


def existing(place: Path) -> Path:
    """The place, or the nearest folder above it that is there already."""
    return next(folder for folder in (place, *place.parents) if folder.exists())


def size(folder: Path) -> int:
    files = (Path(place) / name for place, _, names in os.walk(folder) for name in names)
    return sum(file.stat().st_size for file in files if file.is_file())


def training(project: Project) -> Iterator[Finding]:
    """What `train.device` and `train.precision` come to here."""
    from genpipe import devices
    from genpipe.stages import train

    cfg, _ = faults_of(train.Config, project.params.get("train") or {}, "train")
    if cfg is None:
        return  # the check of the settings has told why
    place = devices.choose_device(cfg.device)
    chosen = [devices.choose_precision(cfg.precision, place, weights) for weights in (0, devices.BF16_WEIGHTS)]
    small, large = (devices.Compute(place, dtype).precision for dtype in chosen)
    larger = f", {large} from {devices.BF16_WEIGHTS:,} weights on" if large != small else ""
    asked = f"train.device {cfg.device}, train.precision {cfg.precision}"
    yield Finding("training", "ok", f"on {place.type} in {small}{larger} ({asked})")


CHECKS: dict[str, Callable[[Project], Iterator[Finding]]] = {
    "settings": settings,
    "git": versioned,
    "remote": remote,
    "lock": locked,
    "disk": disk,
    "training": training,
}
