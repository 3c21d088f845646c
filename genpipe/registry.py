"""Versions and aliases in MLflow's model registry.

A model is found by the digest of its files, kept as the tag `genpipe.model` of its version.
"""

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities.model_registry import ModelVersion as ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models.signature import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

from genpipe.errors import RegistryError
from genpipe.project import Project
from genpipe.tracking import connect, reopened

MODEL = "genpipe.model"
REQUIREMENTS = ("mlflow", "torch", "numpy", "pandas", "pillow", "pydantic", "safetensors")  # what sampling imports
TYPES = {bool: "boolean", int: "long", float: "double", str: "string"}


def find_version(project: Project, digest: str) -> ModelVersion | None:
    """The version of the project's registered model whose files have this digest."""
    connect(project)
    query = f"name = '{project.mlflow.registry.name}' and tags.`{MODEL}` = '{digest}'"
    return next(iter(mlflow.MlflowClient().search_model_versions(query)), None)


def log_version(
    project: Project, run_id: str, model: Path, code: Path, signature: ModelSignature, tags: Mapping[str, str]
) -> ModelVersion:
    """Log the model of folder `model` with the source folder `code` to the run, and register it as a new version.

    It has its `tags` from the first moment: a second try after a failure finds it by them.
    """
    connect(project)
    with reopened(run_id):
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={"model": str(model)},
            code_paths=[str(code)],
            pip_requirements=[f"{name}=={metadata.version(name)}" for name in REQUIREMENTS],
            signature=signature,
            input_example=pd.DataFrame({column: [0, 1, 2] for column in signature.inputs.input_names()}),
        )
    client, name = mlflow.MlflowClient(), project.mlflow.registry.name
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    return client.create_model_version(name, logged.model_uri, run_id=run_id, model_id=logged.model_id, tags=dict(tags))


def signature(takes: tuple[str, ...], params: Mapping[str, Any], shape: tuple[int, ...], dtype: str) -> ModelSignature:
    """A whole number a sample in (its label, or else any), arrays of `shape` out, `params` with defaults."""
    inputs = Schema([ColSpec("long", name) for name in takes or ("sample",)])
    outputs = Schema([TensorSpec(np.dtype(dtype), (-1, *shape))])
    return ModelSignature(
        inputs, outputs, ParamSchema([ParamSpec(key, TYPES[type(v)], v) for key, v in params.items()])
    )


def give_alias(version: ModelVersion) -> None:
    """The first version is `champion`; a later one `challenger`, until somebody promotes it."""
    client = mlflow.MlflowClient()
    champion = client.get_registered_model(version.name).aliases.get("champion")
    alias = "champion" if champion in (None, version.version) else "challenger"
    client.set_registered_model_alias(version.name, alias, version.version)


def describe_version(version: ModelVersion, tags: Mapping[str, str], text: str) -> None:
    """Put a description and tags on a version."""
    client = mlflow.MlflowClient()
    client.update_model_version(version.name, version.version, text)
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, key, value)


def aliases_of(version: ModelVersion) -> list[str]:
    """The aliases that a version has now; a search does not tell them."""
    return list(mlflow.MlflowClient().get_model_version(version.name, version.version).aliases)


def download(project: Project, uri: str) -> Path:
    """The folder of a registered model (`models:/NAME@champion`). Raises RegistryError when there is none."""
    connect(project)
    try:
        return Path(mlflow.artifacts.download_artifacts(uri))
    except MlflowException as error:
        registry = project.mlflow.server.mlflow_registry_uri
        raise RegistryError(f"'{uri}' is not in the registry {registry}: {error}") from error
