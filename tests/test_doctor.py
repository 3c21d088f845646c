"""`genpipe doctor`: what is amiss is found for real, told with its remedy, and left as it is."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from packaging.requirements import Requirement
from prefect.settings import PREFECT_API_URL, temporary_settings

from genpipe import cli, dag, processes, rwlock
from genpipe.errors import RemoteError, StageError
from genpipe.project import Project
from genpipe.records import tracking
from genpipe.watching.doctor import Finding, carried_out, environment
from genpipe.watching.doctor import project as checks
from tests import projects, waiting
from tests.clones import GIT
from tests.test_journal import killed_run

DVC = (sys.executable, "-m", "dvc")


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project under git and DVC, with data and all of it committed; tests work in copies."""
    folder = tmp_path_factory.mktemp("ready") / "project"
    project = projects.make(folder, train={"generator": {"kind": "gan"}})
    run(project, "git", "init", "-q")
    run(project, *DVC, "init", "-q")
    (folder / "data").mkdir()
    (folder / "data" / "row").write_text("1")
    run(project, *DVC, "add", "-q", "data")
    run(project, "git", "add", ".")
    run(project, *GIT, "commit", "-qm", "all")
    return folder


@pytest.fixture
def project(ready: Path, tmp_path: Path) -> Project:
    return Project(Path(shutil.copytree(ready, tmp_path / "project")))


def run(project: Project, *words: str) -> None:
    subprocess.run(words, cwd=project.root, check=True, capture_output=True)


def examined(folder: Path, capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, list[Finding]]:
    """What the command finds, by what it is about."""
    capsys.readouterr()
    assert cli.main(["doctor", "--json", "-C", str(folder)]) == code
    found: dict[str, list[Finding]] = {}
    for content in json.loads(capsys.readouterr().out):
        found.setdefault(content["about"], []).append(Finding(**content))
    return found


def one(findings: "list[Finding] | object") -> Finding:
    (finding,) = list(findings)  # type: ignore[call-overload]
    assert bool(finding.remedy) == (finding.state != "ok")
    return finding


def test_outside_a_project_the_environment_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = examined(tmp_path, capsys)
    assert set(found) >= {"Python", "packages", "git", "dvc", "CPU", "threads", "project"}
    assert "only the environment was looked at" in one(found["project"]).text
    assert "MLflow" not in found
    assert list(tmp_path.iterdir()) == []


def test_a_sound_project_has_nothing_wrong_and_nothing_is_made_by_looking(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file for file in project.root.rglob("*") if ".dvc" not in file.parts}
    found = examined(project.root, capsys)
    states = {about: {finding.state for finding in findings} for about, findings in found.items()}
    assert {about for about, several in states.items() if several != {"ok"}} == {"remote"}
    assert one(found["MLflow"]).text.endswith("mlflow.db is made by the first run")
    assert {file for file in project.root.rglob("*") if ".dvc" not in file.parts} == before


def test_what_is_amiss_is_told_last_with_its_remedy_and_counted(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    content = yaml.safe_load((project.root / "params.yaml").read_text()) | {"train": {"generator": {"kind": "vaa"}}}
    (project.root / "params.yaml").write_text(yaml.safe_dump(content))
    assert cli.main(["doctor", "-C", str(project.root)]) == 1
    *_, fault, remedy, counts = capsys.readouterr().out.strip().splitlines()
    assert "wrong    settings" in fault
    assert "'vaa'" in fault
    assert "remedy: correct the keys that are named" in remedy
    assert counts.strip().endswith("1 wrong")


# The environment


def installed(folder: Path, name: str, version: str, *lines: str) -> None:
    """Metadata of a package, as an installation leaves them."""
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir()
    content = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines, ""]
    (place / "METADATA").write_text("\n".join(content))


def test_an_unfit_and_an_absent_package_are_told_with_the_reason_of_the_pin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("fastapi<0.151,>=0.150", "no-such-package>=1", "rich>=14", "mypy>=2; extra == 'dev'")
    installed(tmp_path, "genpipe", "9.0", "Requires-Python: >=4", *(f"Requires-Dist: {line}" for line in asked))
    installed(tmp_path, "fastapi", "0.155.2")
    monkeypatch.syspath_prepend(tmp_path)
    unfit, absent, rest = environment.packages()
    assert unfit.text.startswith("0.155.2 is installed, and genpipe asks for fastapi<0.151,>=0.150: with others")
    assert unfit.remedy == "pip install 'fastapi<0.151,>=0.150'"
    assert (absent.about, absent.state) == ("no-such-package", "wrong")
    assert rest.text.startswith("1 of the 3 that genpipe asks for fit")
    assert one(environment.python()).state == "wrong"


