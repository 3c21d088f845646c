"""The open run of a training in MLflow: what it is told while it lasts, how it ends, and who ends it after a kill."""

import json
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath
from textwrap import shorten
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, RunTag
from PIL.Image import Image

from genpipe import __version__
from genpipe.errors import RegistryError, StageError
from genpipe.project import Project
from genpipe.records import membership, tracking
from genpipe.records.outbox import Outbox
from genpipe.records.tracking import DATASET, REASON, RESTORED, STATE, TRAINING, VERSION

BATCH = 900  # MLflow takes at most 1,000 metrics a call


class TrainingRun:
    """The open run of one training: points go out in batches, and none twice after a resume.

    What the store does not take, since it is restarted or locked, waits until it does; the training goes on.
    """

    def __init__(self, project: Project, run_id: str) -> None:
        self.client, self.run_id, self.project = mlflow.MlflowClient(), run_id, project
        run, patience = self.client.get_run(run_id), project.mlflow.tracking.patience_seconds
        self._last = {key: self._last_step(key) for key in run.data.metrics if not key.startswith("system/")}
        self._pictured = self._pictured_steps()
        self._points = Outbox(self._send_points, BATCH, patience)
        self._pictures = Outbox(self._send_picture, 1, patience)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values of a step; a point that the run holds already is left out."""
        now = int(time.time() * 1000)
        self._points.add(Metric(k, float(v), now, step) for k, v in values.items() if step > self._last.get(k, -1))

    def picture(self, step: int, image: Image) -> None:
        """Add a picture of samples; all of them are one slider over steps in MLflow's page."""
        if step not in self._pictured:
            self._pictured.add(step)
            self._pictures.add([(step, image)])

    def flush(self) -> None:
        """Send what waits, if the store takes it. Raises RegistryError when it has taken nothing for too long."""
        self._points.flush()
        if not self._points.waiting:
            self._pictures.flush()

    def drain(self) -> None:
        """Wait until all is sent. Raises RegistryError as `flush` does."""
        self._points.drain()
        self._pictures.drain()

    def _send_points(self, points: list[Metric]) -> None:
        with tracking.answered(self.project), tracking.few_retries():
            self.client.log_batch(self.run_id, metrics=points)

    def _send_picture(self, pictures: list[tuple[int, Image]]) -> None:
        with tracking.answered(self.project, OSError), tracking.few_retries():
            for step, image in pictures:
                self.client.log_image(self.run_id, image, key="samples", step=step)

    def _last_step(self, key: str) -> int:
        return max(point.step for point in self.client.get_metric_history(self.run_id, key))

    def _pictured_steps(self) -> set[int]:
        names = [PurePosixPath(file.path).name for file in self.client.list_artifacts(self.run_id, "images")]
        return {int(found[1]) for name in names if (found := re.match(r"samples\Wstep\W(\d+)\W", name))}


@contextmanager
def training_run(project: Project, digest: str, config: Mapping[str, Any], resumed: bool) -> Iterator[TrainingRun]:
    """Open the run of the training `digest`: the one that was interrupted, or a new one.

    A training that was resumed from its checkpoint goes on in its run even if that has FINISHED.

    It ends as FINISHED, as KILLED when the training was asked to stop, as FAILED on any other error.
    """
    experiment = tracking.connect(project)
    finished = ("FINISHED",) if resumed else ()
    found = tracking.find_run(project, digest, ("RUNNING", "KILLED", "FAILED", "SCHEDULED", *finished), own=True)
    end_abandoned(project, spared=found.info.run_id if found else None)
    with tracking.answered(project):
        active = mlflow.start_run(
            run_id=found.info.run_id if found else None,
            experiment_id=experiment,
            run_name=None if found else f"{config['generator']['kind']}-{digest[:8]}",
            tags={STATE: project.identity},
            log_system_metrics=True,
        )
    try:
        with tracking.answered(project):
            run = TrainingRun(project, active.info.run_id)
            if not found:
                describe_run(project, run, digest, config)
            elif REASON in found.data.tags:
                run.client.delete_tag(run.run_id, REASON)  # of an end that was none
            # Again in a resumed run, which may have died before.
            tracking.log_rows(project, run.run_id, membership.TRAINED)
        yield run
        run.drain()
    except BaseException as error:
        end_early(project, active.info.run_id, error)
        raise
    with tracking.answered(project):
        mlflow.end_run()


def end_early(project: Project, run_id: str, error: BaseException) -> None:
    """End the active run, with the reason. Where the store does not answer the next start of a training ends it."""
    status, reason = "KILLED" if isinstance(error, StageError) else "FAILED", str(error) or type(error).__name__
    try:
        with tracking.answered(project), tracking.few_retries():
            mlflow.end_run(status)
            mlflow.MlflowClient().set_tag(run_id, REASON, shorten(reason, 500))
    except RegistryError as unanswered:  # it must not hide `error`
        print(f"{unanswered}; the run {run_id} ends with the next start of a training", file=sys.stderr)


def end_abandoned(project: Project, spared: str | None = None) -> None:
    """End the runs that killed processes of this project have left as RUNNING, but for `spared`, which goes on.

    The caller holds the lock of the stages, so nobody trains here now. Runs of other projects, or of clones of this
    one, in the same store are left alone: they carry the name of another state (`Project.identity`).
    """
    query = f"tags.`{STATE}` = '{project.identity}' and attributes.status = 'RUNNING'"
    experiment, client = tracking.connect(project), mlflow.MlflowClient()
    with tracking.answered(project):
        for run in client.search_runs([experiment], query):
            if run.info.run_id != spared:
                tracking.close(client, run)


def describe_run(project: Project, run: TrainingRun, digest: str, config: Mapping[str, Any]) -> None:
    """Settings, data and code of a new run."""
    params = [Param(key, str(value)) for key, value in tracking.flat(config)]
    about = json.dumps(tracking.dataset_of(project), ensure_ascii=False)
    tags = {TRAINING: digest, VERSION: __version__, DATASET: about}
    tags |= {**tracking.code_state(project), **tracking.dvc_digests(project), **tracking.flow_link()}
    run.client.log_batch(run.run_id, params=params, tags=[RunTag(key, value) for key, value in tags.items()])
    mlflow.log_input(tracking.data_input(project), context="training")
    mlflow.log_dict(dict(config), "config.json")
    if uncommitted := tracking.difference(project):
        mlflow.log_text(uncommitted, "git.diff")


def restored_run(project: Project, digest: str, config: Mapping[str, Any], curves: list[dict[str, float]]) -> str:
    """The id of a run made from a training's outputs, for a store that has never seen it; tagged as restored."""
    name, tags = f"{config['generator']['kind']}-{digest[:8]}", {STATE: project.identity}
    with mlflow.start_run(experiment_id=tracking.connect(project), run_name=name, tags=tags) as active:
        run = TrainingRun(project, active.info.run_id)
        describe_run(project, run, digest, config)
        tracking.log_rows(project, run.run_id, membership.TRAINED)
        mlflow.set_tag(RESTORED, "true")
        for row in curves:
            run.log(int(row["step"]), {key: value for key, value in row.items() if key != "step" and value == value})
        run.drain()
    return str(run.run_id)
