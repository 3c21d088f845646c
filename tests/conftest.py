"""What several test files share: real digits as arrays, one thread for small tensors."""

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch reads it

import numpy as np
import pytest
import torch

from genpipe.data.arrays import ORIGIN, DataSpec, write_arrays
from genpipe.files import write_json


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)  # the tensors here are too small to share between cores


@pytest.fixture(autouse=True, scope="module")
def own_stores_of_module() -> None:
    """Comes before a module's own fixtures: they don't see the stores of the shell, nor of the module before."""
    forget_stores()


@pytest.fixture(autouse=True)
def own_stores() -> Iterator[None]:
    """Each test's project has stores of its own: MLflow writes those that it used last into the environment."""
    forget_stores()  # those of a fixture that was made for a whole module
    yield
    forget_stores()


def forget_stores() -> None:
    """From the environment, and from MLflow's own memory: a client that is told a tracking store asks that registry."""
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_registry_uri("")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the augment stage writes, made of scikit-learn's 1,797 digits: 1,257 / 180 / 360 examples."""
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("digits")
    found = load_digits()
    image = np.rint(found.images * 255 / 16).astype(np.uint8)[:, None]
    label = found.target.astype(np.int64)
    name = np.array([hashlib.sha256(pixels.tobytes()).hexdigest()[:32] for pixels in image])
    order = np.random.default_rng(0).permutation(len(image))
    for split, rows in zip(("train", "validation", "test"), np.split(order, [1257, 1437]), strict=True):
        write_arrays(folder / split, {"image": image[rows], "label": label[rows], "id": name[rows]})
    spec = DataSpec("image", (1, 8, 8), tuple("0123456789"))
    write_json(folder / "meta.json", {**spec.plain(), "augmentation": {}})
    write_json(folder / ORIGIN, {"name": "digits", "licence": "CC-BY-4.0", "citation": "Alpaydin", "source": "UCI"})
    return folder
