"""Training runs in MLflow. With recording.py, registry.py and served_model.py the only modules that import mlflow.

A training is found by its digest (of configuration, data and code), kept as the tag `genpipe.training` of its run.
"""

import json
import logging
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK", "true")  # they are pinned here; the check asks an index
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "5")

import mlflow
import yaml
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]  # made at run time
from mlflow.entities import Experiment, Metric, RunTag
from mlflow.entities import Run as Run
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from genpipe import dag
from genpipe.data.dataset import Stored
from genpipe.errors import RegistryError
from genpipe.project import Project, masked
from genpipe.records import membership, stores
from genpipe.unattended.pending import WHY

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)

TRAINING, RESTORED, VALIDATION = "genpipe.training", "genpipe.restored", "genpipe.validation"
REASON = "genpipe.reason"  # why a run that is FAILED or KILLED ended
# Of data: what they are, the digest over rows, and DVC's over files.
DATASET, ROWS, FILES = "genpipe.dataset", "genpipe.data", "genpipe.dvc.data"
STATE = "genpipe.state"  # `Project.identity` of whoever has the run's checkpoints
REOPENED = "genpipe.reopened"  # how and when a run had ended that is open again for a moment
NOTE = "mlflow.note.content"  # the description that a run's page shows
# DIRTY: whether anything was not in that commit; VERSION: of genpipe, whose code a commit holds or an installation.
COMMIT, DIRTY, VERSION = "mlflow.source.git.commit", "genpipe.dirty", "genpipe.version"
ORIGIN = (TRAINING, DATASET, ROWS, FILES, COMMIT, DIRTY, VERSION)
TRAININGS = {"mlflow.experimentKind": "custom_model_development"}  # MLflow's pages show trainings, not chats, of it
SHOWING_DATA = {"evaluation/neighbours.png", "evaluation/report.html"}
EXISTS, RETRIES = "RESOURCE_ALREADY_EXISTS", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"  # as MLflow calls them
SETTINGS = ("suites", "params.yaml", "dvc.yaml", "mlflow.yml", "pyproject.toml", "requirements.txt")
CODE = ("genpipe", "flows", "tasks", *SETTINGS)


def connect(project: Project) -> str:
    """Point MLflow at the project's stores; returns the id of its experiment, which is made if need be."""
    point(project)
    with answered(project):
        for uri in stores.uris(project):
            stores.make(uri, lambda empty: mlflow.MlflowClient(empty, empty).search_experiments(max_results=1))
        found = experiment_of(project)
    if found.lifecycle_stage == "deleted":
        raise RegistryError(
            f"the experiment '{found.name}' has been deleted in {masked(stores.uris(project)[0])}; restore it there "
            f"(`mlflow experiments restore -x {found.experiment_id}`), or name another (mlflow.yml)"
        )
    return str(found.experiment_id)


def point(project: Project) -> None:
    """Have MLflow's clients ask the project's stores; nothing is made there."""
    server = project.mlflow.server
    mlflow.set_tracking_uri(server.mlflow_tracking_uri)
    mlflow.set_registry_uri(server.mlflow_registry_uri or server.mlflow_tracking_uri)


def experiment_of(project: Project) -> Experiment:
    """The project's experiment; it is made if need be, by this process or by another one in the same moment."""
    client, settings = mlflow.MlflowClient(), project.mlflow
    name, uri = settings.tracking.experiment.name, settings.server.mlflow_tracking_uri
    if found := client.get_experiment_by_name(name):
        return found
    server = uri.startswith(("http", "databricks"))  # which has a place of its own
    try:
        client.create_experiment(name, None if server else settings.tracking.artifacts, TRAININGS)
    except MlflowException as error:
        if error.error_code != EXISTS:
            raise
    return experiment_of(project)


@contextmanager
def answered(project: Project, *also: type[Exception]) -> Iterator[None]:
    """What fails with the store of runs becomes a RegistryError that names it; so do errors of the kinds `also`."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, (MlflowException, *also)):
            raise
        uri = masked(project.mlflow.server.mlflow_tracking_uri)
        raise RegistryError(
            f"the tracking store {uri} can't be used (mlflow.yml, MLFLOW_TRACKING_URI): {error}"
        ) from error


@contextmanager
def few_retries() -> Iterator[None]:
    """MLflow asks a server that does not answer again for seconds, not for minutes: a training waits for each try."""
    before = os.environ.get(RETRIES)
    os.environ[RETRIES] = "2"
    try:
        yield
    finally:
        os.environ.pop(RETRIES) if before is None else os.environ.update({RETRIES: before})


def find_run(project: Project, digest: str, states: tuple[str, ...], *, own: bool = False) -> Run | None:
    """The latest run of the training `digest` in one of `states`; with `own`, of this project's state only."""
    runs = mlflow.MlflowClient().search_runs(
        [connect(project)], f"tags.`{TRAINING}` = '{digest}'", order_by=["attributes.start_time DESC"]
    )
    mine = [run for run in runs if not own or run.data.tags.get(STATE, project.identity) == project.identity]
    return next((run for run in mine if run.info.status in states), None)


