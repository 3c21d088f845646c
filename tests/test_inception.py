"""Inception features from local weights: as many as promised, of a digest of their own, and told how to be had."""

import io
import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from genpipe.data.arrays import DataSpec, write_arrays
from genpipe.errors import DataError
from genpipe.evaluation import cards
from genpipe.evaluation.bench import Bench, Seen
from genpipe.evaluation.evaluator import CARD, WEIGHTS, Evaluator
from genpipe.files import write_json
from genpipe.nn import inception
from genpipe.project import Project
from genpipe.stages import calibrate, evaluate

INCEPTION = calibrate.Config(extractor="inception", weights="inception.safetensors", steps=1, batch_size=2)


class Untrained(FeatureExtractorInceptionV3):
    """torch-fidelity's network with the weights that its layers start with, made larger so that signals get through."""

    def load_state_dict(self, *_: object) -> None:
        for name, weight in self.named_parameters():
            if name.endswith("conv.weight"):
                weight.mul_(6**0.5)


def random_weights(seed: int) -> dict[str, torch.Tensor]:
    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        return dict(Untrained("inception", ["2048"], empty).state_dict())


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    save_file(random_weights(0), file)
    return file


@pytest.fixture
def project(digits: Path, weights: Path, tmp_path: Path) -> Project:
    """A few digits, prepared, and the weights beside them."""
    for split in ("train", "validation", "test"):
        columns = {name: np.load(digits / split / f"{name}.npy")[:4] for name in ("image", "label")}
        write_arrays(tmp_path / "artifacts" / "augment" / split, columns)
    shutil.copy(digits / "meta.json", tmp_path / "artifacts" / "augment")
    shutil.copy(weights, tmp_path)
    return Project(tmp_path)


def test_features_are_2048_finite_and_of_the_card_that_names_them(project: Project) -> None:
    assert 0 <= calibrate.run(INCEPTION, project)["accuracy"] <= 1
    (project.root / "inception.safetensors").unlink()  # the evaluator keeps its weights itself
    evaluator = Evaluator.load(project.artifacts / "calibrate")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 1, 8, 8), np.uint8)
    features = evaluator.features(pixels)
    assert features.shape == (2, 2048)
    assert np.isfinite(features).all()
    assert not np.allclose(features[0], features[1])
    assert np.array_equal(evaluator.features(pixels.repeat(3, 1)), features)  # grey is the colour grey
    card = json.loads((project.artifacts / "calibrate" / CARD).read_text())
    assert card["about"].startswith("features of Inception v3 of 2015, by torch-fidelity 0.4.")
    assert "resized to 299 × 299, bilinear" in card["about"]
    assert card["settings"]["extractor"] == "inception"
    calibrate.run(INCEPTION, project)  # kept: no weights are asked for


def test_the_features_are_those_of_torch_fidelity(weights: Path) -> None:
    given = load_file(weights)
    pixels = torch.randint(0, 256, (2, 3, 16, 20), dtype=torch.uint8)
    found = inception.Inception(given, classes=0).features(pixels / 127.5 - 1)
    assert torch.equal(found, inception.network(given)(pixels)[0])


def test_other_weights_are_another_evaluator_whose_figures_are_refused(project: Project) -> None:
    unlabelled = DataSpec("image", (1, 8, 8))
    write_json(project.artifacts / "augment" / "meta.json", unlabelled.plain())
    assert calibrate.run(INCEPTION, project) == {}  # nothing is fitted, so nothing is right or wrong
    first = Evaluator.load(project.artifacts / "calibrate")
    save_file(random_weights(1), project.root / "other.safetensors")
    calibrate.run(replace(INCEPTION, weights="other.safetensors"), project)
    other = Evaluator.load(project.artifacts / "calibrate")
    assert not other.classifies
    (line,) = cards.differences({"evaluator_digest": first.digest}, {"evaluator_digest": other.digest})
    assert line == f"evaluator_digest: {first.digest[:12]}… against {other.digest[:12]}…"


@pytest.mark.parametrize("named", ["", "nowhere.safetensors"])
def test_absent_weights_are_told_with_address_command_and_key(project: Project, named: str) -> None:
    with pytest.raises(DataError) as caught:
        calibrate.run(replace(INCEPTION, weights=named), project)
    told = str(caught.value)
    assert (repr(named) if named else "it needs weights") in told
    for part in ('pip install "torch-fidelity', f"curl -LO {inception.PUBLISHED}", "set calibrate.weights: inception"):
        assert part in told


def test_the_command_that_makes_the_file_does(tmp_path: Path) -> None:
    published = inception.PUBLISHED.rpartition("/")[2]
    torch.save({"fc.bias": torch.arange(3.0)}, tmp_path / published)
    (line,) = (line for line in inception.REMEDY.splitlines() if "python -c" in line)
    subprocess.run([sys.executable, *shlex.split(line)[1:]], cwd=tmp_path, check=True)
    assert load_file(tmp_path / "inception.safetensors")["fc.bias"].tolist() == [0, 1, 2]


def test_files_that_hold_no_such_weights_are_told(project: Project) -> None:
    torch.save({"fc.bias": torch.zeros(3)}, project.root / "pickled.pth")
    with pytest.raises(DataError, match=r"'pickled\.pth', and it is no safetensors file"):
        calibrate.run(replace(INCEPTION, weights="pickled.pth"), project)
    save_file({"fc.bias": torch.zeros(3)}, project.root / "other.safetensors")
    with pytest.raises(DataError, match="not those of torch-fidelity's Inception v3"):
        calibrate.run(replace(INCEPTION, weights="other.safetensors"), project)


def test_an_absent_package_is_told_with_the_command(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)  # as if not installed
    with pytest.raises(DataError, match=r"torch-fidelity is not installed.*\n  pip install"):
        calibrate.run(INCEPTION, project)


def test_the_frechet_distance_wants_more_examples_than_features(project: Project) -> None:
    evaluator = Evaluator(DataSpec("image", (1, 8, 8)), torch.nn.Identity(), "", "inception")
    seen = Seen(np.zeros((400, 1, 8, 8), np.uint8), np.zeros((400, 2048)))
    told = r"a draw has 200 examples and the scores need 2,049 .*2,048 features.*calibrate\.extractor: fitted has fewer"
    with pytest.raises(DataError, match=told):
        evaluate.count_of(evaluate.Config(), Bench(evaluator, seen, seen, 5))


def test_weights_travel_in_no_pickle(project: Project) -> None:
    calibrate.run(INCEPTION, project)
    files = {file.suffix for file in (project.artifacts / "calibrate").iterdir()}
    assert files == {".safetensors", ".json"}
    assert "inception.fc.bias" in load_file(project.artifacts / "calibrate" / WEIGHTS)