def test_a_version_between_two_releases_counts_by_its_number() -> None:
    assert environment.unlike(Requirement("rich>=14")) == ""
    assert environment.unlike(Requirement("rich<14")).endswith("is installed")


def test_a_broken_package_is_a_finding_and_stops_no_other_check(project: Project, tmp_path: Path) -> None:
    broken = tmp_path / "broken" / "torch"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('libcudart.so.13 is missing')\n")
    env = os.environ | {"PYTHONPATH": f"{broken.parent}{os.pathsep}{Path(cli.__file__).parents[1]}"}
    command = [sys.executable, "-m", "genpipe", "doctor", "--json", "-C", str(project.root)]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    found = {content["about"]: content for content in json.loads(done.stdout)}
    assert "libcudart.so.13 is missing" in found["device"]["text"]
    assert found["threads"]["state"] == "ok"


def test_a_missing_program_and_a_failing_one_are_wrong() -> None:
    assert environment.tool("git", ["no-such-git"], "install git").state == "wrong"
    assert environment.tool("git", ["git", "no-such-word"], "install git").state == "wrong"


def test_threads_that_spin_or_outnumber_the_cores_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    assert [finding.state for finding in environment.threads()] == ["warning", "warning"]


# The project


def test_every_fault_of_the_settings_is_a_finding(project: Project) -> None:
    (project.root / "params.yaml").write_text("ingest: {source: digits}\ntrain: {steps: -5}\n")
    (project.root / "mlflow.yml").write_text("registry: {nam: x}\n")
    found = list(checks.settings(project))
    assert {finding.state for finding in found} == {"wrong"}
    assert any("train.generator.kind is missing" in finding.text for finding in found)
    assert any("mlflow.yml" in finding.text for finding in found)


def test_uncommitted_settings_and_a_folder_without_git_are_told(project: Project, tmp_path: Path) -> None:
    assert [finding.state for finding in checks.versioned(project)] == ["ok", "ok"]
    (project.root / "params.yaml").write_text("train: {}\n")
    git, _ = checks.versioned(project)
    assert "not committed" in git.text
    bare = projects.make(tmp_path / "bare")
    git, dvc = checks.versioned(bare)
    assert (git.state, dvc.state) == ("warning", "wrong")


