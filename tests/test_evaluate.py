"""The bench tells good from bad samples, and the stage writes the same bytes twice, with labels and without."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from genpipe import generators, sampling, training
from genpipe.config import Choice, plain
from genpipe.data.arrays import Arrays, DataSpec
from genpipe.devices import Compute
from genpipe.errors import ConfigError, DataError, TooFewError
from genpipe.evaluation import cards, report
from genpipe.evaluation.baseline import draw, draw_by_class
from genpipe.evaluation.bench import Bench, Plan, Seen
from genpipe.files import write_json
from genpipe.metrics import SCORES
from genpipe.modalities import image
from genpipe.project import Project
from genpipe.stages import calibrate, evaluate
from tests import projects

FEW = evaluate.Config(draws=2)


@pytest.fixture(scope="module")
def calibrated(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose augment and calibrate stages have run."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(digits, root / "artifacts" / "augment")
    calibrate.run(calibrate.Config(), Project(root))
    return Project(root)


@pytest.fixture(scope="module", params=[True, False], ids=["with labels", "without"])
def project(request: pytest.FixtureRequest, calibrated: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same with a barely trained model."""
    root = tmp_path_factory.mktemp("trained")
    shutil.copytree(calibrated.artifacts, root / "artifacts")
    train(Project(root), conditional=request.param)
    return Project(root)


def test_whose_data_they_are_is_told_and_compared_by_nobody(project: Project) -> None:
    evaluate.run(FEW, project)
    metrics = json.loads((project.artifacts / "evaluate" / "metrics.json").read_text())
    told = {"dataset_licence": "CC-BY-4.0", "dataset_citation": "Alpaydin", "dataset_source": "UCI"}
    assert metrics["card"] | told == metrics["card"]
    page = (project.artifacts / "evaluate" / "report.html").read_text()
    assert "<dt>dataset licence</dt><dd>CC-BY-4.0</dd>" in page
    assert "<dt>dataset citation</dt><dd>Alpaydin</dd>" in page
    assert cards.differences(metrics["card"], metrics["card"] | {"dataset_licence": "CC-BY-4.0, corrected"}) == []


def train(project: Project, conditional: bool) -> None:
    """What the train stage writes, by the loop alone."""
    data, split = DataSpec.read(project.artifacts / "augment" / "meta.json"), project.artifacts / "augment" / "train"
    kind = Choice("genpipe.generators", "gan", generators.load("gan").Config(conditional=conditional))
    cfg = training.Config(steps=20)
    given = Arrays(split)
    columns = {name: torch.from_numpy(np.array(given[name])) for name in ("image", "label") if name in given}

    def draw(step: int, update: int, micro: int) -> dict[str, torch.Tensor]:
        rows = torch.randint(len(columns["image"]), (64,))
        batch = {name: column[rows] for name, column in columns.items()}
        return {**batch, "image": image.to_batch(batch["image"])}

    state = training.new_state(kind, data, cfg, Compute())
    logged = [
        {name: float(value) for name, value in found.items()} for found in training.fit(state, draw, cfg, Compute())
    ]
    folder = project.artifacts / "train"
    folder.mkdir()
    save_file(state.average.sampler().state_dict(), folder / "model.safetensors")
    write_json(
        folder / "config.json", {"train": {**plain(cfg), "generator": plain(kind)}, "data": data.plain(), "digest": "d"}
    )
    rows = [["step", *logged[0]], *([step, *found.values()] for step, found in enumerate(logged))]
    (folder / "curves.csv").write_text("\n".join(",".join(map(str, row)) for row in rows) + "\n")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_two_runs_write_equal_bytes_without_paths(project: Project) -> None:
    folder = project.artifacts / "evaluate"
    numbers = evaluate.run(FEW, project)
    before = files_of(folder)
    shutil.rmtree(folder)
    assert evaluate.run(FEW, project) == numbers
    assert files_of(folder) == before
    assert {"metrics.json", "report.html", "samples.png", "neighbours.png", "samples/image.npy"} <= set(before)
    assert not any(str(project.root).encode() in content for content in before.values())


