"""The model as MLflow serves it. This file travels with each version, beside the code that samples it.

As a module it offers the model to MLflow; as a script it draws samples from the version that it lies in, in a process
of its own, so that a version made by older code is sampled by that code: `python -P served_model.py REQUEST.json`.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd


class ServedModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]  # untyped in MLflow
    """One row asked, one example given: its `label` for a conditional model, else any number as `sample`.

    Returns the examples as stored: uint8 (rows, *shape). `params` are the seed and the kind's Sampling.
    """

    def load_context(self, context: Any) -> None:
        from genpipe import sampling

        self.model = sampling.load(Path(context.artifacts["model"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> np.ndarray:
        from genpipe import generators, modalities, sampling
        from genpipe.config import parse

        chosen = dict(params or {})
        seed = int(chosen.pop("seed", 0))
        options = parse(generators.module_of(self.model).Sampling, chosen, "params")
        labels = model_input["label"].to_numpy(np.int64) if "label" in model_input else None
        drawn = sampling.draw(self.model, len(model_input), seed, options, labels=labels)
        return drawn[modalities.load(self.model.data.modality).CONTENT]


def answer(request: dict[str, Any]) -> None:
    """Draw what the request asks of the version in `model` and write it to `out` (.npy)."""
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    version = mlflow.pyfunc.load_model(request["model"])
    drawn = version.predict(pd.DataFrame(request["rows"]), params=request["params"])
    np.save(request["out"], drawn, allow_pickle=False)


if __name__ == "__main__":
    answer(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
else:
    mlflow.models.set_model(ServedModel())
