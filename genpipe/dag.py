"""The joint with DVC: dvc.yaml printed from the table of stages, a stage run or skipped, data versioned."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from genpipe import code, installed, locks
from genpipe.errors import StageError
from genpipe.files import written_aside
from genpipe.processes import own_environment
from genpipe.project import Project, load_yaml
from genpipe.stages import DAG, STAGES, Output, Stage

DVC = (sys.executable, "-m", "dvc")
ADVICE = (
    "To track the changes",
    "git add",
    "To enable auto staging",
    "dvc config core.autostage",
    "Use `dvc push`",
    "Updating lock file",
    "Generating lock file",
    "Data and pipelines are up to date",
)
GC = ("gc", "--workspace", "--force")
HEADER = (
    "# Printed by `genpipe dvc` from the table of stages (genpipe/stages/__init__.py); edit that and print again.\n"
)
INSTALLED_HEADER = (
    "# Printed by `genpipe dvc` from the installed genpipe's table of stages; their code is known by genpipe.yaml.\n"
)


def document(project: Project) -> str:
    """dvc.yaml of a project: it depends on the files of the code that it holds, else on the record of the installed."""
    own = installed.holds_code(project)
    stages = {stage.name: entry(stage, own) for stage in DAG}
    head = HEADER if own else INSTALLED_HEADER
    return head + yaml.safe_dump({"stages": stages}, sort_keys=False, width=120)


def entry(stage: Stage, own_code: bool) -> dict[str, Any]:
    """One stage as dvc.yaml has it."""
    files = code.closure(stage) if own_code else []
    record = [] if own_code else [{installed.FILE: [installed.key(stage)]}]
    content: dict[str, Any] = {
        "cmd": f"genpipe stage {stage.name}",
        "deps": [*stage.reads, *files],
        "params": [stage.name, *record],
    }
    for output in stage.writes:
        key = output.kind if output.kind in ("metrics", "plots") else "outs"
        content.setdefault(key, []).append(described(output))
    return content


def refresh(project: Project) -> None:
    """Bring up to date what tells DVC of the installed code: genpipe.yaml and, where its stages have changed, dvc.yaml.

    Stages of others in dvc.yaml stay, without their comments. In a project that holds genpipe's code nothing is done.
    """
    installed.refresh(project)
    if installed.holds_code(project) or not misprinted(project):
        return
    file = project.root / "dvc.yaml"
    others = {name: stage for name, stage in stages_in(file).items() if not is_own(stage)}
    printed = yaml.safe_load(document(project))["stages"]
    content = {**load_yaml(file), "stages": {**printed, **others}}
    with written_aside(file) as aside:
        aside.write_text(INSTALLED_HEADER + yaml.safe_dump(content, sort_keys=False, width=120), encoding="utf-8")
    print("dvc.yaml has the stages of the installed genpipe now; commit it")


def outdated(project: Project) -> set[str]:
    """The stages that `refresh` would change in dvc.yaml or genpipe.yaml."""
    return {*installed.changed(project), *misprinted(project)}


def misprinted(project: Project) -> set[str]:
    """The stages that dvc.yaml has otherwise than the table, or that one of the two lacks."""
    printed = yaml.safe_load(document(project))["stages"]
    held = {name: stage for name, stage in stages_in(project.root / "dvc.yaml").items() if is_own(stage)}
    return {name for name in printed | held if printed.get(name) != held.get(name)}


def stages_in(file: Path) -> dict[str, Any]:
    return load_yaml(file).get("stages") or {}


def is_own(stage: Any) -> bool:
    """Whether a stage of dvc.yaml is one of genpipe's, of this version or another."""
    return str(stage.get("cmd", "")).startswith("genpipe stage ")


def described(output: Output) -> str | dict[str, Any]:
    match output.kind:
        case "kept":
            return {output.path: {"persist": True}}
        case "plots":
            return {output.path: {"x": "step"}}
        case _:
            return output.path


def stage_command(stage: str) -> list[str]:
    """The command that runs the stage itself."""
    return [sys.executable, "-m", "genpipe", "stage", stage]


def reproduce(stage: str) -> list[str]:
    """The command by which DVC runs the stage, or skips it when nothing that it depends on has changed."""
    return [*DVC, "repro", "--single-item", stage]


def is_advice(line: str) -> bool:
    """Whether a line of DVC's is a hint for a person at its prompt, or empty."""
    return not line.strip() or line.strip().startswith(ADVICE)


