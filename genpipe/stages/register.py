"""register: make the trained and evaluated model a version in MLflow's registry, with all that belongs to it.

It stands after the DAG, since it acts on a server: whether it has work is asked of the registry, by digest.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from genpipe import code, tracking
from genpipe.config import Field, settings
from genpipe.data.dataset import Stored
from genpipe.errors import DataError
from genpipe.files import write_json
from genpipe.project import Project

EVALUATION = "genpipe.evaluation"


@settings
class Config:
    tags: dict[str, str] = Field(default_factory=dict, description="tags that each new version gets")


def run(cfg: Config, project: Project) -> dict[str, float]:
    """Log evaluation and model to the training's run, register a version, and note it in the project's state."""
    config, metrics = outputs(project)
    digest, evaluation = model_digest(project), file_digest(project.artifacts / "evaluate" / "metrics.json")
    version = tracking.find_version(project, digest)
    if version is None or version.tags.get(EVALUATION) != evaluation:
        training = training_of(project, config)
        tracking.log_evaluation(project, training.info.run_id, scores(metrics), project.artifacts / "evaluate")
        version = version or log_version(project, training.info.run_id, config)
    tags = {**cfg.tags, tracking.MODEL: digest, EVALUATION: evaluation, tracking.TRAINING: config["digest"]}
    alias = tracking.label_version(project, version, tags, card(project, config, metrics))
    link = tracking.run_link(project, version.run_id)
    noted = {"name": version.name, "version": int(version.version), "alias": alias, "model": digest, "run": link}
    write_json(project.state / "registered.json", noted)
    print(f"{version.name} version {version.version}, alias {alias}")
    return {"version": float(version.version)}
