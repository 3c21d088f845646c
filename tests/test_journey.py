"""The whole way from nothing: a project for a folder of real pictures, deployed, scheduled, retrained, rolled back.

The tests follow the project as the team that owns it would; each finds what the one before left.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests import pictures, unattended
from tests.clones import Clone
from tests.unattended import Site

pytestmark = pytest.mark.slow
FEW, MORE = 750, 150  # pictures in the folder, and those that come later
STEPS = 30


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A Prefect server, and beside it a folder of pictures and the project that `genpipe init` made of it."""
    site = unattended.new(tmp_path_factory.mktemp("journey"))
    pictures.photographs(site.folder / "pictures", FEW)
    told = Clone(site.folder).run("genpipe", "init", "person", "--data", "pictures", "--name", "crops", env=site.env)
    assert "person is a project of the recipe images-folder" in told.stdout
    with site.served():
        yield site


@pytest.fixture(scope="module")
def team(site: Site) -> Clone:
    """The folder in which the team works, published with a remote and a schedule, and deployed."""
    team = unattended.person(site)
    params = yaml.safe_load((team.root / "params.yaml").read_text())
    team.params(
        train={**params["train"], "steps": STEPS, "pictures": 1},
        calibrate={"steps": 60},
        evaluate={"draws": 3},
    )
    team.run("dvc", "remote", "add", "--quiet", "--default", "store", str(site.folder / "store"), env=site.env)
    schedule(team)
    unattended.push(team, "few steps, a remote, a schedule")
    team.run("prefect", "work-pool", "create", "local", "--type", "process", env=site.env)
    team.run("prefect", "--no-prompt", "deploy", "--all", env=site.env)
    return team


@pytest.fixture(scope="module")
def worker(site: Site, team: Clone) -> Iterator[None]:
    with site.worked():
        yield


def schedule(team: Clone) -> None:
    """In place of the weekly schedule one that is due within a minute."""
    file = team.root / "prefect.yaml"
    content = yaml.safe_load(file.read_text())
    content["deployments"][0]["schedules"] = [{"slug": "soon", "interval": 60, "active": True}]
    file.write_text(yaml.safe_dump(content, sort_keys=False))


def aliases(site: Site) -> dict[str, int]:
    import mlflow

    found = mlflow.MlflowClient(site.env["MLFLOW_TRACKING_URI"]).get_registered_model("crops").aliases
    return {alias: int(number) for alias, number in found.items()}


def begun(site: Site, *, scheduled: bool) -> str:
    """The first run that has begun by a schedule, or by something else."""
    found: list[str] = []

    def find() -> list[str]:
        runs = [run for run in site.runs() if run["state"]["type"] != "SCHEDULED"]
        found[:] = [run["id"] for run in runs if run["auto_scheduled"] == scheduled]
        return found

    unattended.wait_for(find)
    return found[-1]


@pytest.mark.usefixtures("worker")
def test_the_schedule_starts_the_first_training_and_its_model_is_champion(site: Site, team: Clone) -> None:
    run = begun(site, scheduled=True)
    team.run("prefect", "deployment", "schedule", "pause", "--all", env=site.env)  # one is enough
    state = site.end_of(run)
    assert state["type"] == "COMPLETED", site.log(run)
    assert "crops version 1 (champion): promoted, as the first version" in state["message"]
    assert aliases(site) == {"champion": 1}


@pytest.mark.usefixtures("worker")
def test_pictures_that_come_later_are_learned_when_the_server_is_told(site: Site, team: Clone) -> None:
    pictures.photographs(site.folder / "pictures", MORE, first=FEW)
    team.run("genpipe", "notify-data", env=site.env)
    run = begun(site, scheduled=False)
    state = site.end_of(run)
    assert state["type"] == "COMPLETED", site.log(run)
    assert f"Because of new data: +{MORE} rows, {FEW + MORE} in all." in state["message"]
    assert aliases(site) in ({"champion": 2}, {"champion": 1, "challenger": 2})  # as the gate judged


def test_the_team_promotes_and_rolls_back(site: Site, team: Clone) -> None:
    if aliases(site)["champion"] != 2:
        team.run("genpipe", "promote", "2", "--why", "it knows more pictures", env=site.env)
    assert aliases(site)["champion"] == 2
    team.run("genpipe", "rollback", "--why", "to see whether it can be done", env=site.env)
    assert aliases(site)["champion"] == 1
    assert "to see whether it can be done" in team.run("genpipe", "history", env=site.env).stdout.replace("\n", " ")
    out = site.folder / "samples"
    team.run("genpipe", "sample", "models:/crops@champion", "-n", "4", "--out", str(out), env=site.env)
    assert len(list(out.glob("*.png"))) == 4


def test_the_team_takes_over_what_the_machine_made(site: Site, team: Clone) -> None:
    assert team.git("status", "--porcelain") == ""
    team.git("pull", "-q", "--no-rebase", "origin", "genpipe/results")
    team.run("dvc", "pull", env=site.env)
    assert json.loads(team.run("dvc", "status", "--json", env=site.env).stdout) == {}
    pending: dict[str, Any] = json.loads(team.run("genpipe", "pending", "--json", env=site.env).stdout)
    assert (pending["stages"], pending["register"], pending["reasons"]) == ([], False, [])


def test_nothing_that_the_team_keeps_lies_where_the_worker_stood(site: Site) -> None:
    assert list((site.folder / "empty").iterdir()) == []
    assert not (site.folder / "person" / "mlflow.db").exists()
