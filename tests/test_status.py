"""`genpipe status`: what it tells of real stores, locks and runs, and that looking changes nothing."""

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import mlflow
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from genpipe import cli, locks, sources
from genpipe.champion import ledger
from genpipe.champion.verdict import Verdict
from genpipe.errors import RegistryError, ServerError, StageError
from genpipe.files import write_json
from genpipe.project import Project
from genpipe.records import registry, tracking
from genpipe.stages import ingest
from genpipe.watching import journal
from genpipe.watching import status as looking
from genpipe.watching.status_shown import change_lines
from tests import projects
from tests.servers import serving
from tests.test_journal import killed_run

NAME = "genpipe"  # the default of mlflow.yml
SCORES = {"frechet_distance": 12.5, "low/frechet_distance": 11.0, "high/frechet_distance": 14.25, "recall": 0.75}
HOLDING = """
import sys
from pathlib import Path
from genpipe import locks
with locks.held(Path(sys.argv[1]), "genpipe run"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a training that ended, one that failed, and two versions: making the tables takes seconds."""
    project = projects.make(tmp_path_factory.mktemp("store"))
    place, client = tracking.connect(project), mlflow.MlflowClient()
    for name, state, step in (("gan-1", "FINISHED", 200), ("gan-2", "FAILED", 40)):
        tags = {tracking.TRAINING: name, tracking.REASON: f"{name} has diverged"}
        run = client.create_run(place, run_name=name, tags=tags).info.run_id
        client.log_param(run, "steps", 200)
        client.log_metric(run, "painter_loss", 1.5, step=step)
        client.log_metric(run, "system/cpu", 1.5, step=9000)
        client.set_terminated(run, state)
    finished = next(run for run in tracking.last_runs(project, 2) if run.info.run_name == "gan-1").info.run_id
    for key, value in SCORES.items():
        client.log_metric(finished, key, value)
    client.create_registered_model(NAME)
    for _ in range(2):
        client.create_model_version(NAME, "nowhere", run_id=finished)
    return project.root / "mlflow.db"


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal in which no path is broken into lines."""
    monkeypatch.setenv("COLUMNS", "250")


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    """A project under DVC in which nothing has run yet."""
    project = projects.make(tmp_path, ingest={"source": "digits"})
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q", "--no-scm"], cwd=tmp_path, check=True)
    return project


@pytest.fixture
def project(fresh: Project, store: Path) -> Project:
    shutil.copy(store, fresh.root / "mlflow.db")
    return fresh


def status(project: Project, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert cli.main(["status", "-C", str(project.root), *words]) == code
    return " ".join(capsys.readouterr().out.split())


def told(project: Project, capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(status(project, capsys, "--json", code=code))
    return found


@contextmanager
def held_elsewhere(file: Path) -> Iterator[int]:
    """A process that holds the lock, by its number."""
    command = [sys.executable, "-c", HOLDING, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        assert child.stdout.readline() == "held\n"
        yield child.pid
        child.communicate("")


def test_of_a_fresh_project_it_tells_that_there_is_nothing_and_makes_nothing(
    fresh: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file for file in fresh.root.rglob("*") if ".dvc" not in file.parts}
    found = told(fresh, capsys)
    assert found["champion"] == {"name": NAME, "version": None, "challenger": None}
    assert (found["runs"]["last"], found["trainings"]["last"], found["locks"]["held"]) == ([], [], [])
    assert found["changes"]["source"]
    page = status(fresh, capsys)
    for words in ("none of genpipe yet", "none yet; `genpipe run` begins one", "nobody", "no deployment is declared"):
        assert words in page
    assert {file for file in fresh.root.rglob("*") if ".dvc" not in file.parts} == before


FAR = """
import httpx
from genpipe.config import settings

@settings
class Config:
    url: str

def fingerprint(config, root):
    return httpx.get(config.url, timeout=None).text
