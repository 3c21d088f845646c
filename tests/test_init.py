"""New projects: what `genpipe init` writes and refuses, and that it leaves nothing half made."""

import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from genpipe import PACKAGE, cli, dag, installed
from genpipe.errors import ConfigError, DataError, FormatError
from genpipe.init import init, recipes
from genpipe.project import Project
from genpipe.records import tracking
from genpipe.stages import DAG, check
from tests.pictures import put

FILES = {".dvc", ".dvcignore", ".git", ".gitignore", "README.md", "dvc.yaml", "genpipe.yaml", "mlflow.yml"}
FILES |= {"automations.yaml", "params.yaml", "prefect.yaml", "suites"}


@pytest.fixture(autouse=True)
def committer(monkeypatch: pytest.MonkeyPatch) -> None:
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "test")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "test@example.invalid")


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_a_project_is_whole_committed_and_right(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["init", str(tmp_path / "new" / "Letters & digits")]) == 0
    project = Project(tmp_path / "new" / "Letters & digits")
    assert names(project.root) == FILES
    assert names(project.root.parent) == {project.root.name}
    assert capsys.readouterr().out.splitlines()[1] == f"Next: cd '{project.root}' && genpipe run"
    assert project.mlflow.registry.name == project.mlflow.tracking.experiment.name == "Letters-digits"
    assert check(project)["train"].generator.kind == "gan"
    assert git(project.root, "log", "--format=%s") == "A project of the recipe digits-gan\n"
    assert git(project.root, "status", "--porcelain") == ""
    assert dag.dvc(project, "config", "core.analytics") == "false\n"
    (deployment,) = yaml.safe_load((project.root / "prefect.yaml").read_text())["deployments"]
    assert deployment["name"] == "Letters-digits"
    assert len((project.root / "README.md").read_text().splitlines()) == 10
    assert "[[" not in "".join(file.read_text() for file in project.root.iterdir() if file.is_file())
    assert stat.S_IMODE(project.root.stat().st_mode) == stat.S_IMODE(project.root.parent.stat().st_mode)


def test_dvc_depends_on_the_record_of_the_code_and_on_no_file_of_it(tmp_path: Path) -> None:
    project = init(tmp_path / "new")
    stages = yaml.safe_load((project.root / "dvc.yaml").read_text())["stages"]
    assert stages["validate"]["params"] == ["validate", {"genpipe.yaml": ["code.validate"]}]
    assert not any(dep.startswith("genpipe") for stage in stages.values() for dep in stage["deps"])
    assert dag.changed(project) == sorted(stage.name for stage in DAG)


def test_pictures_in_sub_folders_are_made_by_class_and_others_without(tmp_path: Path) -> None:
    put(tmp_path / "classes", "a/1.png", "a/2.png", "b/3.png")
    put(tmp_path / "plain", "1.png", "2.png")
    for folder, conditional in (("classes", True), ("plain", False)):
        project = init(tmp_path / f"of-{folder}", data=tmp_path / folder)
        settings = check(project)
        assert settings["ingest"].source.config.path == str(tmp_path / folder)
        assert settings["ingest"].source.config.name == f"of-{folder}"
        assert settings["train"].generator.config.conditional is conditional
        text = (project.root / "params.yaml").read_text()
        assert "# the middle square, resized" in text
        assert "# Use:" not in text


def test_in_a_repository_the_project_becomes_a_part_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    git(tmp_path, "init", "-q")
    put(tmp_path / "pictures", "1.png")
    project = init(tmp_path / "work" / "faces", data=tmp_path / "pictures")
    assert names(project.root) == FILES - {".git"}
    assert f"It lies in the git repository {tmp_path}" in capsys.readouterr().out
    staged = git(tmp_path, "diff", "--cached", "--name-only").splitlines()
    assert {name.split("/")[2] for name in staged} == FILES - {".git"}
    assert check(project)["ingest"].source.config.path == "../../pictures"  # so that a clone finds it, too
    assert "validate" in dag.changed(project)  # DVC takes it for a project of its own