def version_data(project: Project, rows_digest: str) -> None:
    """Let data.dvc name what data/ holds now: the bytes by DVC's digest, and under `meta` the rows by theirs."""
    dvc(project, "add", "data")  # not --quiet, by which DVC is silent about errors, too
    file = project.root / "data.dvc"
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    if content.get("meta") != {"rows": rows_digest}:
        # Not beside data.dvc: DVC would take what a crash leaves there for a second one.
        aside = project.root / ".dvc" / "tmp" / file.name
        aside.write_text(yaml.safe_dump({**content, "meta": {"rows": rows_digest}}, sort_keys=False), encoding="utf-8")
        aside.replace(file)
    note_rows(project, rows_digest)


def note_rows(project: Project, rows_digest: str) -> None:
    """Note that data/ holds the rows that data.dvc names, so that later it is seen which of the two has changed."""
    file = noted_file(project)
    if noted_rows(project) != rows_digest:
        with written_aside(file) as aside:
            aside.write_text(rows_digest, encoding="utf-8")


def noted_rows(project: Project) -> str | None:
    """The digest of the rows when data/ last held what data.dvc named; None where that is not known."""
    file = noted_file(project)
    return file.read_text(encoding="utf-8") if file.exists() else None


def noted_file(project: Project) -> Path:
    return project.state / "versioned-rows"


def versioned_rows(project: Project) -> str | None:
    """The digest of the rows that data.dvc names; None where there is none yet."""
    file = project.root / "data.dvc"
    content = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}
    digest: str | None = content.get("meta", {}).get("rows")
    return digest


def has_remote(project: Project) -> bool:
    return bool(dvc(project, "remote", "list").strip())


def default_remote(project: Project) -> str | None:
    """The name of the remote that DVC pushes to; None where there is none."""
    settings = dict(line.split("=", 1) for line in dvc(project, "config", "--list").splitlines())
    return settings.get("core.remote")


def push_command(*targets: str) -> list[str]:
    """The command that copies `targets` to the remote, or all that data.dvc and dvc.lock name."""
    return [*DVC, "push", *targets]


def own_code(project: Project) -> dict[str, str]:
    """What lets the stages of a project that holds genpipe's code run with that code, not with what is installed."""
    if not (project.root / "genpipe" / "__init__.py").is_file():
        return {}
    paths = [str(project.root), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def discard(project: Project, names: Collection[str]) -> None:
    """Delete the outputs of stages, and what dvc.lock says of them, as if they had never run."""
    for path in [project.root / output.path for name in names for output in STAGES[name].writes]:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
    lock = project.root / "dvc.lock"
    if lock.exists():
        content = yaml.safe_load(lock.read_text(encoding="utf-8"))
        content["stages"] = {name: entry for name, entry in content["stages"].items() if name not in names}
        with written_aside(lock) as aside:
            aside.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def collect_garbage(project: Project, *, cloud: bool) -> None:
    """Delete from DVC's cache, and from the remote, all that the working tree's data.dvc and dvc.lock don't name."""
    dvc(project, *GC, *(["--cloud"] if cloud else []))


def changed(project: Project, within_seconds: float | None = None) -> list[str]:
    """The stages, and data.dvc, whose inputs or outputs are not those of dvc.lock."""
    return sorted(status(project, within_seconds))


def status(project: Project, within_seconds: float | None = None) -> dict[str, list[Any]]:
    """What DVC says has changed, by stage and `data.dvc`; nothing for what is up to date."""
    found: dict[str, list[Any]] = json.loads(dvc(project, "status", "--json", within_seconds=within_seconds))
    return found


def with_downstream(stale: Collection[str]) -> list[str]:
    """The stages of the DAG in `stale`, or that read what such a stage writes, in order; `data.dvc` stands for data."""
    found, written = list[str](), ["data"] if "data.dvc" in stale else []
    for stage in DAG:
        if stage.name in stale or any(overlap(path, out) for path in stage.reads for out in written):
            found.append(stage.name)
            written += [output.path for output in stage.writes]
    return found


def overlap(one: str, other: str) -> bool:
    """Whether one path is the other, or lies in it."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def dvc(project: Project, *words: str, within_seconds: float | None = None) -> str:
    """What a DVC command prints. Raises StageError with what it says when it fails, or takes longer than it may."""
    try:
        done = subprocess.run(
            [*DVC, *words],
            cwd=project.root,
            env=own_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=within_seconds,
            pass_fds=locks.shared(),
        )
    except subprocess.TimeoutExpired:
        raise StageError(f"dvc {' '.join(words)} took longer than {within_seconds} s in {project.root}") from None
    if done.returncode:
        raise StageError(
            f"dvc {' '.join(words)} failed in {project.root}: {done.stderr.strip() or done.stdout.strip()}"
        )
    return done.stdout
