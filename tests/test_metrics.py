"""Each score against numbers worked out by hand, and against what it must do: notice noise, notice missing classes."""

import numpy as np
import pytest

from genpipe.metrics import SCORES
from genpipe.metrics.agreement import label_agreement
from genpipe.metrics.frechet import fewest, frechet_distance
from genpipe.metrics.kernel import kernel_distance, kernel_distance_by_label
from genpipe.metrics.memorisation import Nearest, memorisation
from genpipe.metrics.neighbours import Overlap, overlap
from genpipe.metrics.repeated import matching, subsample, summaries, summary


@pytest.fixture(scope="module")
def normal() -> np.ndarray:
    """Two sets of 1,000 points of a unit Gaussian in 16 dimensions."""
    return np.random.default_rng(0).standard_normal((2, 1000, 16))


def test_frechet_distance_of_three_points_on_a_line() -> None:
    # means 0 and 3, variances 1 and 4: (0 - 3)² + (1 - 2)² = 10
    first, second = np.array([[-1.0], [0.0], [1.0]]), np.array([[1.0], [3.0], [5.0]])
    assert frechet_distance(first, second) == pytest.approx(10)


def test_frechet_distance_of_a_set_to_itself_is_nothing(normal: np.ndarray) -> None:
    assert frechet_distance(normal[0], normal[0]) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_of_a_shift_is_its_square(normal: np.ndarray) -> None:
    assert frechet_distance(normal[0], normal[0] + 0.5) == pytest.approx(16 * 0.25)


def test_frechet_distance_of_a_stretch(normal: np.ndarray) -> None:
    spread = normal[0] - normal[0].mean(0)  # C and 9 C: Tr(C + 9 C - 2 · 3 C) = 4 Tr C
    assert frechet_distance(spread, 3 * spread) == pytest.approx(4 * np.trace(np.cov(spread.T)))


def test_frechet_distance_agrees_with_the_matrix_square_root(normal: np.ndarray) -> None:
    first, second = normal[0] @ np.diag(np.arange(1.0, 17)), normal[1]
    c1, c2 = np.cov(first.T), np.cov(second.T)
    roots = np.sqrt(np.linalg.eigvals(c1 @ c2).real).sum()
    apart = np.square(first.mean(0) - second.mean(0)).sum()
    assert frechet_distance(first, second) == pytest.approx(apart + np.trace(c1) + np.trace(c2) - 2 * roots)


def test_frechet_distance_stays_real_where_features_are_dead(normal: np.ndarray) -> None:
    dead = normal * (np.arange(16) < 8)  # rectifiers that never fire: a covariance of half rank
    assert 0 <= frechet_distance(dead[0], dead[1]) < 0.2


def test_frechet_distance_refuses_too_few_examples(normal: np.ndarray) -> None:
    assert fewest(16) == 17
    frechet_distance(normal[0, :17], normal[1])
    with pytest.raises(ValueError, match="16 examples of 16 features; at least 17"):
        frechet_distance(normal[0, :16], normal[1])


def test_kernel_distance_by_hand() -> None:
    # kernel (xy + 1)³; within {0, 1}: 1; within {1, 2}: 27; across: 1, 1, 8, 27, mean 9.25; 1 + 27 - 18.5
    assert kernel_distance(np.array([[0.0], [1.0]]), np.array([[1.0], [2.0]])) == pytest.approx(9.5)


def test_frechet_distance_of_two_gaussians_a_known_mean_apart() -> None:
    first, second = np.random.default_rng(0).standard_normal((2, 20_000, 4))
    assert frechet_distance(first, second + 2) == pytest.approx(4 * 2**2, rel=0.02)  # equal covariances add nothing


def test_kernel_distance_of_two_gaussians_a_known_mean_apart() -> None:
    """Of N(0, 1) and N(1, 1): E (xy + 1)³ is 4 within the first, 32 within the second and 7 across: 4 + 32 - 14."""
    draws = np.random.default_rng(0).standard_normal((40, 2, 300, 1))
    found = [kernel_distance(first, second + 1) for first, second in draws]
    assert np.mean(found) == pytest.approx(22, abs=3 * np.std(found) / np.sqrt(40))
    assert np.std(found) / np.sqrt(40) < 1


def test_kernel_distance_of_a_set_to_itself_is_below_nothing() -> None:
    # within {0, 1} a pair has kernel 1; across, each example meets itself too: 1, 1, 1, 8, mean 2.75; 1 + 1 - 5.5
    values = np.array([[0.0], [1.0]])
    assert kernel_distance(values, values) == pytest.approx(-3.5)


def test_kernel_distance_of_equal_distributions_has_no_bias(normal: np.ndarray) -> None:
    halves = normal.reshape(20, 2, 50, 16)
    found = [kernel_distance(first, second) for first, second in halves]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(20)


def test_kernel_distance_by_label_is_the_mean_over_classes(normal: np.ndarray) -> None:
    labels = np.repeat([0, 1, 2], [400, 599, 1])  # a class of one is left out
    first, second = normal[0] + 20 * labels[:, None], normal[1] + 20 * labels[:, None]
    halves = [kernel_distance(first[labels == label], second[labels == label]) for label in (0, 1)]
    assert kernel_distance_by_label(first, second, labels) == pytest.approx(np.mean(halves))


def test_kernel_distance_by_label_refuses_classes_of_one(normal: np.ndarray) -> None:
    with pytest.raises(ValueError, match="every class has a single example"):
        kernel_distance_by_label(normal[0, :5], normal[1, :5], np.arange(5))