def test_an_ignored_folder_of_a_repository_is_one_of_its_own(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("/projects/\n")
    assert names(init(tmp_path / "projects" / "one").root) == FILES


def test_a_folder_that_is_there_stays_the_same_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone may stand in it: a folder put in its place would leave that shell nowhere."""
    git(tmp_path, "init", "-q")
    monkeypatch.chdir(tmp_path)
    before = tmp_path.stat().st_ino
    init(Path())
    assert tmp_path.stat().st_ino == Path().stat().st_ino == before
    assert names(tmp_path) == FILES


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"recipe": "digits"}, "there is no recipe 'digits'; known recipes: digits-gan, digits-vae"),
        ({"recipe": "images-folder"}, "is for pictures of your own; name their folder: --data FOLDER"),
        ({"recipe": "digits-vae", "data": Path("pictures")}, "has data of its own; for --data take the recipe"),
        ({"data": Path("nowhere")}, "nowhere is absent; --data names a folder"),
        ({"data": Path("pictures/1.png")}, "1.png is a file; --data names a folder"),
        ({"name": "a/b"}, "the name 'a/b' must be of letters"),
    ],
)
def test_what_can_not_be_is_refused_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], told: str
) -> None:
    put(tmp_path / "pictures", "1.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=told):
        init(Path("new"), **options)
    assert names(tmp_path) == {"pictures"}


def test_what_is_in_the_way_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.md").write_text("mine")
    assert cli.main(["init", str(tmp_path)]) == 2
    assert "is not empty (it holds notes.md); name a folder that is absent or empty" in capsys.readouterr().err
    assert cli.main(["init", str(tmp_path / "notes.md")]) == 2
    assert names(tmp_path) == {"notes.md"}


def test_data_without_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    with pytest.raises(DataError, match="holds no file"):
        init(tmp_path / "new", data=tmp_path / "pictures")
    assert names(tmp_path) == {"pictures"}


def test_a_commit_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook of the user's own refuses it."""
    hook = tmp_path / "hooks" / "pre-commit"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\necho no such commits >&2\nexit 1\n")
    hook.chmod(0o755)
    for key, value in {"COUNT": "1", "KEY_0": "core.hooksPath", "VALUE_0": str(hook.parent)}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{key}", value)
    with pytest.raises(ConfigError, match="git commit failed: no such commits"):
        init(tmp_path / "new")
    assert names(tmp_path) == {"hooks"}


def test_every_recipe_makes_a_project(tmp_path: Path) -> None:
    pictures = put(tmp_path / "pictures", "1.png")
    for file in recipes():
        own = yaml.safe_load(file.read_text())["ingest"]["source"]
        data = pictures if isinstance(own, dict) and own["kind"] == "folder" else None
        settings = check(init(tmp_path / file.stem, file.stem, data))
        asked = yaml.safe_load(file.read_text())["train"]
        assert (settings["train"].generator.kind, settings["train"].steps) == (
            asked["generator"]["kind"],
            asked["steps"],
        )


def test_a_stage_whose_code_is_not_the_recorded_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = init(tmp_path / "new")
    file = project.root / installed.FILE
    content = yaml.safe_load(file.read_text())
    content["code"]["validate"] = "that of another genpipe"
    file.write_text(yaml.safe_dump(content))
    assert installed.changed(project) == ["validate"]
    assert cli.main(["stage", "validate", "-C", str(project.root)]) == 2
    assert "is not the one that genpipe.yaml names; `genpipe run` brings that up to date" in capsys.readouterr().err
    installed.refresh(Project(project.root))
    assert installed.changed(project) == []
    assert yaml.safe_load(file.read_text())["code"]["validate"] != "that of another genpipe"


def test_a_project_of_a_newer_genpipe_is_refused(tmp_path: Path) -> None:
    project = init(tmp_path / "new")
    (project.root / installed.FILE).write_text("format: 2\ncode: {}\n")
    with pytest.raises(FormatError, match=r"genpipe.yaml is of format 2, made by a newer genpipe; .* upgrade it"):
        dag.refresh(project)


def test_stages_of_another_genpipe_are_printed_anew_and_those_of_others_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = init(tmp_path / "new")
    file = project.root / "dvc.yaml"
    content = yaml.safe_load(file.read_text())
    own = {"cmd": "python upload.py", "deps": ["artifacts/evaluate/report.html"]}
    content["stages"] |= {"upload": own, "polish": {"cmd": "genpipe stage polish"}}
    content["stages"]["train"]["deps"] = ["artifacts/augment"]
    file.write_text(yaml.safe_dump({**content, "artifacts": {"model": {"path": "artifacts/train"}}}))
    assert dag.outdated(project) == {"train", "polish"}
    dag.refresh(project)
    assert "dvc.yaml has the stages of the installed genpipe now; commit it" in capsys.readouterr().out
    after = yaml.safe_load(file.read_text())
    assert after["stages"] == yaml.safe_load(dag.document(project))["stages"] | {"upload": own}
    assert after["artifacts"] == {"model": {"path": "artifacts/train"}}
    assert dag.outdated(project) == set()


def test_what_genpipe_keeps_up_to_date_is_no_uncommitted_work(tmp_path: Path) -> None:
    project = init(tmp_path / "new")
    for name in (installed.FILE, "dvc.yaml"):  # as an older genpipe would have written them
        (project.root / name).write_text("stages: {}\n" if name == "dvc.yaml" else "format: 1\ncode: {}\n")
    git(project.root, "commit", "-aqm", "older")
    assert dag.outdated(project) == {stage.name for stage in DAG}
    dag.refresh(project)
    assert git(project.root, "status", "--porcelain") == " M dvc.yaml\n M genpipe.yaml\n"
    assert tracking.code_state(project)[tracking.DIRTY] == "false"
    (project.root / "dvc.yaml").write_text(dag.document(project) + "plots: []\n")
    assert tracking.code_state(project)[tracking.DIRTY] == "true"


@pytest.mark.parametrize("file", ["prefect.yaml", "automations.yaml"])
def test_a_project_is_deployed_as_this_repository_is(tmp_path: Path, file: str) -> None:
    project = init(tmp_path / "new", name="digits")
    assert (project.root / file).read_text() == (PACKAGE.parent / file).read_text()