def test_scores_stand_with_interval_floor_baseline_and_protocol(project: Project) -> None:
    evaluate.run(FEW, project)
    metrics = json.loads((project.artifacts / "evaluate" / "metrics.json").read_text())
    distance, card = metrics["frechet_distance"], metrics["card"]
    assert distance["low"] <= distance["value"] <= distance["high"]
    assert distance["floor"] < distance["baseline"] < distance["value"]  # twenty steps don't beat the baseline
    assert metrics["near_copies"]["floor"] == pytest.approx(0.01, abs=0.01)
    assert card["count_of_a_draw"] == 180
    assert card["held_out_spread"].startswith("1.00 times")
    assert "fitted to these training examples" in card["floor_caveat"]
    assert card["sampling"] == {"truncation": 1.0}
    assert (
        card["evaluator_digest"]
        == json.loads((project.artifacts / "calibrate" / "evaluator.json").read_text())["digest"]
    )


def test_scores_of_labels_are_there_only_when_samples_have_labels(project: Project) -> None:
    conditional = "label" in sampling.load(project.artifacts / "train").takes()
    found = set(evaluate.run(FEW, project))
    metrics = json.loads((project.artifacts / "evaluate" / "metrics.json").read_text())
    assert ("label_agreement" in found) == conditional
    assert ("label_agreement_by_class" in metrics) == conditional
    for name in ("label_agreement_by_class", "kernel_distance_by_class"):
        for found_of_class in metrics.get(name, {}).values():
            assert found_of_class["low"] <= found_of_class["value"] <= found_of_class["high"]
    assert (project.artifacts / "evaluate" / "samples" / "label.npy").exists() == conditional


def test_sampling_settings_are_those_of_the_kind(project: Project) -> None:
    fault = r"evaluate\.sampling\.truncation is 5; it must be at most 2"
    with pytest.raises(ConfigError, match=fault):
        evaluate.run(evaluate.Config(sampling={"truncation": 5}), project)


def test_too_few_held_out_examples_are_told_with_a_remedy(project: Project) -> None:
    with pytest.raises(
        DataError,
        match=r"a draw has 18 examples and the scores need 65 \(.*64 features\), of a test split of 360; bring more",
    ):
        evaluate.run(evaluate.Config(held_out_share=0.05), project)


def test_too_few_held_out_examples_are_told_before_the_training(digits: Path, tmp_path: Path) -> None:
    project = projects.make(tmp_path, train={"generator": "gan"}, evaluate={"held_out_share": 0.1})
    shutil.copytree(digits, project.artifacts / "augment")
    with pytest.raises(TooFewError, match=r"a draw has 36 examples and the scores need 65 \(.*of a test split of 360"):
        projects.run(project, "train")
    assert not (project.artifacts / "train").exists()


def test_draws_that_may_hold_one_example_of_each_class_are_told_before_any_work(calibrated: Project) -> None:
    bench = Bench.prepare(calibrated, conditional=True, neighbours=5)
    held_out = bench.held_out
    many = replace(bench, held_out=Seen(held_out.content, held_out.features, np.arange(len(held_out))))
    with pytest.raises(DataError, match=r"a draw has 180 examples and the scores need 361 "):
        evaluate.count_of(FEW, many)


