"""The gate's arithmetic by hand, its error rates by simulation, and each reason for which a challenger is kept back."""

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from genpipe.champion import gate
from genpipe.champion.gate import Opponent, decide
from genpipe.champion.verdict import Verdict, of_tags
from genpipe.config import parse
from genpipe.errors import ConfigError
from genpipe.project import Gate, Limit, Mlflow, Project
from tests import projects
from tests.clones import ROOT

THEIRS = [10.0, 11.0, 12.0, 11.0]  # mean 11


def draws(distance: Sequence[float], **others: Sequence[float]) -> list[dict[str, float]]:
    """Scores by draw; a steady recall and no copies unless said otherwise."""
    steady = {"recall": [0.9] * len(distance), "near_copies": [0.01] * len(distance)}
    columns = {"frechet_distance": distance, **steady, **others}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def own(found: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    values = {name: [draw[name] for draw in found] for name in found[0]}
    return {name: {"value": float(np.mean(v)), "low": min(v), "high": max(v)} for name, v in values.items()}


def judged(rule: gate.Rule, mine: list[dict[str, float]], settings: Gate | None = None, **others: Opponent) -> Verdict:
    champion = others.pop("champion", Opponent("version 1", draws(THEIRS)))
    return decide(settings or Gate(), rule, own(mine), mine, champion, **others)


def test_the_interval_is_that_of_the_corrected_t_test() -> None:
    # Differences -1, -2, -3, -2: mean -2, s = √(2/3), t(0.95; 3) = 2.3534, √(1/4 + 0.1) = 0.5916.
    found = gate.difference(np.array([9, 9, 9, 9]), np.array([10, 11, 12, 11]))
    assert found.mean == -2
    assert found.high == pytest.approx(-2 + 2.3534 * 0.8165 * 0.5916, abs=1e-3)
    assert found.low == pytest.approx(-2 - 1.1368, abs=1e-3)


def test_better_means_the_whole_interval_lies_on_the_good_side() -> None:
    verdict = judged("better", draws([9, 9, 9, 9]))
    assert verdict.title == "promoted, since it is shown to be better within guards and limits"
    assert verdict.reasons == (
        "Fréchet distance 9 against 11 of version 1: -2 (-3.137 to -0.8632).",
        "Its guards and limits hold: recall, near copies.",
    )
    kept = judged("better", draws([9.8, 9.9, 12.3, 10]))  # lower by 0.5, but not in every draw
    assert kept.outcome == "kept"
    assert kept.reasons[0].endswith("; it is not shown to be lower, since the interval of the difference holds 0.")
    higher = judged("better", draws(THEIRS, recall=[0.95, 0.96, 0.97, 0.96]), Gate(score="recall"))
    assert higher.outcome == "promoted"
    assert judged("better", draws(THEIRS)).outcome == "kept"  # itself once more


def test_not_worse_must_be_shown_within_the_margin() -> None:
    # 0.5 worse on average and at most 0.5 + 1.1368 = 1.6368; a quarter of 11 is 2.75, a tenth 1.1.
    mine = draws([11.5, 11.5, 11.5, 11.5])
    assert judged("not_worse", mine).outcome == "promoted"
    verdict = judged("not_worse", mine, Gate(margin=0.1))
    assert verdict.outcome == "kept"
    assert verdict.reasons[0].endswith("; it is not shown to be at most 1.1 more.")
    assert judged("not_worse", draws([11, 14, 9, 10]), Gate(margin=0.1)).outcome == "kept"  # equal, but nobody knows


def test_quality_does_not_creep_down() -> None:
    mine, best = draws([12.0, 13.0, 14.0, 13.0]), Opponent("version 3", draws([7.0, 8.0, 9.0, 8.0]))
    assert judged("not_worse", mine).outcome == "promoted"  # 2 worse than the champion, of which 2.75 are allowed
    verdict = judged("not_worse", mine, best=best)  # 5 worse than the best, of which 2 are allowed
    assert verdict.outcome == "kept"
    assert "of version 3" in verdict.reasons[0]


def test_a_guard_holds_what_may_be_lost_of_another_score() -> None:
    mine = draws([5, 5, 5, 5], recall=[0.70, 0.71, 0.70, 0.71])  # far better, but 0.195 of the recall is gone
    verdict = judged("better", mine)
    assert verdict.outcome == "kept"
    assert [check.score for check in verdict.checks if not check.holds] == ["recall"]
    assert judged("better", mine, Gate(guards={"recall": 0.3})).outcome == "promoted"
    copies = draws([5, 5, 5, 5], near_copies=[0.1, 0.11, 0.1, 0.11])
    assert "Near copies" in judged("better", copies).reasons[0]
    assert judged("better", draws([5, 5, 5, 5], near_copies=[0.0] * 4)).outcome == "promoted"  # fewer are no loss


def test_limits_hold_for_the_first_version_too() -> None:
    mine = draws(THEIRS, near_copies=[0.1, 0.2, 0.3, 0.2])
    verdict = decide(Gate(), "first", own(mine))
    assert verdict.outcome == "kept"
    assert verdict.reasons == ("Near copies 0.2 (0.1 to 0.3) breaks its limit: at most 0.2.",)
    assert decide(Gate(limits={"near_copies": Limit(max=0.3)}), "first", own(mine)).outcome == "promoted"
    assert decide(Gate(limits={"frechet_distance": Limit(min=1, max=11.5)}), "first", own(mine)).outcome == "kept"
    absent = decide(Gate(limits={"label_agreement": Limit(min=0.9)}), "first", own(mine))
    assert absent.reasons == ("Label agreement has a limit, and this model has no such score.",)
    assert absent.outcome == "kept"


def test_a_score_that_the_data_do_not_allow_keeps_the_champion() -> None:
    few = [{"kernel_distance": 3.0}] * 4
    verdict = decide(Gate(limits={}), "better", own(few), few, Opponent("version 1", few))
    assert verdict.outcome == "kept"
    assert "name another gate.score" in verdict.reasons[0]


def test_a_verdict_stands_on_its_version_as_tags_and_as_a_table() -> None:
    verdict = judged("better", draws([9, 9, 9, 9], recall=[0.6, 0.61, 0.6, 0.61]))
    again = of_tags({"other": "tag", **verdict.tags()})
    assert again
    assert (again.outcome, again.reasons, again.rows()) == ("kept", verdict.reasons, verdict.rows())
    assert of_tags({"other": "tag"}) is None
    table = verdict.markdown().splitlines()
    title = "stays challenger, since it is not shown to be better within guards and limits"
    assert table[0].startswith(f"**Gate: {title}.** Recall 0.605 against 0.9 of version 1: -0.295")
    assert "| Fréchet distance: better | 9 | 11 (version 1) | -2 | -3.137 to -0.8632 | lower | yes |" in table
    assert verdict.figures()["gate/recall_difference"] == pytest.approx(-0.295)
    uncommitted = judged("better", draws([9, 9, 9, 9])).uncommitted("7")
    assert uncommitted.title == "held back, since its code or settings are in no commit"
    assert "`genpipe promote 7 --allow-dirty`" in uncommitted.reasons[0]
    assert "git knows no commit of this folder" in verdict.uncommitted("7", in_git=False).reasons[0]


def test_the_best_version_is_sound_too() -> None:
    scored = {
        "1": {"frechet_distance": 9.0, "near_copies": 0.02},
        "2": {"frechet_distance": 3.0, "near_copies": 0.9},  # it copies
        "3": {"frechet_distance": 8.0},
        "4": {"recall": 0.9},
    }
    assert gate.best_of(Gate(), scored) == "3"
    assert gate.best_of(Gate(score="recall"), scored) == "4"
    assert gate.best_of(Gate(), {}) is None


def simulated(
    true: float, held_out: float, rng: np.random.Generator, repeats: int, part: float = gate.ALIKE
) -> dict[gate.Rule, float]:
    """Share of promotions: 10 paired differences of deviation 1, `held_out` of whose variance all draws share."""
    settings, promoted = Gate(guards={}, limits={}, margin=0.2), {"better": 0, "not_worse": 0}
    for _ in range(repeats):
        split, halves = rng.normal(0, held_out**0.5), rng.normal(0, held_out**0.5, 10)
        mine = 10 + true + split + halves + rng.normal(0, (1 - held_out) ** 0.5, 10)
        champion = Opponent("version 1", draws([10.0] * 10), part)
        for rule in promoted:
            promoted[rule] += judged(rule, draws(list(mine)), settings, champion=champion).outcome == "promoted"
    return {rule: count / repeats for rule, count in promoted.items()}


def test_the_interval_is_wider_for_larger_draws_and_for_models_of_unlike_kinds() -> None:
    assert gate.held_out_part(0.5, alike=True) == pytest.approx(0.1)
    assert gate.held_out_part(0.9, alike=True) == pytest.approx(0.9)  # nine in ten: 9 times as much
    assert gate.held_out_part(0.5, alike=False) == pytest.approx(0.4)
    mine, theirs = np.array([9, 9, 9, 9]), np.array([10, 11, 12, 11])
    wide = gate.difference(mine, theirs, gate.held_out_part(0.9, alike=True))
    assert wide.high == pytest.approx(-2 + 2.3534 * 0.8165 * (1 / 4 + 0.9) ** 0.5, abs=1e-3)
    unlike = Opponent("version 1", draws(THEIRS), held_out=2.0)
    assert judged("better", draws([9.8, 9.8, 9.8, 9.8]), champion=unlike).outcome == "kept"
    assert judged("better", draws([9.8, 9.8, 9.8, 9.8])).outcome == "promoted"


def test_wrong_promotions_stay_below_one_in_twenty() -> None:
    rng = np.random.default_rng(0)
    equal = simulated(0, gate.ALIKE, rng, 2000)
    assert equal["better"] < 0.055
    assert simulated(0, 0, rng, 2000)["better"] < 0.02  # nothing shared: the interval is wider than need be
    assert simulated(2, gate.ALIKE, rng, 2000)["not_worse"] < 0.055  # worse by the margin
    assert simulated(-2, gate.ALIKE, rng, 500)["better"] > 0.9
    assert equal["not_worse"] > 0.9
    unlike = {worse: simulated(worse, gate.UNLIKE, rng, 2000, gate.UNLIKE) for worse in (0, 2)}
    assert max(unlike[0]["better"], unlike[2]["not_worse"]) < 0.06  # 0.05 but for the chance of 2,000 tries
    assert simulated(0, gate.UNLIKE, rng, 1000)["better"] > 0.1  # what the narrower interval would let pass


@pytest.mark.slow
def test_samples_of_known_quality_are_judged_rightly() -> None:
    """The benchmark's experiment, smaller: real digits with noise, less, as much and more than the champion's."""
    spec = importlib.util.spec_from_file_location("gate_benchmark", ROOT / "benchmarks" / "gate.py")
    assert spec
    assert spec.loader
    benchmark = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    repeats = list(benchmark.scored(benchmark.prepared(), {}, 4))
    table = [line.split(" | ") for line in benchmark.verdicts(repeats, Gate()).splitlines()[2:]]
    assert len(table) == 6
    assert sum(int(row[-1].rstrip(" |")) for row in table) <= 2  # of 24; none of them a worse one promoted
    assert [row[3] for row in table if row[2] == "worse"] == ["0 of 4", "0 of 4"]


def test_faults_of_the_gate_are_told_with_what_is_allowed(tmp_path: Path) -> None:
    for given, told in {
        "{score: fid}": "gate.score: 'fid' can't rank models; scores that can: frechet_distance",
        "{score: near_copies}": "gate.score: 'near_copies' can't rank models",
        "{guards: {fid: 1}}": "'fid' is no score; known scores: frechet_distance",
        "{guards: {recall: -1}}": "gate.guards.recall is -1; it must be at least 0",
        "{limits: {recall: {mn: 1}}}": "gate.limits.recall.mn is not a key; known keys: min, max",
        "{margins: 1}": "gate.margins is not a key; known keys: score, rule, margin, guards, limits",
    }.items():
        project = projects.make(tmp_path)
        (project.root / "mlflow.yml").write_text(f"gate: {given}\n")
        with pytest.raises(ConfigError, match=r"mlflow\.yml") as caught:
            _ = Project(project.root).mlflow
        assert told in str(caught.value)


def test_the_settings_are_those_of_the_file() -> None:
    found = parse(Mlflow, {"gate": {"rule": "better", "limits": {"recall": {"min": 0.5}}}}, "mlflow").gate
    assert (found.rule, found.margin, found.limits) == ("better", 0.25, {"recall": Limit(min=0.5)})