"""


def test_a_source_that_does_not_answer_is_not_waited_for(
    fresh: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kinds").mkdir()
    (tmp_path / "kinds" / "far.py").write_text(FAR)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path / "kinds")])
    monkeypatch.setattr(ingest, "SOURCE_SECONDS", 0.3)
    ended = Event()
    with serving({"/rows": lambda _: ended.wait(60) and None}) as (address, _):
        (fresh.root / "params.yaml").write_text(f"ingest: {{source: {{kind: far, url: '{address}/rows'}}}}")
        for name, content in (("data.dvc", "{}"), (".genpipe/ingested.json", "{}")):
            (fresh.root / name).parent.mkdir(exist_ok=True)
            (fresh.root / name).write_text(content)
        found = looking.changes(Project(fresh.root))
        shown = status(fresh, capsys, code=1)
        ended.set()
    assert (found["source"], found["unknown"]) == (None, "the source did not answer in 0.3 s")
    assert "whether there are new rows is not known: the source did not answer in 0.3 s" in shown


def test_the_champion_has_its_age_its_maker_and_its_scores(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "init", "-q", project.root], check=True)
    subprocess.run(["git", "-C", project.root, "config", "user.name", "ada"], check=True)
    for number in (1, 2):
        version = registry.get_version(project, number)
        assert version
        ledger.promote(project, version, why=f"version {number} is sharper")
    found = told(project, capsys)["champion"]
    assert (found["version"], found["kind"], found["by"]) == (2, "promoted", "ada")
    assert found["why"] == "version 2 is sharper"
    frechet = {"value": 12.5, "low": 11.0, "high": 14.25}
    assert found["scores"] == {"frechet_distance": frechet, "recall": {"value": 0.75}}
    page = status(project, capsys)
    assert "genpipe version 2, promoted" in page
    assert re.search(r"\d+ seconds? ago by ada", page)
    assert "Fréchet distance 12.5 11 to 14.25" in page


def test_a_champion_that_was_made_in_mlflow_is_told_as_such_and_not_noted_by_looking(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.set_alias(project, ledger.CHAMPION, 2)
    assert "version 2, made champion outside of genpipe" in status(project, capsys)
    assert ledger.events(project) == []


def test_a_version_that_waits_for_a_commit_is_told_until_it_is_champion() -> None:
    nothing = {"at_work": False, "source": False, "stages": [], "champion": 1}
    waits, ready = ({"version": 2, "committed": committed} for committed in (False, True))
    (line,) = change_lines(nothing | {"held_back": waits})
    assert line == "version 2 passes the gate and waits for a commit: `git commit`, then `genpipe run`"
    (line,) = change_lines(nothing | {"held_back": ready})
    assert line == "register: version 2 waited for a commit, and all is committed now: `genpipe run`"
    for told in ({"held_back": None}, {"held_back": waits, "champion": 2}):  # promoted by hand, with --allow-dirty
        assert list(change_lines(nothing | told)) == ["nothing: source, data, settings and code are as they were"]


def test_what_the_gate_has_held_back_is_read_from_the_projects_note(fresh: Project) -> None:
    assert looking.held_back(fresh) is None
    verdict = Verdict("promoted", "better", (), ())
    noted = {"version": 2, "verdict": verdict.uncommitted("2").plain()}
    write_json(fresh.state / "registered.json", noted)
    assert looking.held_back(fresh) == {"version": 2, "committed": False}
    words = ("-c", "user.name=test", "-c", "user.email=test@example.invalid", "commit", "-qm", "all")
    for command in (("init", "-q"), ("add", "-A"), words):
        subprocess.run(["git", *command], cwd=fresh.root, check=True)
    assert looking.held_back(fresh) == {"version": 2, "committed": True}
    write_json(fresh.state / "registered.json", noted | {"verdict": verdict.plain()})
    assert looking.held_back(fresh) is None


def test_the_last_trainings_have_state_steps_and_the_reason_of_a_failure(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    failed, finished = told(project, capsys)["trainings"]["last"]
    assert (failed["name"], failed["state"], failed["done"], failed["steps"]) == ("gan-2", "FAILED", 40, 200)
    assert (failed["reason"], finished["reason"]) == ("gan-2 has diverged", None)
    assert "gan-2 FAILED" in status(project, capsys)
    assert "200 of 200 steps gan-2: gan-2 has diverged" in status(project, capsys)


def test_another_experiment_on_the_same_store_is_not_made(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (project.root / "mlflow.yml").write_text("tracking: {experiment: {name: other}}\n")
    assert told(project, capsys)["trainings"]["last"] == []
    assert mlflow.MlflowClient().get_experiment_by_name("other") is None


def test_a_failed_run_is_told_with_its_stage_cause_and_remedy(
    fresh: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StageError), journal.recorded(fresh, "genpipe run"), journal.stage(fresh, "augment"):
        raise StageError("dvc has [no] cache")
    page = status(fresh, capsys)
    assert "Last run failed in augment" in page
    assert f"cause: StageError: dvc has [no] cache remedy: {' '.join(StageError.remedy.split())}" in page


def test_the_id_and_the_page_of_a_run_can_be_copied_from_a_narrow_terminal(
    fresh: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    number = "dc0caf7a-f690-4147-813f-1b6f25fac0de"
    page = f"http://127.0.0.1:4200/runs/flow-run/{number}"
    with journal.recorded(fresh, "genpipe run", number, page):
        assert f"flow run: {number} {page}" in status(fresh, capsys)


def test_a_killed_run_ended_without_a_word_and_its_lock_is_nobodys(
    fresh: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    killed_run(fresh)
    (lock,) = told(fresh, capsys)["locks"]["held"]
    assert (lock["lock"], lock["purpose"], lock["alive"]) == ("pipeline", "genpipe run", False)
    page = status(fresh, capsys)
    assert "ended without a word in train" in page
    assert "was killed; its note stops no other run" in page
    with locks.held(fresh.lock("pipeline"), "the next run"):  # which is true
        assert told(fresh, capsys)["locks"]["held"][0]["alive"]


def test_a_run_killed_in_another_container_is_told_once_the_next_has_begun(
    fresh: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    killed_run(fresh, "a1b2c3")
    (lock,) = told(fresh, capsys)["locks"]["held"]
    assert (lock["host"], lock["alive"]) == ("a1b2c3", True)  # as far as anybody here can know
    with locks.held(fresh.lock("pipeline"), "genpipe run"), journal.recorded(fresh, "genpipe run"):
        now, before = told(fresh, capsys)["runs"]["last"]
        assert (now["outcome"], before["outcome"], before["failure"]["error"]) == ("running", "vanished", "Killed")
    assert "before: ended without a word" in status(fresh, capsys)


def test_runs_of_retraining_in_a_clone_on_this_machine_are_told_too(
    fresh: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = fresh.root / "home"
    monkeypatch.setenv("GENPIPE_HOME", str(home))
    clones = [projects.make(home / "workspaces" / name) for name in ("of-it", "of-another")]
    for place, origin in zip([fresh, *clones], ("http://host/it", "http://host/it", "http://host/other"), strict=True):
        subprocess.run(["git", "init", "-q", place.root], check=True)
        subprocess.run(["git", "-C", place.root, "remote", "add", "origin", origin], check=True)
    for place in clones:
        killed_run(place)
    (last,) = told(fresh, capsys)["runs"]["last"]
    assert (last["place"], last["outcome"]) == (str(clones[0].root), "vanished")
    assert f"in {clones[0].root}" in status(fresh, capsys)


def test_who_works_on_the_project_is_told_without_taking_the_lock(
    fresh: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    with held_elsewhere(fresh.lock("pipeline")) as number:
        (lock,) = told(fresh, capsys)["locks"]["held"]
        assert (lock["pid"], lock["alive"]) == (number, True)
        page = status(fresh, capsys)
    assert f"genpipe run, process {number}" in page
    assert "not asked while somebody works here" in page
    assert told(fresh, capsys)["locks"]["held"] == []


def test_a_store_that_does_not_answer_is_told_in_its_place_and_the_rest_is_shown(
    fresh: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_run(fresh)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    page = status(fresh, capsys, code=1)
    assert "Champion can't be told: the registry http://127.0.0.1:9 (mlflow.yml, MLFLOW_REGISTRY_URI) answered" in page
    assert f"remedy: {RegistryError.remedy}" in page
    assert "Trainings can't be told: the tracking store http://127.0.0.1:9" in page
    assert "ended without a word in train" in page


def test_a_database_of_another_mlflow_is_neither_opened_nor_migrated(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    file = project.root / "mlflow.db"
    with sqlite3.connect(file) as database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    database.close()
    before = file.read_bytes()
    assert "are of revision 451aebb31d03" in told(project, capsys, code=1)["champion"]["fault"]
    assert file.read_bytes() == before


def test_what_is_declared_is_told_where_no_server_is_named(fresh: Project, capsys: pytest.CaptureFixture[str]) -> None:
    schedule = '{slug: weekly, cron: "0 3 * * 1", timezone: UTC, active: false}'
    (fresh.root / "prefect.yaml").write_text(f"deployments: [{{name: digits, schedules: [{schedule}]}}]\n")
    page = status(fresh, capsys)
    assert "digits: weekly 0 3 * * 1 UTC (switched off); declared in prefect.yaml, no server named" in page


def test_a_prefect_server_that_does_not_answer_is_told(
    fresh: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://somebody:secret@127.0.0.1:9/api")
    monkeypatch.setenv("PREFECT_HOME", str(fresh.root / "prefect"))
    with temporary_settings({PREFECT_API_URL: "http://somebody:secret@127.0.0.1:9/api"}):  # read once a process
        found = told(fresh, capsys, code=1)
    assert "http://***@127.0.0.1:9/api (PREFECT_API_URL) does not answer" in found["schedule"]["fault"]
    assert found["schedule"]["remedy"] == ServerError.remedy
    assert found["champion"]["version"] is None
