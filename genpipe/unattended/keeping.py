"""Whether what a project keeps outlives a clone of it: runs, models, and what DVC stores."""

import configparser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from genpipe import dag
from genpipe.errors import ConfigError
from genpipe.project import Project, masked


def refuse_losable(project: Project, folder: Path) -> None:
    """Raises ConfigError unless data and runs are kept in places that outlive the clone in `folder`."""
    faults, settings = list[str](), project.mlflow
    places = {
        "the tracking store": (str(settings.server.mlflow_tracking_uri), "MLFLOW_TRACKING_URI"),
        "the model registry": (str(settings.server.mlflow_registry_uri), "MLFLOW_REGISTRY_URI"),
        "the place of runs' files": (settings.tracking.artifacts, "MLFLOW_DEFAULT_ARTIFACT_ROOT"),
    }
    if settings.server.mlflow_tracking_uri.startswith(("http", "databricks")):
        del places["the place of runs' files"]  # a server has its own
    for what, (uri, variable) in places.items():
        if lies_in(uri, project.root, folder):
            faults.append(
                f"{what} is relative ({masked(uri)}): it lies in a clone, and would be lost with it; "
                f"set {variable} on the worker, or an absolute place in mlflow.yml"
            )
    if fault := remote_fault(project):
        faults.append(fault)
    if faults:
        raise ConfigError(faults)


def lies_in(uri: str, root: Path, folder: Path) -> bool:
    """Whether a URI names a place of the file system in `folder`; a relative one is meant from `root`."""
    path = uri.removeprefix("sqlite:///") if uri.startswith("sqlite:///") else unquote(urlsplit(uri).path)
    return urlsplit(uri).scheme in ("", "file", "sqlite") and (root / path).resolve().is_relative_to(folder)


def remote_fault(project: Project) -> str | None:
    """What is wrong with DVC's default remote for a clone; None if nothing is.

    Read from the file itself: DVC makes a relative place absolute, in each clone another.
    """
    name = dag.default_remote(project)
    if name is None:
        return (
            "DVC has no default remote, so that data and models would stay in the clone; `dvc remote add --default "
            "store s3://bucket/project` (or an absolute folder that the worker sees), commit .dvc/config, and `dvc "
            "push`"
        )
    config = configparser.RawConfigParser()
    config.read(project.root / ".dvc" / "config", encoding="utf-8")
    url = config.get(f"'remote \"{name}\"'", "url", fallback="")
    if url and not urlsplit(url).scheme and not Path(url).is_absolute():
        return (
            f"DVC's remote '{name}' is the relative folder {url}, which in the clone is another one; `dvc remote "
            f"modify {name} url` with an absolute place that the worker sees, too, and commit .dvc/config"
        )
    return None