def test_a_project_of_another_user_is_told(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own way to try this
    git, _ = checks.versioned(project)
    assert (git.state, git.remedy) == ("wrong", "work in a clone of your own")
    assert f"{project.root} belongs to user" in git.text


def test_a_remote_that_does_not_answer_is_wrong(project: Project) -> None:
    run(project, *DVC, "remote", "add", "-q", "--default", "store", "http://127.0.0.1:9")
    found = list(carried_out("remote", partial(checks.remote, project)))
    assert ("wrong", RemoteError.remedy) in [(finding.state, finding.remedy) for finding in found]
    assert "DVC's remote 'store' (http://127.0.0.1:9) does not answer" in " ".join(finding.text for finding in found)


def test_a_remote_is_none_then_absent_then_empty_then_whole(project: Project, tmp_path: Path) -> None:
    assert "no default remote" in one(checks.remote(project)).text
    store = tmp_path / "store"
    run(project, *DVC, "remote", "add", "-q", "--default", "store", str(store))
    assert "is not there" in one(checks.remote(project)).text
    store.mkdir()
    assert (one(checks.remote(project)).state, one(checks.remote(project)).remedy) == ("warning", "dvc push")
    run(project, *DVC, "push", "-q")
    assert one(checks.remote(project)).state == "ok"


def test_a_relative_remote_is_told(project: Project) -> None:
    run(project, *DVC, "remote", "add", "-q", "--default", "store", "../store")
    relative, _ = checks.remote(project)
    assert "is the relative folder ../../store" in relative.text


def test_what_a_killed_run_leaves_is_told(project: Project) -> None:
    assert one(checks.locked(project)).state == "ok"
    killed_run(project)
    lock, last = checks.locked(project)
    assert "pipeline" in lock.text
    assert "was killed" in lock.text
    assert "ended without a word in train" in last.text


def rwlock_of(project: Project, number: int) -> Path:
    file = project.root / ".dvc" / "tmp" / "rwlock"
    entry = {"pid": number, "cmd": "dvc repro"}
    file.write_text(json.dumps({"read": {}, "write": {str(project.root / "out"): entry}}))
    return file


def test_dvc_drops_the_entries_of_a_process_that_is_gone_by_itself(project: Project) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    rwlock_of(project, gone.pid)
    found = next(checks.locked(project))
    assert (found.state, "was killed" in found.text) == ("ok", True)
    make_out(project)


def test_dvc_waits_in_vain_for_another_process_of_the_same_number_until_a_run_frees_it(project: Project) -> None:
    file = rwlock_of(project, os.getpid())
    found = next(checks.locked(project))
    assert (found.state, found.remedy) == ("warning", f"`genpipe run` frees it; before DVC by hand: rm {file}")
    with pytest.raises(StageError, match="busy"):
        make_out(project)
    rwlock.forget_dead_holders(project)  # as every run does first
    make_out(project)


def test_a_dvc_at_work_keeps_its_entries(project: Project) -> None:
    (project.root / "dvc.yaml").write_text("stages: {wait: {cmd: touch begun; sleep 60, outs: [out]}}\n")
    with subprocess.Popen([*dag.DVC, "repro", "--quiet"], cwd=project.root, start_new_session=True) as child:
        try:
            waiting.until((project.root / "begun").exists, "the stage")
            rwlock.forget_dead_holders(project)
            found = next(checks.locked(project))
            assert (found.state, found.text) == ("ok", f"process {child.pid} is at work")
        finally:
            processes.end_group(child)


def test_a_list_of_holders_that_a_kill_has_cut_off_is_told_until_a_run_frees_it(project: Project) -> None:
    file = rwlock_of(project, os.getpid())
    file.write_text(file.read_text()[:20])
    found = next(checks.locked(project))
    assert (found.state, "cut off" in found.text) == ("warning", True)
    rwlock.forget_dead_holders(project)
    make_out(project)


def make_out(project: Project) -> None:
    (project.root / "dvc.yaml").write_text("stages: {write: {cmd: echo 1 > out, outs: [out]}}\n")
    dag.dvc(project, "repro")


def test_a_disk_with_less_room_than_the_project_takes_is_told(project: Project) -> None:
    assert {finding.state for finding in checks.disk(project)} == {"ok"}
    with (project.data / "row").open("wb") as file:
        file.truncate(shutil.disk_usage(project.root).free + 2**30)  # it has this size and takes no room
    assert "warning" in {finding.state for finding in checks.disk(project)}


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device that is asked for is there")
def test_a_device_that_is_not_there_is_wrong(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert "on cpu in" in one(checks.training(project)).text
    (project.root / "params.yaml").write_text("train: {generator: {kind: gan}, device: cuda}\n")
    found = one(carried_out("training", lambda: checks.training(Project(project.root))))
    assert (found.state, "devices of this machine" in found.text) == ("wrong", True)


# The stores


def test_a_database_of_another_mlflow_is_wrong_and_left_as_it_is(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    tracking.connect(project)
    assert "its tables are those of the installed MLflow" in one(examined(project.root, capsys)["MLflow"]).text
    file = project.root / "mlflow.db"
    with sqlite3.connect(file) as database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    database.close()
    before = file.read_bytes()
    found = one(examined(project.root, capsys, code=1)["MLflow"])
    assert (found.state, "are of revision 451aebb31d03" in found.text) == ("wrong", True)
    assert file.read_bytes() == before


def test_servers_that_do_not_answer_are_wrong(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("PREFECT_API_URL", "http://somebody:secret@127.0.0.1:9/api")
    monkeypatch.setenv("PREFECT_HOME", str(project.root / "prefect"))
    with temporary_settings({PREFECT_API_URL: "http://somebody:secret@127.0.0.1:9/api"}):  # read once a process
        found = examined(project.root, capsys, code=1)
    assert (one(found["MLflow"]).state, one(found["Prefect"]).state) == ("wrong", "wrong")
    assert "the Prefect server http://***@127.0.0.1:9/api (PREFECT_API_URL)" in one(found["Prefect"]).text
    assert "secret" not in str(found)
