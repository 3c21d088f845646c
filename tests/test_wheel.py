"""The package as others install it: a wheel in a folder of its own, used far from this repository on own pictures."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from tests.clones import ROOT, Clone, commit

pytestmark = pytest.mark.slow
SMALL = {
    "augment": {"test": 0.5, "prepare": {"size": 8, "colour": "grey"}},
    "calibrate": {"steps": 20},
    "evaluate": {"draws": 3},
}


class Installed(Clone):
    """A project of the package that is installed in the folder `package` beside it."""

    @property
    def package(self) -> Path:
        return self.root.parent / "package"

    @property
    def env(self) -> dict[str, str]:
        return super().env | {"PYTHONPATH": str(self.package)}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Made of noughts and ones by the installed command, with settings that make the run short."""
    home = tmp_path_factory.mktemp("far")
    project = Installed(home / "noughts")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    subprocess.run([*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", home, ROOT], check=True)
    (wheel,) = home.glob("genpipe-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", project.package, wheel], check=True)
    found = load_digits()
    for number, label in enumerate(found.target):
        if label < 2:
            file = home / "pictures" / ("nought", "one")[label] / f"{number:04}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((found.images[number] * 15).astype("uint8")).save(file)
    who = {f"GIT_{role}_{key}": "test@test" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    project.run("genpipe", "init", "noughts", "--data", "pictures", cwd=home, env=who)
    settings = yaml.safe_load((project.root / "params.yaml").read_text())
    project.params(**SMALL, train={**settings["train"], "steps": 20})
    commit(project, "a short run")
    return project


def test_code_recipes_suites_and_templates_are_in_the_wheel(project: Installed) -> None:
    script = "import genpipe, flows.pipeline, tasks.stages as s; print(genpipe.__file__, flows.__path__[0], s.__file__)"
    places = project.run(sys.executable, "-c", script, cwd=project.root.parent).stdout.split()
    assert [Path(place).is_relative_to(project.package) for place in places] == [True, True, True]
    assert (project.root / "suites" / "image.yaml").read_bytes() == (ROOT / "suites" / "image.yaml").read_bytes()
    files = [file for file in project.root.rglob("*") if file.is_file() and ".git" not in file.parts]
    assert not any(os.fsencode(project.package) in file.read_bytes() for file in files)


def test_a_run_from_elsewhere_makes_a_champion_and_dvc_has_nothing_left_to_do(project: Installed) -> None:
    away = project.root.parent
    project.run("genpipe", "stage", "ingest", "-C", "noughts", cwd=away)
    assert "Nothing has changed" not in project.run("genpipe", "run", "-C", "noughts", cwd=away).stdout
    registered = json.loads((project.root / ".genpipe" / "registered.json").read_text())
    assert (registered["name"], registered["version"], registered["alias"]) == ("noughts", 1, "champion")
    assert "up to date" in project.run("dvc", "repro").stdout
    assert "Nothing has changed" in project.run("genpipe", "run", "-C", "noughts/suites", cwd=away).stdout
    told = project.run("genpipe", "lineage", "champion").stdout
    assert f"commit {project.git('rev-parse', 'HEAD')[:12]}, all of it committed, genpipe 0." in told
    assert project.git("status", "--porcelain") == "?? data.dvc\n?? dvc.lock\n"


@pytest.fixture
def edited(project: Installed) -> Iterator[Path]:
    """The installed generators, as they were again afterwards."""
    folder = project.package / "genpipe" / "generators"
    before = {file: file.read_bytes() for file in folder.glob("*.py")}
    yield folder
    for file, content in before.items():
        file.write_bytes(content)


def edit(file: Path) -> None:
    file.write_text(file.read_text() + "# another release\n")


def test_another_installed_code_is_seen_by_dvc_and_recorded_by_a_run(project: Installed, edited: Path) -> None:
    edit(edited / "vae.py")
    assert "would run: train, evaluate, register." in project.run("genpipe", "run", "--dry-run").stdout
    assert "the code of train that is installed" in project.run("genpipe", "stage", "train", code=2).stderr
    assert "up to date" in project.run("dvc", "repro").stdout  # which goes by the record


def test_the_code_of_a_kind_that_is_not_chosen_has_nothing_run(project: Installed, edited: Path) -> None:
    edit(edited / "gan.py")
    assert "Nothing has changed" in project.run("genpipe", "run").stdout
    assert project.git("status", "--porcelain") == " M genpipe.yaml\n?? data.dvc\n?? dvc.lock\n"
