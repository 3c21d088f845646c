"""Versions and aliases in MLflow's model registry.

A model is found by the digest of its files, kept as the tag `genpipe.model` of its version.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities import LifecycleStage, Run
from mlflow.entities.model_registry import ModelVersion as ModelVersion
from mlflow.entities.model_registry import RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.models.signature import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

from genpipe.errors import RegistryError
from genpipe.project import Project, masked
from genpipe.records.tracking import COMMIT, EXISTS, NOTE, ORIGIN, ROWS, connect, found_run, point, reopened, run_origin

MODEL, CODE = "genpipe.model", "genpipe.code"  # tags of a version: digests of its files, and of the code it carries
EVALUATION, EVALUATOR = "genpipe.evaluation", "genpipe.evaluator"  # digests of its scores and of what scored it
SERVED = Path(__file__).with_name("served_model.py")
REQUIREMENTS = ("mlflow", "torch", "numpy", "pandas", "pillow", "pydantic", "safetensors")  # what sampling imports
ABSENT, ABSENT_ALIAS = "RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"  # as MLflow calls them
TYPES = {bool: "boolean", int: "long", float: "double", str: "string"}


def digest_of(*files: Path) -> str:
    """SHA-256 over the contents of files, by which versions know them."""
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def find_version(project: Project, digest: str) -> ModelVersion | None:
    """The version of the project's registered model whose files have this digest."""
    query = f"name = '{project.mlflow.registry.name}' and tags.`{MODEL}` = '{digest}'"
    with client_of(project) as client:
        return next(iter(client.search_model_versions(query)), None)


def log_version(
    project: Project, run_id: str, model: Path, code: Path, signature: ModelSignature, tags: Mapping[str, str]
) -> ModelVersion:
    """Log the model of folder `model` with the source folder `code` to the run, and register it as a new version.

    It has its `tags` from the first moment: a second try after a failure finds it by them. Raises RegistryError when a
    store refuses it.
    """
    with client_of(project) as client:
        with reopened(run_id):
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(SERVED),
                artifacts={"model": str(model)},
                code_paths=[str(code)],
                pip_requirements=[f"{name}=={metadata.version(name)}" for name in REQUIREMENTS],
                signature=signature,
                input_example=pd.DataFrame({column: [0, 1, 2] for column in signature.inputs.input_names()}),
            )
        name, uri = project.mlflow.registry.name, logged.model_uri
        if not client.search_registered_models(f"name = '{name}'"):
            make_model(client, name)
        return client.create_model_version(name, uri, run_id=run_id, model_id=logged.model_id, tags=dict(tags))


def make_model(client: mlflow.MlflowClient, name: str) -> None:
    """Make a registered model, unless another project does so in the same moment."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != EXISTS:
            raise


def signature(takes: tuple[str, ...], params: Mapping[str, Any], shape: tuple[int, ...], dtype: str) -> ModelSignature:
    """A whole number a sample in (its label, or else any), arrays of `shape` out, `params` with defaults."""
    inputs = Schema([ColSpec("long", name) for name in takes or ("sample",)])
    outputs = Schema([TensorSpec(np.dtype(dtype), (-1, *shape))])
    return ModelSignature(
        inputs, outputs, ParamSchema([ParamSpec(key, TYPES[type(v)], v) for key, v in params.items()])
    )


def describe_version(project: Project, version: ModelVersion, tags: Mapping[str, str], text: str) -> None:
    """Put a description and tags on a version. Its run, if it is still there, gets the description too."""
    run = found_run(project, version.run_id)
    with client_of(project) as client:
        now = client.get_model_version(version.name, version.version)  # its tags as they are now
        linked = f"{text}\n\n{links(now, run)}"
        client.update_model_version(version.name, version.version, linked)
        if run and run.info.lifecycle_stage == LifecycleStage.ACTIVE:  # MLflow changes no run that was deleted
            client.set_tag(run.info.run_id, NOTE, linked)
        for key, value in tags.items():
            client.set_model_version_tag(version.name, version.version, key, value)


def links(version: ModelVersion, run: Run | None) -> str:
    """What a version was made from, in Markdown; pages are named without a host, so that they hold on any server."""
    number = version.version
    data, commit = (version.tags.get(tag, "not known")[:12] for tag in (ROWS, COMMIT))
    page = f"[this training](#/experiments/{run.info.experiment_id}/runs/{run.info.run_id})" if run else ""
    return (
        f"[Version {number}](#/models/{version.name}/versions/{number}) of "
        f"{page or 'a training whose run has been deleted'}, data `{data}`, commit `{commit}`. "
        f"`genpipe lineage {number}` tells more."
    )


def download(project: Project, uri: str) -> Path:
    """The folder of a registered model (`models:/NAME@champion`). Raises RegistryError when there is none."""
    connect(project)
    try:
        return Path(mlflow.artifacts.download_artifacts(uri))
    except MlflowException as error:
        own = uri.startswith(tuple(f"models:/{project.mlflow.registry.name}{sign}" for sign in "@/"))
        if own and error.error_code in (ABSENT, ABSENT_ALIAS):
            resolve(project, uri)  # says which versions and aliases there are
        registry = masked(str(project.mlflow.server.mlflow_registry_uri))
        raise RegistryError(f"'{uri}' is not in the registry {registry}: {error}") from error


@contextmanager
def client_of(project: Project) -> Iterator[mlflow.MlflowClient]:
    """A client of the project's stores; what fails with it becomes a RegistryError that names the registry."""
    point(project)
    try:
        yield mlflow.MlflowClient()
    except MlflowException as error:
        uri = masked(str(project.mlflow.server.mlflow_registry_uri))
        raise RegistryError(f"the registry {uri} (mlflow.yml, MLFLOW_REGISTRY_URI) answered: {error}") from error


