"""Why a model would be made anew, what ends a retraining early, and who is told of new data."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.retraining import early_end
from genpipe import __version__, cli, dag, run
from genpipe.data.dataset import Dataset
from genpipe.project import Project
from genpipe.unattended import reasons
from genpipe.unattended.pending import Pending
from tests import projects
from tests.pictures import put

HOUR = timedelta(hours=1)
ABOUT = Dataset("own", "image", ("0", "1"), "CC0-1.0", "", "here")
VAE = {"generator": {"kind": "vae"}}
# As `dvc status --json` says it.
CHANGED: dict[str, list[Any]] = {
    "validate": [{"changed deps": {"data": "modified", "suites": "modified"}}],
    "train": [{"changed deps": {"genpipe/nn": "modified", "params.yaml": {"train": "modified"}}}],
    "evaluate": [{"changed outs": {"artifacts/evaluate/metrics.json": "deleted"}}],
}


def project_of(folder: Path, **train: Any) -> Project:
    """A project with three rows, whose dvc.lock tells of a training of 20 steps."""
    project = projects.make(folder, train=train)
    rows = [
        {"image": {"bytes": bytes([number]), "path": None}, "label": 0, "id": f"{number:032x}"} for number in range(3)
    ]
    projects.with_rows(project, ABOUT, rows)
    dag.refresh(project)
    locked = {"train": {"params": {"params.yaml": {"train": {"generator": {"kind": "gan"}, "steps": 20}}}}}
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": locked}))
    return project


def test_each_reason_is_told_in_words(tmp_path: Path) -> None:
    project = project_of(tmp_path, generator={"kind": "vae"}, steps=20, batch_size=8)
    last = {"genpipe.dataset": '{"rows": 1}'}
    assert list(reasons.reasons_of(project, CHANGED, last)) == [
        "new data: +2 rows, 3 in all",
        "settings: train.batch_size default → 8, train.generator.kind gan → vae",
        "the rules of validation (suites/)",
        "code: genpipe/nn",
    ]


def test_data_of_another_count_and_of_the_same_are_told_apart(tmp_path: Path) -> None:
    project = project_of(tmp_path)
    for known, told in (('{"rows": 5}', "new data: -2 rows, 3 in all"), ('{"rows": 3}', "other data: 3 rows")):
        assert reasons.data_reason(project, {"genpipe.dataset": known}) == told
    assert reasons.data_reason(project, {}) == "new data: 3 rows"


def test_lost_outputs_are_a_reason_and_so_is_the_first_run(tmp_path: Path) -> None:
    project = project_of(tmp_path, generator={"kind": "gan"}, steps=20)
    lost = {"evaluate": CHANGED["evaluate"]}
    assert list(reasons.reasons_of(project, lost, {})) == ["outputs are missing or not those of dvc.lock"]
    (tmp_path / "dvc.lock").unlink()
    assert list(reasons.reasons_of(project, CHANGED, {})) == ["the first run"]


def test_another_installed_genpipe_is_a_reason(tmp_path: Path) -> None:
    project = project_of(tmp_path, generator={"kind": "gan"}, steps=20)
    (tmp_path / "genpipe.yaml").write_text((tmp_path / "genpipe.yaml").read_text().replace("validate: ", "validate: 0"))
    assert list(reasons.reasons_of(project, {}, {})) == [f"code: another genpipe is installed ({__version__})"]


def test_many_changes_are_shortened() -> None:
    assert reasons.shortened([str(number) for number in range(9)]) == "0, 1, 2, 3, 4, 5 and 3 more"


def pending(*stages: str, trained: datetime | None = None, register: bool = True) -> Pending:
    return Pending(stages, register, ("new data: +2 rows, 3 in all",) if stages else (), trained)


def test_what_is_to_be_done_reads_as_it_was_written() -> None:
    for one in (pending(), pending("train", trained=datetime(2026, 11, 22, 10, 0, tzinfo=UTC))):
        assert Pending.of_json(one.json()) == one


def test_new_pictures_in_the_source_are_told_before_ingest_has_seen_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "photos", "a/1.png", "b/2.png")
    source = {"kind": "folder", "name": "flowers", "path": "photos"}
    project = projects.make(tmp_path, ingest={"source": source}, train=VAE)
    dag.dvc(project, "init", "--no-scm", "--quiet")
    projects.run(project, "ingest")
    for grown in (False, True):
        if grown:
            put(tmp_path / "photos", "a/1.png", "b/2.png", "b/3.png")
        capsys.readouterr()
        assert cli.main(["pending", "--json", "-C", str(tmp_path)]) == 0
        found = Pending.of_json(capsys.readouterr().out)
        assert found.source is grown
        assert ("ingest" in reasons.told(found)) is grown
        assert "ingest" not in found.stages  # by which a retraining goes, which has asked the source itself


def test_new_rows_go_through_every_stage_and_unknown_ones_are_said_to_be() -> None:
    idle = pending(register=False)
    assert reasons.told(idle).endswith("those of the registered model, and the source has no new rows.")
    every = "ingest, validate, augment, calibrate, train, evaluate, register"
    assert reasons.told(replace(idle, source=True)) == f"To be done: {every}. Why: the source may hold new rows."
    unknown = "whether there are new rows is not known: the source did not answer in 5 s."
    for known in (idle, pending("evaluate")):
        assert reasons.told(replace(known, source=None)).endswith(f"; {unknown}")


def test_the_dry_run_names_every_stage_that_it_measures(tmp_path: Path) -> None:
    project = projects.make(tmp_path, train=VAE)
    dag.dvc(project, "init", "--no-scm", "--quiet")
    (tmp_path / "dvc.yaml").write_text(dag.document(project))
    stages = run.plan(project, new=True)
    assert stages == ["ingest", "validate", "augment", "calibrate", "train", "evaluate", "register"]
    assert run.plan(project, new=False) == stages[1:]


def test_with_nothing_to_do_a_retraining_ends_as_unchanged() -> None:
    state = early_end(pending(register=False), cooldown_hours=0)
    assert state
    assert (state.name, state.is_completed()) == ("Unchanged", True)


def test_the_cooldown_counts_from_the_last_version_and_holds_back_trainings_alone() -> None:
    before = datetime.now(UTC) - 2 * HOUR
    state = early_end(pending("train", "evaluate", trained=before), cooldown_hours=3)
    assert state
    assert (state.name, state.is_completed()) == ("Cooldown", True)
    allowed = f"{before + 3 * HOUR:%Y-%m-%d %H:%M} UTC"
    assert f"not before {allowed} (cooldown_hours): new data: +2 rows" in str(state.message)
    assert early_end(pending("train", trained=before), cooldown_hours=1) is None
    assert early_end(pending("train"), cooldown_hours=3) is None  # the first training
    assert early_end(pending("evaluate", trained=before), cooldown_hours=3) is None
    assert early_end(pending(trained=before), cooldown_hours=3) is None  # a registration that failed


@pytest.mark.parametrize(
    ("server", "code", "told"),
    [
        ("", 2, "no Prefect server is named; set PREFECT_API_URL"),
        ("http://user:hunter2@127.0.0.1:9/api", 1, "the Prefect server http://***@127.0.0.1:9/api did not take the"),
    ],
)
def test_new_data_can_only_be_told_to_a_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], server: str, code: int, told: str
) -> None:
    project = projects.make(tmp_path / "project")
    with temporary_settings({PREFECT_API_URL: server, PREFECT_CLIENT_MAX_RETRIES: 0}):
        assert cli.main(["notify-data", "-C", str(project.root)]) == code
    said = capsys.readouterr().err
    assert told in said
    assert "hunter2" not in said
