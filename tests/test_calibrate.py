"""The evaluator is good at real digits, is kept while nothing asks for another, and says so when it can't be fitted."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from genpipe import modalities
from genpipe.data.arrays import Arrays, DataSpec
from genpipe.errors import ConfigError, DataError
from genpipe.evaluation.evaluator import CARD, WEIGHTS, Evaluator, build, digest_of, pretrained
from genpipe.files import write_json
from genpipe.modalities import image
from genpipe.project import Project
from genpipe.stages import calibrate

QUICK = calibrate.Config(steps=5)


@pytest.fixture
def project(digits: Path, tmp_path: Path) -> Project:
    """A project whose augment stage has run."""
    shutil.copytree(digits, tmp_path / "artifacts" / "augment")
    return Project(tmp_path)


def test_the_defaults_tell_held_out_digits_apart(project: Project) -> None:
    assert calibrate.run(calibrate.Config(), project)["accuracy"] >= 0.97
    evaluator, test = Evaluator.load(project.artifacts / "calibrate"), Arrays(project.artifacts / "augment" / "test")
    assert (evaluator.predict(test["image"]) == test["label"]).mean() >= 0.98
    features = evaluator.features(test["image"])
    assert features.shape == (360, 64)
    assert features.dtype == np.float64
    assert np.array_equal(evaluator.classify(features), evaluator.predict(test["image"]))


def test_grown_data_keep_the_evaluator_and_a_new_seed_replaces_it(project: Project) -> None:
    folder, train = project.artifacts / "calibrate", project.artifacts / "augment" / "train"
    calibrate.run(QUICK, project)
    before = (folder / WEIGHTS).read_bytes(), (folder / CARD).read_bytes()
    for file in train.glob("*.npy"):
        np.save(file, np.load(file)[:1000])
    calibrate.run(QUICK, project)
    assert ((folder / WEIGHTS).read_bytes(), (folder / CARD).read_bytes()) == before
    calibrate.run(calibrate.Config(steps=5, seed=1), project)
    assert (folder / WEIGHTS).read_bytes() != before[0]


def test_two_fits_give_equal_bytes(project: Project) -> None:
    folder = project.artifacts / "calibrate"
    calibrate.run(QUICK, project)
    before = (folder / WEIGHTS).read_bytes(), (folder / CARD).read_bytes()
    shutil.rmtree(folder)
    calibrate.run(QUICK, project)
    assert ((folder / WEIGHTS).read_bytes(), (folder / CARD).read_bytes()) == before


@pytest.fixture
def unlabelled(project: Project) -> Project:
    """The same without labels."""
    return without_labels(project)


def without_labels(project: Project, classes: tuple[str, ...] = ()) -> Project:
    augmented = project.artifacts / "augment"
    for file in augmented.glob("*/label.npy"):
        file.unlink()
    write_json(augmented / "meta.json", DataSpec("image", (1, 8, 8), classes).plain())
    return project


def test_without_labels_the_evaluator_tells_quarter_turns_apart(
    unlabelled: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate.run(calibrate.Config(steps=200), unlabelled)["accuracy"] >= 0.85
    about = "features of a network that tells quarter turns of pictures apart (of oblong ones: mirrorings), since the "
    assert capsys.readouterr().out.startswith(f"{about}data have no labels; right on ")
    card = json.loads((unlabelled.artifacts / "calibrate" / CARD).read_text())
    assert card["about"] == f"{about}data have no labels"
    assert card["accuracy_count"] == 180
    evaluator = Evaluator.load(unlabelled.artifacts / "calibrate")
    assert not evaluator.classifies
    assert evaluator.features(np.zeros((3, 1, 8, 8), np.uint8)).shape == (3, 64)


def test_a_single_class_is_nothing_to_tell_apart(project: Project) -> None:
    calibrate.run(QUICK, without_labels(project, ("digit",)))
    evaluator = Evaluator.load(project.artifacts / "calibrate")
    assert evaluator.about.endswith("since the data have a single class")
    assert evaluator.network.head.out_features == 4


def test_augmentation_is_applied_to_turned_pictures_too(unlabelled: Project) -> None:
    folder = unlabelled.artifacts / "calibrate"
    calibrate.run(QUICK, unlabelled)
    before = (folder / WEIGHTS).read_bytes()
    calibrate.run(calibrate.Config(steps=5, augmentation={"noise": 0.5}), unlabelled)
    assert (folder / WEIGHTS).read_bytes() != before


def test_turns_and_mirrorings_by_hand() -> None:
    square, targets = torch.tensor([[[[1, 2], [3, 4]]]]).repeat(4, 1, 1, 1), torch.arange(4)
    assert image.pretext(square, targets)[:, 0].tolist() == [
        [[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]],
    ]  # fmt: skip
    oblong = torch.tensor([[[[1, 2, 3], [4, 5, 6]]]]).repeat(4, 1, 1, 1)
    assert image.pretext(oblong, targets)[:, 0].tolist() == [
        [[1, 2, 3], [4, 5, 6]], [[3, 2, 1], [6, 5, 4]], [[6, 5, 4], [3, 2, 1]], [[4, 5, 6], [1, 2, 3]],
    ]  # fmt: skip


def test_a_modality_without_pretext_task_is_refused_without_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = Path(__file__).parent / "plugins" / "modalities"
    monkeypatch.setattr(modalities, "__path__", [*modalities.__path__, str(plugins)])
    with pytest.raises(DataError, match=r"'tokens' has no pretext task.*dataset\.yaml"):
        build(DataSpec("tokens", (24,)))
    with pytest.raises(DataError, match="'inception', which sees pictures, and the data are tokens"):
        pretrained(DataSpec("tokens", (24,), ("cat", "dog")), {})
    del sys.modules["genpipe.modalities.tokens"]
    del modalities.tokens


def test_an_unknown_augmentation_is_refused_by_its_place(project: Project) -> None:
    with pytest.raises(ConfigError, match=r"calibrate\.augmentation\.spin is not a key; known keys: rotation_degrees"):
        calibrate.run(calibrate.Config(augmentation={"spin": 3}), project)


def test_weights_that_are_not_the_named_ones_are_noticed(project: Project) -> None:
    folder = project.artifacts / "calibrate"
    calibrate.run(QUICK, project)
    weights = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(DataError, match=r"not the evaluator that evaluator\.json names"):
        Evaluator.load(folder)


def test_another_network_than_that_of_the_weights_is_told_and_a_new_seed_mends_it(project: Project) -> None:
    folder = project.artifacts / "calibrate"
    calibrate.run(QUICK, project)
    weights = load_file(folder / WEIGHTS)
    save_file({**weights, "head.bias": weights["head.bias"][:-1].clone()}, folder / WEIGHTS)
    with pytest.raises(DataError, match=r"another network than this version builds; raise calibrate\.seed"):
        calibrate.run(QUICK, project)
    calibrate.run(calibrate.Config(steps=5, seed=1), project)
    Evaluator.load(folder)


def test_the_digest_is_of_weights_and_data_and_not_of_how_a_network_is_printed() -> None:
    data = DataSpec("image", (1, 8, 8), ("cat", "dog"))
    network = build(data)
    before = digest_of(network, data)
    network.extra_repr = lambda: "printed otherwise"
    assert digest_of(network, data) == before
    assert digest_of(network, replace(data, classes=("dog", "cat"))) != before
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] += 1
    assert digest_of(network, data) != before


@pytest.mark.parametrize("sides", [(2, 2), (3, 7), (4, 64), (30, 9)])
def test_images_of_any_sides_have_features(sides: tuple[int, int]) -> None:
    network = build(DataSpec("image", (3, *sides), ("cat", "dog")))
    assert network(torch.zeros(5, 3, *sides)).shape == (5, 2)
    assert network.features(torch.zeros(5, 3, *sides)).shape == (5, 64)


def test_small_images_of_unequal_sides_are_told_apart(project: Project) -> None:
    augmented = project.artifacts / "augment"
    for split in ("train", "validation"):
        content = np.load(augmented / split / "image.npy")[:, :, 1:7, :]
        np.save(augmented / split / "image.npy", content)
    write_json(augmented / "meta.json", DataSpec("image", (1, 6, 8), tuple("0123456789")).plain())
    assert calibrate.run(calibrate.Config(steps=200), project)["accuracy"] >= 0.9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="could not run: it needs 1 GPU, this machine has 0")
def test_an_evaluator_fitted_on_a_gpu_sees_much_the_same_on_the_cpu(project: Project) -> None:
    assert calibrate.run(calibrate.Config(), project)["accuracy"] >= 0.97
    content = Arrays(project.artifacts / "augment" / "test")["image"]
    cpu, gpu = (Evaluator.load(project.artifacts / "calibrate", device) for device in ("cpu", "cuda"))
    assert (cpu.device.type, gpu.device.type) == ("cpu", "cuda")
    assert gpu.features(content) == pytest.approx(cpu.features(content), rel=0.01, abs=0.05)
    assert (gpu.predict(content) == cpu.predict(content)).mean() > 0.99


def test_an_absent_evaluator_is_told_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="dvc repro calibrate"):
        Evaluator.load(tmp_path)