def training_runs(project: Project) -> list[Run]:
    """Every run of a training, newest first."""
    client, place = mlflow.MlflowClient(), [connect(project)]
    query, newest = f"tags.`{TRAINING}` LIKE '%'", ["attributes.start_time DESC"]
    found = client.search_runs(place, query, order_by=newest)
    runs = list(found)
    while found.token:
        found = client.search_runs(place, query, order_by=newest, page_token=found.token)
        runs += found
    return runs


def last_runs(project: Project, count: int) -> list[Run]:
    """The newest runs of trainings, asked for without making the experiment. Raises RegistryError."""
    point(project)
    query, newest = f"tags.`{TRAINING}` LIKE '%'", ["attributes.start_time DESC"]
    with answered(project):
        client = mlflow.MlflowClient()
        place = client.get_experiment_by_name(project.mlflow.tracking.experiment.name)
        return list(
            client.search_runs([place.experiment_id], query, order_by=newest, max_results=count) if place else []
        )


def steps_done(run: Run) -> int:
    """The last step of which a run holds a figure."""
    points = run.data.to_proto().metrics
    return max((point.step for point in points if not point.key.startswith("system/")), default=0)


def run_origin(project: Project, run_id: str | None) -> dict[str, str]:
    """Those tags ORIGIN that a run has; none where the run has been deleted for good."""
    run = found_run(project, run_id)
    return {tag: run.data.tags[tag] for tag in ORIGIN if tag in run.data.tags} if run else {}


def found_run(project: Project, run_id: str | None) -> Run | None:
    """The run of this id; None where it has been deleted for good."""
    point(project)
    with answered(project):
        try:
            return mlflow.get_run(run_id) if run_id else None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None


def run_link(project: Project, run_id: str) -> str:
    """The run's page; empty where the run has been deleted for good."""
    run = found_run(project, run_id)
    return page(project, f"experiments/{run.info.experiment_id}/runs/{run_id}") if run else ""


def page(project: Project, place: str) -> str:
    """A page on the tracking server, or where `genpipe ui` shows it."""
    uri, ui = project.mlflow.server.mlflow_tracking_uri, project.mlflow.ui
    base = masked(uri).replace("***@", "").rstrip("/") if uri.startswith("http") else f"http://{ui.host}:{ui.port}"
    return f"{base}/#/{place}"