def test_overlap_by_hand() -> None:
    # k = 1, on a line. Real 0, 1, 3 with radii 1, 1, 2; samples 0.5, 4, 20 with radii 3.5, 3.5, 16.
    # 0.5 lies in the balls of 0 and 1, 4 in that of 3, 20 in none; 0, 1 and 3 lie in the ball of 0.5.
    real, samples = np.array([[0.0], [1.0], [3.0]]), np.array([[0.5], [4.0], [20.0]])
    assert overlap(real, samples, k=1) == pytest.approx(Overlap(precision=2 / 3, recall=1, density=1, coverage=1))


def test_overlap_of_a_set_with_itself_is_whole(normal: np.ndarray) -> None:
    found = overlap(normal[0], normal[0])
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    assert 1 <= found.density <= 6 / 5  # a ball holds its own example and five more, the last one on its edge


def test_overlap_of_sets_far_apart_is_nothing(normal: np.ndarray) -> None:
    assert overlap(normal[0], normal[1] + 100) == Overlap(0, 0, 0, 0)


def test_overlap_refuses_sets_of_k_examples(normal: np.ndarray) -> None:
    with pytest.raises(ValueError, match="5 real examples and 1000 samples; more than k = 5"):
        overlap(normal[0, :5], normal[1])


@pytest.mark.slow
def test_overlap_of_equal_gaussians_in_the_published_setting() -> None:
    """The example in the README of the authors' code: 10,000 each, 1,000 dimensions, k = 5.

    They print 0.4772, 0.4705, 1.0555, 0.9735 and say that these fluctuate: so does density, by some tenths, as in so
    many dimensions a few points near the centre lie in very many balls.
    """
    real, samples = np.random.default_rng(0).standard_normal((2, 10_000, 1_000))
    found = overlap(real, samples, k=5)
    assert found.precision == pytest.approx(0.477, abs=0.04)
    assert found.recall == pytest.approx(0.470, abs=0.04)
    assert found.density == pytest.approx(1.056, abs=0.2)
    assert found.coverage == pytest.approx(0.974, abs=0.03)


def test_label_agreement_by_hand() -> None:
    asked, seen = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 1])
    assert label_agreement(asked, seen) == pytest.approx(0.8)


def test_nearest_training_examples_by_hand() -> None:
    distances, rows = Nearest(np.array([[0.0, 0.0], [10.0, 0.0]]))(np.array([[3.0, 4.0], [10.0, 1.0]]))
    assert distances == pytest.approx([5, 1])
    assert list(rows) == [0, 1]


def test_memorisation_by_hand() -> None:
    held_out = np.arange(1.0, 102)  # 1 to 101: median 51, 1st percentile 2
    assert memorisation(np.array([0.0, 1.0, 51.0, 60.0, 70.0]), held_out) == pytest.approx((1, 0.4))


def test_copies_are_counted_where_held_out_data_repeat_training_examples_too() -> None:
    held_out = np.array([0.0, 1e-8, *np.arange(1.0, 99)])  # 2 % are copies, one of them but for its last bits
    assert memorisation(np.full(10, 1e-7), held_out).near_copies == 1
    assert memorisation(held_out, held_out).near_copies == pytest.approx(0.02)


def test_memorisation_of_copies(normal: np.ndarray) -> None:
    nearest = Nearest(normal[0, :500])
    held_out, _ = nearest(normal[0, 500:])
    copies, _ = nearest(normal[0, :500])
    fresh, _ = nearest(normal[1])
    assert memorisation(copies, held_out) == pytest.approx((0, 1), abs=1e-6)
    assert memorisation(fresh, held_out) == pytest.approx((1, 0.01), abs=0.05)
    with pytest.raises(ValueError, match="copies"):
        memorisation(held_out, copies * 0)


def test_every_score_worsens_with_noise(normal: np.ndarray) -> None:
    noise = np.random.default_rng(1).standard_normal((1000, 16))
    noisy = [normal[1] + deviation * noise for deviation in (0, 0.5, 1, 2)]
    rising = np.diff([(frechet_distance(normal[0], x), kernel_distance(normal[0], x)) for x in noisy], axis=0)
    assert (rising > 0).all()
    precision, _, density, coverage = np.diff([overlap(normal[0], x) for x in noisy], axis=0).T
    assert max(precision.max(), density.max(), coverage.max()) < 0


def test_scores_of_variety_worsen_when_classes_are_dropped() -> None:
    rng = np.random.default_rng(0)
    centres = 8 * rng.standard_normal((4, 1, 8))
    real, samples = (centres + rng.standard_normal((2, 4, 200, 8))).reshape(2, 800, 8)
    kept = [samples[:count] for count in (800, 600, 400, 200)]
    assert (np.diff([frechet_distance(real, x) for x in kept]) > 0).all()
    _, recall, _, coverage = np.transpose([overlap(real, x) for x in kept])
    assert recall == pytest.approx(np.array([1, 0.75, 0.5, 0.25]), abs=0.1)
    assert coverage == pytest.approx(np.array([1, 0.75, 0.5, 0.25]), abs=0.1)


def test_summary_holds_the_middle_of_the_draws() -> None:
    assert summary(range(101)) == (50, 5, 95)
    assert summaries([{"recall": 0.0}, {"recall": 1.0}])["recall"] == pytest.approx((0.5, 0.05, 0.95))


def test_a_subsample_never_repeats_a_row() -> None:
    rows = subsample(100, 80, np.random.default_rng(0))
    assert len(set(rows)) == 80


def test_matching_rows_carry_the_labels_wanted() -> None:
    labels, wanted = np.arange(40) % 4, np.array([3, 0, 0, 1])
    rows = matching(labels, wanted, np.random.default_rng(0))
    assert list(labels[rows]) == list(wanted)
    assert len(set(rows)) == 4


def test_every_score_says_what_it_means() -> None:
    assert all(score.title and score.meaning[-1] in ".?" for score in SCORES.values())
