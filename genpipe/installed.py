"""The code that is installed, as a project records it in genpipe.yaml: by that DVC sees when a stage's code changes.

A project that holds genpipe's own code, as the repository of genpipe does, depends on its files instead and needs no
record.
"""

from pathlib import Path
from typing import Any

import yaml

from genpipe import PACKAGE, __version__, code
from genpipe.errors import ConfigError, refuse_newer
from genpipe.files import written_aside
from genpipe.project import Project, load_yaml
from genpipe.stages import DAG, STAGES, Stage

FILE, FORMAT = "genpipe.yaml", 1
HEADER = (
    "# The code of genpipe that this project runs with, a digest a stage; dvc.yaml depends on it.\n"
    "# `genpipe run` keeps it up to date; commit it with dvc.lock.\n"
)


def holds_code(project: Project) -> bool:
    """Whether the project holds genpipe's own code. Raises ConfigError when that is not the code that runs."""
    own = project.root / "genpipe"
    if not (own / "__init__.py").is_file():
        return False
    if own.resolve() != PACKAGE:
        raise ConfigError([
            f"the project {project.root} holds code of genpipe, on which dvc.yaml depends, but the code that runs is "
            f"{PACKAGE}; install the project's (`make` in {project.root}), or put it on PYTHONPATH"
        ])  # fmt: skip
    return True


def record() -> dict[str, Any]:
    """What genpipe.yaml says of the installed code: of a stage that runs a generator, by the generator's kind."""
    digests = {
        stage.name: {kind: code.closure_digest(stage.name, kind) for kind in kinds()}
        if stage.generator
        else code.closure_digest(stage.name)
        for stage in DAG
    }
    return {"format": FORMAT, "genpipe": __version__, "code": digests}


def kinds() -> list[str]:
    """The kinds of generators by their files: importing their package would take torch's seconds."""
    return sorted(file.stem for file in (PACKAGE / "generators").glob("[!_]*.py"))


def key(stage: Stage) -> str:
    """The place of a stage's digest in genpipe.yaml, as dvc.yaml names it."""
    return f"code.{stage.name}" + (".${train.generator.kind}" if stage.generator else "")


def refresh(project: Project) -> None:
    """Let genpipe.yaml name the installed code, unless the project holds its own."""
    if not holds_code(project) and read(project) != (content := record()):
        with written_aside(project.root / FILE) as aside:
            aside.write_text(HEADER + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def read(project: Project) -> dict[str, Any]:
    """The record; empty where there is none. Raises FormatError for one of a newer genpipe."""
    content = load_yaml(project.root / FILE)
    refuse_newer(FILE, content.get("format", FORMAT), FORMAT)
    return content


def changed(project: Project) -> list[str]:
    """The stages whose code is recorded as another than the installed one."""
    if holds_code(project) or not (recorded := read(project)):
        return []
    now = record()["code"]
    return [name for name in now if recorded.get("code", {}).get(name) != now[name]]


def refuse_another(project: Project, stage: str) -> None:
    """Raises ConfigError when the installed code of a stage is not the recorded one, by which DVC knows its outputs."""
    if STAGES[stage] in DAG and stage in changed(project):
        raise ConfigError([
            f"the code of {stage} that is installed (genpipe {__version__}, {PACKAGE}) is not the one that {FILE} "
            "names; `genpipe run` brings that up to date, or install the one it names"
        ])  # fmt: skip


def suites() -> Path:
    """The rules for data that a new project begins with; they are beside the package, and in a wheel within it."""
    carried = PACKAGE / "suites"
    return carried if carried.is_dir() else PACKAGE.parent / "suites"