def flat(config: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value, for each leaf of nested settings."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", value


def data_input(project: Project) -> MetaDataset:
    """The raw data as MLflow's dataset, by the digest under which DVC keeps them."""
    (out,) = yaml.safe_load((project.root / "data.dvc").read_text(encoding="utf-8"))["outs"]
    name = next(project.data.glob("*/dataset.yaml")).parent.name
    return MetaDataset(  # type: ignore[abstract]  # by MLflow's own documentation
        source=LocalArtifactDatasetSource(project.data.as_uri()), name=name, digest=out["md5"]
    )


def dataset_of(project: Project) -> dict[str, Any]:
    """What the raw data are, for whoever asks a model what it was made from."""
    stored = Stored.find(project.data)
    about = stored.about
    return {
        "name": about.name, "modality": about.modality, "rows": stored.rows,
        "licence": about.licence, "citation": about.citation, "source": about.source,
    }  # fmt: skip


def dvc_digests(project: Project) -> dict[str, str]:
    """A tag for the raw data's rows, and with DVC's digest for the raw data and each output that training reads."""
    named = yaml.safe_load((project.root / "data.dvc").read_text(encoding="utf-8"))
    rows = {ROWS: named["meta"]["rows"]} if "meta" in named else {}
    lock = project.root / "dvc.lock"
    stages = yaml.safe_load(lock.read_text(encoding="utf-8"))["stages"] if lock.exists() else {}
    outs = stages.get("augment", {}).get("outs", [])
    return {**rows, FILES: named["outs"][0]["md5"], **{f"genpipe.dvc.{out['path']}": out["md5"] for out in outs}}


def code_state(project: Project) -> dict[str, str]:
    """The commit, and whether code or settings were not committed; nothing outside git.

    The version of the data and DVC's record of outputs change by running, and have tags of their own; notes, tests and
    documents have no part in a training.
    """
    commit = git(project, "rev-parse", "HEAD").strip()
    if not commit:
        return {}
    changed = git(project, "status", "--porcelain", "--untracked-files=no", "--", *written_by_hand(project))
    return {COMMIT: commit, DIRTY: json.dumps(bool(changed or untracked(project)))}


def difference(project: Project) -> str:
    """What is not committed: changes of files that git knows, and whole files of code that it does not."""
    files = {name: (project.root / name).read_text(encoding="utf-8", errors="replace") for name in untracked(project)}
    return git(project, "diff", "HEAD") + "".join(f"untracked file {name}:\n{text}\n" for name, text in files.items())


def untracked(project: Project) -> list[str]:
    """Files of code, and settings, that git neither knows nor ignores."""
    return git(project, "ls-files", "--others", "--exclude-standard", "--", *written_by_hand(project)).splitlines()


def written_by_hand(project: Project) -> list[str]:
    """Those of CODE that a person has to commit: a dvc.yaml that is as genpipe prints it follows from the others."""
    printed = (project.root / "dvc.yaml").read_text(encoding="utf-8") == dag.document(project)
    return [name for name in CODE if not (printed and name == "dvc.yaml")]


def git(project: Project, *words: str) -> str:
    """What a git command prints; empty outside a repository or without git."""
    try:
        done = subprocess.run(["git", *words], cwd=project.root, capture_output=True, check=False)
    except FileNotFoundError:
        return ""
    return "" if done.returncode else done.stdout.decode(errors="replace")


def flow_link() -> dict[str, str]:
    """The Prefect flow run that this process works for, and why it trains; its tasks pass both on by environment."""
    names = {"GENPIPE_FLOW_RUN_ID": "genpipe.flow_run", "GENPIPE_FLOW_RUN_URL": "genpipe.flow_run_url"}
    names |= {WHY: "genpipe.why"}
    return {tag: os.environ[name] for name, tag in names.items() if os.environ.get(name)}


def log_evaluation(project: Project, run_id: str, metrics: Mapping[str, float], folder: Path, text: str) -> None:
    """Add scores, report and pictures of a folder of evaluation to the run of the training, and describe it."""
    connect(project)
    client, now = mlflow.MlflowClient(), int(time.time() * 1000)
    note = RunTag(NOTE, text)
    client.log_batch(run_id, metrics=[Metric(key, value, now, 0) for key, value in metrics.items()], tags=[note])
    for file in sorted(folder.glob("*.*")):
        client.log_artifact(run_id, str(file), "evaluation")
    log_rows(project, run_id, membership.MEASURED)


def log_validation(project: Project, run_id: str, folder: Path, pages: Mapping[str, Path]) -> None:
    """Add to a run what validation found of its data, and the pages that show it, by their titles."""
    connect(project)
    client, found = mlflow.MlflowClient(), json.loads((folder / "result.json").read_text(encoding="utf-8"))
    client.log_artifact(run_id, str(folder / "result.json"), "validation")
    for title, page in pages.items():
        client.log_text(run_id, page.read_text(encoding="utf-8"), f"validation/{title}.html")
    told = f"{found['decision']}: {found['quarantined']} of {found['rows']} rows quarantined"
    client.set_tag(run_id, VALIDATION, "; ".join([told, *(f"validation/{title}.html" for title in pages)]))


def log_rows(project: Project, run_id: str, name: str) -> None:
    """Add to a run the ids of the rows that it knows: one of the tables of membership.py."""
    with membership.written(project.artifacts / "augment", name) as file:
        mlflow.MlflowClient().log_artifact(run_id, str(file), membership.FOLDER)


def rows_of(run: Run, keys: Sequence[bytes]) -> dict[bytes, str] | None:
    """Those of `keys` that a run knows, each with its split; None for a run that carries no record of them."""
    client = mlflow.MlflowClient()
    names = [file.path for file in client.list_artifacts(run.info.run_id, membership.FOLDER)]
    with TemporaryDirectory() as folder:
        files = [Path(client.download_artifacts(run.info.run_id, name, folder)) for name in names]
        known = [membership.found(file, keys) for file in files]
    return dict(pair for one in known for pair in one.items()) if known else None


def delete_pictures_of_data(run_id: str) -> None:
    """Delete what a run keeps of its evaluation that shows training examples."""
    client = mlflow.MlflowClient()
    files = {file.path for file in client.list_artifacts(run_id, "evaluation")}
    store = get_artifact_repository(client.get_run(run_id).info.artifact_uri)
    for file in sorted(files & SHOWING_DATA):
        store.delete_artifacts(file)  # type: ignore[no-untyped-call]


def log_figures(project: Project, run_id: str, values: Mapping[str, float]) -> None:
    """Add single values to a run that has ended."""
    connect(project)
    now = int(time.time() * 1000)
    mlflow.MlflowClient().log_batch(run_id, metrics=[Metric(key, value, now, 0) for key, value in values.items()])


@contextmanager
def reopened(run_id: str) -> Iterator[None]:
    """Make a run that has ended the active one; afterwards, and after a failure, it ends as it did and when it did.

    A tag says how that was, for whoever finds the run open after a kill.
    """
    client, before = mlflow.MlflowClient(), mlflow.get_run(run_id).info
    client.set_tag(run_id, REOPENED, f"{before.status} {before.end_time or ''}".strip())
    try:
        with mlflow.start_run(run_id=run_id):
            yield
    finally:
        close(client, client.get_run(run_id))


def close(client: mlflow.MlflowClient, run: Run) -> None:
    """End a run that a process has left open: as KILLED, or as it had ended before it was opened again."""
    run_id, before = run.info.run_id, run.data.tags.get(REOPENED)
    status, _, ended = (before or "KILLED").partition(" ")
    client.set_terminated(run_id, status, int(ended) if ended else None)
    if before:
        client.delete_tag(run_id, REOPENED)
    else:
        client.set_tag(run_id, REASON, "its process was killed")