def registered_model(project: Project) -> RegisteredModel | None:
    """All versions together, as MLflow calls them; None before the first."""
    with client_of(project) as client:
        try:
            return client.get_registered_model(project.mlflow.registry.name)
        except MlflowException as error:
            if error.error_code != ABSENT:
                raise
            return None


def tags_and_aliases(project: Project) -> tuple[dict[str, str], dict[str, int]]:
    """The tags of the registered model, and alias → number of its version, both of one moment."""
    model = registered_model(project)
    if model is None:
        return {}, {}
    return dict(model.tags), {alias: int(number) for alias, number in model.aliases.items()}


def aliases(project: Project) -> dict[str, int]:
    """Alias → number of its version."""
    return tags_and_aliases(project)[1]


def versions(project: Project) -> list[ModelVersion]:
    """Every version that has not been deleted, newest first; without their aliases, which a search does not tell."""
    query = f"name = '{project.mlflow.registry.name}'"
    with client_of(project) as client:
        page = client.search_model_versions(query)
        found = list(page)
        while page.token:
            page = client.search_model_versions(query, page_token=page.token)
            found += page
    return sorted(found, key=lambda version: int(version.version), reverse=True)


def get_version(project: Project, number: int) -> ModelVersion | None:
    """The version of this number, with its aliases; None when there is none, or none any more."""
    with client_of(project) as client:
        try:
            return client.get_model_version(project.mlflow.registry.name, str(number))
        except MlflowException as error:
            if error.error_code != ABSENT:
                raise
            return None


def resolve(project: Project, word: str) -> ModelVersion:
    """The version that a number, an alias or a URI (`models:/NAME/3`, `models:/NAME@champion`) names.

    Raises RegistryError when there is none.
    """
    name, known = project.mlflow.registry.name, aliases(project)
    short = re.sub(rf"^models:/{re.escape(name)}[@/]", "", word)
    number = int(short) if short.isdecimal() else known.get(short)
    version = None if number is None else get_version(project, number)
    if version is None:
        numbers = ", ".join(str(one.version) for one in versions(project)) or "none"
        raise RegistryError(
            f"'{word}' is no version of {name}; versions: {numbers}; aliases: {', '.join(sorted(known)) or 'none'}"
        )
    return version


def origin(project: Project, version: ModelVersion) -> dict[str, str]:
    """From what a version was made: the tags ORIGIN of its run, where they are known, and those that it has itself."""
    own = {tag: version.tags[tag] for tag in ORIGIN if tag in version.tags}
    return own if len(own) == len(ORIGIN) else {**run_origin(project, version.run_id), **own}


def set_alias(project: Project, alias: str, number: int) -> None:
    """Move an alias: one transaction, which happens or does not."""
    with client_of(project) as client:
        client.set_registered_model_alias(project.mlflow.registry.name, alias, str(number))


def delete_alias(project: Project, alias: str) -> None:
    """Take an alias away."""
    with client_of(project) as client:
        client.delete_registered_model_alias(project.mlflow.registry.name, alias)


def set_tag(project: Project, key: str, value: str) -> None:
    """Tag the registered model."""
    with client_of(project) as client:
        client.set_registered_model_tag(project.mlflow.registry.name, key, value)


def delete_tag(project: Project, key: str) -> None:
    """Take a tag of the registered model away."""
    with client_of(project) as client:
        client.delete_registered_model_tag(project.mlflow.registry.name, key)


def tag_version(project: Project, number: int, tags: Mapping[str, str]) -> None:
    """Tag one version."""
    with client_of(project) as client:
        for key, value in tags.items():
            client.set_model_version_tag(project.mlflow.registry.name, str(number), key, value)


def untag_version(project: Project, number: int, key: str) -> None:
    """Take a tag of one version away."""
    with client_of(project) as client:
        client.delete_model_version_tag(project.mlflow.registry.name, str(number), key)
