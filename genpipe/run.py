"""What `genpipe run` and `genpipe stage` do: check and change settings, find work to do, start the flow, sum it up."""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from difflib import unified_diff
from io import StringIO
from pathlib import Path
from typing import Any

from genpipe import dag, installed, locks, processes, rwlock, summary
from genpipe.champion.verdict import ALLOW_DIRTY
from genpipe.errors import ConfigError, DataError
from genpipe.files import written_aside
from genpipe.project import Project
from genpipe.rehearsal import estimate, smoke
from genpipe.stages import STAGES, check
from genpipe.watching import journal

# Nothing is sent anywhere, and no console is filled with what the stages say themselves; a user's own setting wins.
DEFAULTS = {
    # Threads that spin while they wait made small networks up to 13 times slower beside another busy process.
    "OMP_WAIT_POLICY": "PASSIVE",
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # which it would print each time that a run is written to
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s  %(task_name)-9s  %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s  %(flow_name)-9s  %(message)s",
}


def run(directory: Path, changes: Sequence[str], *, allow_dirty: bool = False) -> None:
    """Run the pipeline of the project in `directory`.

    `allow_dirty` lets a model of uncommitted code or settings become champion.
    """
    if allow_dirty:
        os.environ[ALLOW_DIRTY] = "true"  # register runs in a process below
    project = opened(directory, changes, write=True)
    exit_on_sigterm()
    signal.signal(signal.SIGINT, interrupt)
    with locks.alone(project, "genpipe run"):  # who works on it is told before anything is asked
        rwlock.forget_dead_holders(project)
        dag.refresh(project)
        nothing_to_do = not os.environ.get("PREFECT_API_URL") and not work(project)
    if nothing_to_do:
        summary.show(project, {})
        return
    from flows import server  # the one place where the library looks up: this is its composition root
    from flows.pipeline import pipeline

    server.start()
    summary.show(project, pipeline(project.root))


def foretell(directory: Path, changes: Sequence[str]) -> None:
    """Print which stages would run, and what they would take. Raises ConfigError or StageError when they would fail."""
    from genpipe.stages import ingest

    project = opened(directory, changes, write=False)
    new = ingest.asked(project)
    stages = plan(project, new=bool(new))
    summary.show_plan(stages, new)
    if stages:
        expected = estimate.of(project, stages)
        summary.show_estimate(expected)
        estimate.refuse_failure(expected)


def try_out(directory: Path, changes: Sequence[str]) -> None:
    """Run every stage, made small, in a throw-away project (see genpipe/rehearsal/smoke.py)."""
    project = opened(directory, changes, write=False)
    exit_on_sigterm()
    smoke.run(project)


def opened(directory: Path, changes: Sequence[str], *, write: bool) -> Project:
    """The project in `directory` with changed settings. Raises GenpipeError unless it may run."""
    set_defaults()
    project = Project.find(directory)
    if changes:
        project = change(project, changes, write=write)
    check(project)
    refuse_unfinished(project)
    return project


def exit_on_sigterm() -> None:
    """So that Prefect's temporary server is stopped, and a throw-away project removed, too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def interrupt(*_: object) -> None:
    """End the run at Control-C, and let a second one pass; a third is for whoever has waited long enough.

    `timeout` sends two, of which the later one would cut short the checkpoint that the first has asked for.
    """
    signal.signal(signal.SIGINT, lambda *_: signal.signal(signal.SIGINT, signal.default_int_handler))
    raise KeyboardInterrupt


def notify_data(directory: Path) -> None:
    """Tell the Prefect server that there are new data for the project in `directory`."""
    set_defaults()
    from flows import events

    print(f"{events.EVENT} was told to the Prefect server for {events.emit(Project.find(directory))}")


def refuse_unfinished(project: Project) -> None:
    from genpipe import removal

    if removal.unfinished(project):
        raise DataError("a removal of examples was interrupted; `genpipe data remove` completes it")


def set_defaults() -> None:
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def work(project: Project) -> bool:
    """Whether any stage has something to do, by asking DVC and the registry before a server is started."""
    from genpipe.stages import ingest, register

    return bool(ingest.pending(project) or dag.changed(project) or register.pending(project))


def plan(project: Project, *, new: bool) -> list[str]:
    """The stages that a run would have to do, with the settings of `project`, written or not, and maybe `new` rows."""
    stale, written = set(dag.changed(project)), Project(project.root).params
    stale |= {name for name in STAGES if written.get(name) != project.params.get(name)}
    stale |= dag.outdated(project) | ({"data.dvc"} if new else set())
    stages = dag.with_downstream(stale)
    return [*(["ingest"] if new else []), *stages, *(["register"] if stages else [])]


def run_stage(directory: Path, name: str) -> None:
    """Run one stage in this process, under its lock. Raises ConfigError for an unknown name or bad settings."""
    if name not in STAGES:
        raise ConfigError([f"there is no stage '{name}'; known stages: {', '.join(STAGES)}"])
    set_defaults()  # before the stage imports torch, which reads one of them
    project = Project.find(directory)
    refuse_unfinished(project)
    installed.refuse_another(project, name)
    stage = STAGES[name].module
    config = project.section(name, stage.Config)
    processes.stop_with_whoever_started_this()
    leads = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts, one holds the lock for all
    lock = locks.working(project, f"genpipe stage {name}") if leads else nullcontext()
    with journal.telling(project, name), lock:
        stage.run(config, project)


def change(project: Project, changes: Sequence[str], *, write: bool) -> Project:
    """Set `a.b=value` in params.yaml, comments kept; show the difference, refuse faults before anything is written."""
    from ruamel.yaml import YAML

    file, yaml = project.root / "params.yaml", YAML()
    before, buffer = file.read_text(encoding="utf-8"), StringIO()
    content = yaml.load(before) or {}
    for one in changes:
        put(content, one)
    yaml.dump(content, buffer)
    after = buffer.getvalue()
    changed = Project(project.root)
    changed.__dict__["params"] = YAML(typ="safe").load(after)  # in place of those of the file
    check(changed)
    sys.stdout.writelines(unified_diff(before.splitlines(True), after.splitlines(True), "params.yaml", "now"))
    if write:
        with written_aside(file) as aside:
            aside.write_text(after, encoding="utf-8")
    return changed


def put(content: Any, assignment: str) -> None:
    """Set the key that `a.b=value` names in nested mappings. Raises ConfigError when it is not of that form."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    key, sign, text = assignment.partition("=")
    *path, last = key.split(".")
    try:
        value = YAML(typ="safe").load(text)
    except YAMLError as error:
        raise ConfigError([f"--set {assignment}: its value is no YAML: {' '.join(str(error).split())}"]) from None
    if not sign or not last:
        raise ConfigError([f"--set {assignment}: it must be KEY=VALUE, such as train.steps=100"])
    for step in path:
        if not isinstance(content.get(step), dict):
            content[step] = {}
        content = content[step]
    if last == "kind" and content.get(last) != value:
        content.clear()  # the other keys are those of the kind that was
    content[last] = value
