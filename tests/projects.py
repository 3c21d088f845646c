"""Small projects for tests: a folder with settings, without DVC and git unless a test adds them."""

import shutil
from pathlib import Path
from typing import Any

import yaml

from genpipe import PACKAGE
from genpipe.data import dataset
from genpipe.data.dataset import Dataset, Row
from genpipe.project import Project
from genpipe.stages import STAGES


def make(folder: Path, **sections: Any) -> Project:
    """A project with these sections of params.yaml, the others at their defaults."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump({name: sections.get(name, {}) for name in STAGES}))
    (folder / "dvc.yaml").write_text("stages: {}\n")
    shutil.copytree(PACKAGE.parent / "suites", folder / "suites", dirs_exist_ok=True)
    return Project(folder)


def with_rows(project: Project, about: Dataset, rows: list[Row]) -> Project:
    dataset.add(project.data, about, rows)
    return project


def run(project: Project, *names: str) -> dict[str, dict[str, float]]:
    """Run stages in this process, one after another; their numbers."""
    found = {}
    for name in names:
        stage = STAGES[name].module
        found[name] = stage.run(project.section(name, stage.Config), project)
    return found