def test_the_bench_tells_real_from_noisy_and_from_copied(calibrated: Project) -> None:
    bench = Bench.prepare(calibrated, conditional=True, neighbours=5)
    rows = np.random.default_rng(0).permutation(len(bench.held_out))

    def score(content: np.ndarray, like: Seen) -> dict[str, float]:
        samples = Seen(content, bench.evaluator.features(content), like.label)
        return bench.likeness(samples, bench.held_out) | bench.alone(samples)

    real = score(bench.held_out.content, bench.held_out)
    assert real["frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert real["nearest_ratio"] == 1
    noise = np.random.default_rng(0).normal(0, 80, bench.held_out.content.shape)
    noisy = score((bench.held_out.content + noise).clip(0, 255).astype(np.uint8), bench.held_out)
    assert noisy["frechet_distance"] > 5
    assert noisy["label_agreement"] < real["label_agreement"]
    mislabelled = score(bench.held_out.content[rows], bench.held_out)
    assert mislabelled["label_agreement"] < 0.2
    assert mislabelled["frechet_distance"] == pytest.approx(0, abs=1e-6)
    copied = bench.alone(bench.training)
    assert copied["near_copies"] == 1
    assert copied["nearest_ratio"] == pytest.approx(0, abs=1e-3)


def test_every_score_worsens_step_by_step_with_noise_blur_and_dropped_classes(calibrated: Project) -> None:
    bench = Bench.prepare(calibrated, conditional=False, neighbours=5)
    every, label = bench.training.content, np.load(calibrated.artifacts / "augment" / "train" / "label.npy")
    real = every[:500]
    noise = np.random.default_rng(0).normal(0, 1, real.shape)
    noisy = [(real + deviation * noise).clip(0, 255).astype(np.uint8) for deviation in (0, 40, 80, 160)]
    blurred = [real]
    for _ in range(3):
        wide = np.pad(blurred[-1].astype(float), [(0, 0), (0, 0), (1, 1), (1, 1)], "edge")
        blurred.append((sum(wide[..., y : y + 8, x : x + 8] for y in range(3) for x in range(3)) / 9).astype(np.uint8))
    dropped = [every[label < classes][:120] for classes in (10, 7, 4, 1)]

    def worsens(sets: list[np.ndarray], *names: str) -> bool:
        found = [bench.likeness(Seen(x, bench.evaluator.features(x)), bench.held_out) for x in sets]
        signs = {name: 1 if SCORES[name].better == "lower" else -1 for name in names}
        return all((np.diff([sign * scores[name] for scores in found]) > 0).all() for name, sign in signs.items())

    both = ("frechet_distance", "kernel_distance")
    assert worsens(noisy, *both, "precision", "density", "coverage")
    assert worsens(blurred, *both, "precision", "coverage")
    assert worsens(dropped, *both, "recall", "coverage")


def copies(bench: Bench, plan: Plan) -> np.ndarray:
    """The samples of a model that knows its training examples by heart."""
    rng = np.random.default_rng(0)
    assert plan.labels is not None
    rows = [rng.choice(np.flatnonzero(bench.training.label == label)) for label in plan.labels]
    return bench.training.content[rows]


def test_a_model_that_copies_training_examples_reaches_the_floor_and_is_caught(calibrated: Project) -> None:
    bench = Bench.prepare(calibrated, conditional=True, neighbours=5)
    plan = bench.plan(draws=5, count=288, seed=0)
    _, found = evaluate.scored(bench, plan, copies(bench, plan))
    assert found["frechet_distance"]["value"] == pytest.approx(found["frechet_distance"]["floor"], rel=0.25)
    assert found["near_copies"]["value"] == 1


def test_copying_is_caught_where_held_out_data_repeat_training_examples(calibrated: Project) -> None:
    bench = Bench.prepare(calibrated, conditional=True, neighbours=5)
    content, label = bench.held_out.content.copy(), bench.held_out.label.copy()
    content[:18], label[:18] = bench.training.content[:18], bench.training.label[:18]  # 5 % of them
    repeating = replace(bench, held_out=Seen(content, bench.evaluator.features(content), label))
    plan = repeating.plan(draws=3, count=180, seed=0)
    _, found = evaluate.scored(repeating, plan, copies(bench, plan))
    assert found["near_copies"]["value"] == 1
    assert found["near_copies"]["floor"] == pytest.approx(0.05, abs=0.02)
    assert report.copying(found["nearest_ratio"], found["near_copies"]).startswith("Copying is likely")


def test_the_floor_of_label_agreement_is_that_of_held_out_data(calibrated: Project) -> None:
    bench = Bench.prepare(calibrated, conditional=True, neighbours=5)
    held_out = bench.held_out
    shifted = replace(bench, held_out=Seen(held_out.content, held_out.features, (held_out.label + 1) % 10))
    (floor,) = shifted.floor(shifted.plan(draws=1, count=180, seed=0))
    assert floor["label_agreement"] < 0.1


def test_contestants_on_one_plan_meet_the_same_held_out_data(calibrated: Project) -> None:
    bench = Bench.prepare(calibrated, conditional=True, neighbours=5)
    plan, again = bench.plan(draws=2, count=180, seed=3), bench.plan(draws=2, count=180, seed=3)
    assert np.array_equal(plan.held_out, again.held_out)
    assert not np.array_equal(plan.held_out, bench.plan(draws=2, count=180, seed=4).held_out)
    assert plan.count == 360
    assert np.array_equal(plan.labels, bench.held_out.label[plan.held_out].ravel())
    assert np.array_equal(bench.training.label[plan.training], bench.held_out.label[plan.held_out])
    samples = bench.baseline(plan)
    whole = bench.score(plan, samples)
    assert [draw.scores for draw in whole] == [draw.scores for draw in bench.score(again, samples.copy())]
    alone = Seen(samples[180:], bench.evaluator.features(samples[180:]), plan.labels[180:])
    expected = bench.likeness(alone, bench.held_out[plan.held_out[1]])
    assert {name: whole[1].scores[name] for name in expected} == pytest.approx(expected)
    with pytest.raises(ValueError, match="359 samples for a plan of 360"):
        bench.score(plan, samples[:-1])


def test_one_request_in_a_fresh_process_gives_all_samples_again(project: Project) -> None:
    evaluate.run(FEW, project)
    metrics = json.loads((project.artifacts / "evaluate" / "metrics.json").read_text())
    _, plan = evaluate.prepared(FEW, project, metrics["card"]["condition"] == "label")
    asked = None if plan.labels is None else plan.labels.tolist()
    program = (
        "import sys, json; from pathlib import Path\n"
        "from genpipe import generators, sampling; from genpipe.evaluation import cards\n"
        "folder, count, seed, labels = json.loads(sys.argv[1]); model = sampling.load(Path(folder))\n"
        "chosen = generators.module_of(model).Sampling()\n"
        "print(cards.digest(sampling.draw(model, count, seed, chosen, labels=labels)['image']))"
    )
    request = json.dumps([str(project.artifacts / "train"), plan.count, plan.seed, asked])
    done = subprocess.run([sys.executable, "-c", program, request], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == metrics["card"]["samples_digest"]


@pytest.fixture(scope="module")
def unlabelled(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Digits without labels: the evaluator tells quarter turns apart."""
    project = Project(tmp_path_factory.mktemp("unlabelled"))
    augmented = project.artifacts / "augment"
    shutil.copytree(digits, augmented)
    for file in augmented.glob("*/label.npy"):
        file.unlink()
    write_json(augmented / "meta.json", DataSpec("image", (1, 8, 8)).plain())
    calibrate.run(calibrate.Config(), project)
    return project


def test_unlabelled_data_go_all_the_way_and_card_and_report_say_what_the_evaluator_is(unlabelled: Project) -> None:
    train(unlabelled, conditional=False)
    assert "label_agreement" not in evaluate.run(FEW, unlabelled)
    metrics = json.loads((unlabelled.artifacts / "evaluate" / "metrics.json").read_text())
    sentence = (
        "features of a network that tells quarter turns of pictures apart (of oblong ones: mirrorings), since the "
    )
    assert metrics["card"]["evaluator"] == f"{sentence}data have no labels"
    assert metrics["card"]["evaluator_accuracy"] >= 0.9
    assert metrics["card"]["condition"] == "none"
    assert "label_agreement" not in metrics["card"]["estimators"]
    assert sentence in (unlabelled.artifacts / "evaluate" / "report.html").read_text()


def test_without_labels_the_scores_tell_real_from_noisy_blurred_and_half_of_the_classes(
    unlabelled: Project, digits: Path
) -> None:
    bench = Bench.prepare(unlabelled, conditional=False, neighbours=5)
    label, real = np.load(digits / "train" / "label.npy"), bench.training.content

    def score(content: np.ndarray) -> dict[str, float]:
        return bench.likeness(Seen(content, bench.evaluator.features(content)), bench.held_out)

    noise = np.random.default_rng(0).normal(0, 60, real.shape)
    softened = (real + np.roll(real, 1, 2) + np.roll(real, 1, 3) + np.roll(real, (1, 1), (2, 3)).astype(float)) / 4
    whole, noisy = score(real[:600]), score((real + noise).clip(0, 255).astype(np.uint8)[:600])
    blurred, half = score(softened.astype(np.uint8)[:600]), score(real[label < 5][:600])
    for worse in (noisy, blurred, half):
        assert worse["frechet_distance"] > 1.5 * whole["frechet_distance"]
        assert worse["coverage"] < whole["coverage"]
    assert max(noisy["precision"], blurred["precision"]) < whole["precision"]
    assert half["recall"] < whole["recall"] - 0.1


def test_of_large_splits_every_second_example_is_looked_at_and_the_card_says_so(unlabelled: Project) -> None:
    cfg = replace(FEW, most_real=700)
    bench, plan = evaluate.prepared(cfg, unlabelled, conditional=False)
    every = Arrays(unlabelled.artifacts / "augment" / "train")["image"]
    assert np.array_equal(bench.training.content, every[::2])
    assert len(bench.held_out) == 360
    card = evaluate.protocol(cfg, unlabelled, bench, plan)
    assert (card["training_count"], card["training_of"]) == (629, 1257)
    assert (card["held_out_count"], card["held_out_of"]) == (360, 360)


def test_the_gaussian_has_the_moments_of_its_training_data() -> None:
    training = np.random.default_rng(0).integers(90, 160, (500, 1, 2, 2), np.uint8)
    drawn = draw(training, 20_000, image, np.random.default_rng(1)).reshape(-1, 4)
    assert drawn.mean(0) == pytest.approx(training.reshape(-1, 4).mean(0), abs=1)
    assert np.cov(drawn.T) == pytest.approx(np.cov(training.reshape(-1, 4).T), abs=15)


def test_the_gaussian_of_each_class_keeps_to_its_class() -> None:
    training = np.array([10, 12, 200, 202], np.uint8).repeat(4).reshape(4, 1, 2, 2)
    drawn = draw_by_class(training, np.array([0, 0, 1, 1]), np.array([1, 0, 1]), image, np.random.default_rng(0))
    assert list(drawn.mean((1, 2, 3)) > 100) == [True, False, True]


def test_figures_by_class_tell_which_class_fails(calibrated: Project) -> None:
    """Held-out digits, of which the threes are shown as eights."""
    bench, plan = evaluate.prepared(evaluate.Config(draws=3), calibrated, conditional=True)
    assert plan.labels is not None
    samples, label = bench.held_out.content[plan.held_out.ravel()], bench.held_out.label
    assert label is not None
    eights = np.flatnonzero(label == 8)
    samples[plan.labels == 3] = bench.held_out.content[np.resize(eights, int((plan.labels == 3).sum()))]
    found = evaluate.by_class(bench.score(plan, samples), bench)
    agreement, distance = found["label_agreement_by_class"], found["kernel_distance_by_class"]
    assert list(agreement) == list(distance) == list("0123456789")
    assert agreement["3"]["high"] < 0.2
    assert min(agreement[name]["value"] for name in "012456789") > 0.8
    assert distance["3"]["low"] > max(distance[name]["high"] for name in "012456789")
