"""The gate: whether a challenger becomes champion. Scores come in and a verdict goes out; nothing is drawn or moved.

Contestants answer one plan, so their scores are paired, draw by draw: the same held-out examples, labels and seeds. Of
R paired differences with mean m and deviation s the interval is

    m ± t(0.95; R - 1) · s · √(1/R + held_out)

Averaging lessens what the chance of sampling does by 1/R, but not what the held-out data do, which all draws share.
`held_out` is what they add, in parts of s² (the corrected resampled t-test of Nadeau & Bengio 2003, Machine Learning
52, section 4, with a measured part). If that part is right, either end is passed by chance in at most 5 % of cases:

- `better`: the whole interval lies on the good side. An equal challenger passes in at most 5 %.
- `not_worse`: the bad end lies within the margin, so that it is shown and not merely not refuted: a challenger that is
  worse by the margin passes in at most 5 %, and where the data are too few to tell, the champion stays.
- A guard is `not_worse` for another score, with what may be lost as its margin.
- A limit holds when the worse end of the challenger's own interval keeps to it.

All checks must hold, so their number does not raise the chance of a wrong promotion (Berger 1982, Technometrics 24).
The number of challengers does: of 20 that are equal to the champion one passes `better` with a chance of up to 64 %.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from genpipe.champion.verdict import Check, Rule, Verdict
from genpipe.metrics import SCORES
from genpipe.project import Gate, Limit

Draws = Sequence[Mapping[str, float]]  # the scores of each draw
CONFIDENCE = 0.95  # of either end
# What choosing half of the held-out data has of s², as measured (benchmarks/RESULTS.md): about 0.1 in all scores, more
# between unlike models, and most between such as lie so far apart that no interval matters.
ALIKE, UNLIKE = 0.1, 0.4
# Real data are no goal to come near to here: only copying is a fault.
COPYING = {"nearest_ratio": "higher", "near_copies": "lower"}


class Difference(NamedTuple):
    """Mean paired difference and its interval."""

    mean: float
    low: float
    high: float


class Opponent(NamedTuple):
    """Whom the challenger is held against."""

    name: str  # "version 3"
    draws: Draws
    held_out: float = ALIKE  # `held_out_part`


def decide(
    gate: Gate,
    rule: Rule,
    own: Mapping[str, Mapping[str, float]],
    challenger: Draws = (),
    champion: Opponent | None = None,
    best: Opponent | None = None,
) -> Verdict:
    """The verdict on a challenger with its `own` scores (value, low, high) and its draws beside those of opponents.

    `best` is the best of the former champions, which `not_worse` is held against too, so that quality does not creep
    down; None where that is the champion.
    """
    checks = list[Check]()
    missing = [
        f"{SCORES[score].title} has a limit, and this model has no such score."
        for score in gate.limits
        if score not in own
    ]
    if champion is not None and gate.score not in challenger[0]:
        missing.append(
            f"{SCORES[gate.score].title} is not to be had of these data; name another gate.score (mlflow.yml)."
        )
    elif champion is not None:
        checks.append(compared(gate, rule, challenger, champion))
        checks += [compared(gate, rule, challenger, best)] if best is not None and rule == "not_worse" else []
        guards = [(score, lost) for score, lost in gate.guards.items() if score in challenger[0]]
        checks += [check("guard", score, challenger, champion, lost) for score, lost in guards]
    checks += [limited(score, limit, own[score]) for score, limit in gate.limits.items() if score in own]
    passed = not missing and all(check.holds for check in checks)
    return Verdict("promoted" if passed else "kept", rule, tuple(checks), tuple(reasons(checks, missing)))


def reasons(checks: Sequence[Check], missing: Sequence[str]) -> list[str]:
    """What failed, in sentences; when nothing did, what the rule found and that the rest holds."""
    if failed := [*missing, *(check.sentence for check in checks if not check.holds)]:
        return failed
    ruling = [check.sentence for check in checks if check.rule in ("better", "not worse")]
    rest = dict.fromkeys(SCORES[check.score].noun for check in checks if check.rule in ("guard", "limit"))
    return [*ruling, f"Its guards and limits hold: {', '.join(rest)}." if rest else "There are no limits."]


def compared(gate: Gate, rule: Rule, challenger: Draws, other: Opponent) -> Check:
    """The check of the gate's own score, by its rule."""
    if rule == "better":
        return check("better", gate.score, challenger, other, 0.0)
    value = float(np.mean([draw[gate.score] for draw in other.draws]))
    return check("not worse", gate.score, challenger, other, gate.margin * abs(value))


def check(
    rule: Literal["better", "not worse", "guard"], score: str, challenger: Draws, other: Opponent, margin: float
) -> Check:
    """Whether the bad end of the paired interval is on the good side, or at most `margin` on the bad one."""
    mine, theirs = (np.array([draw[score] for draw in draws]) for draws in (challenger, other.draws))
    found = difference(mine, theirs, other.held_out)
    if lower_is_better(score):
        holds = found.high < 0 if rule == "better" else found.high <= margin
        needed = "lower" if rule == "better" else f"at most {margin:.4g} more"
    else:
        holds = found.low > 0 if rule == "better" else found.low >= -margin
        needed = "higher" if rule == "better" else f"at most {margin:.4g} less"
    values = float(mine.mean()), found.low, found.high
    return Check(rule, score, *values, needed, bool(holds), other.name, float(theirs.mean()))


def limited(score: str, limit: Limit, own: Mapping[str, float]) -> Check:
    """Whether the challenger's whole interval keeps to a limit."""
    low, high = own["low"], own["high"]
    holds = (limit.min is None or low >= limit.min) and (limit.max is None or high <= limit.max)
    ends = {"at least": limit.min, "at most": limit.max}
    needed = " and ".join(f"{words} {end:g}" for words, end in ends.items() if end is not None)
    return Check("limit", score, own["value"], low, high, needed, holds)


def held_out_part(share: float, *, alike: bool) -> float:
    """What the held-out data add to the interval when a draw takes this share f of them, for models of one kind or not.

    Draws of the share f vary by (1 - f)/f of the variance that the whole of the held-out data gives to all of them.
    """
    return (ALIKE if alike else UNLIKE) * share / (1 - share)


def difference(mine: np.ndarray, theirs: np.ndarray, held_out: float = ALIKE) -> Difference:
    """Mean and interval of (R,) paired values: the first less the second."""
    from scipy.special import stdtrit  # it takes half a second, and most who read the settings decide nothing

    apart = np.asarray(mine, float) - np.asarray(theirs, float)
    count, mean = len(apart), float(apart.mean())
    reach = float(stdtrit(count - 1, CONFIDENCE)) * float(apart.std(ddof=1)) * math.sqrt(1 / count + held_out)
    return Difference(mean, mean - reach, mean + reach)


def lower_is_better(score: str) -> bool:
    return COPYING.get(score, SCORES[score].better) == "lower"


def best_of(gate: Gate, scored: Mapping[str, Mapping[str, float]]) -> str | None:
    """The name with the best value of the gate's score, among those whose values keep to the limits."""
    sound = {
        name: values[gate.score]
        for name, values in scored.items()
        if gate.score in values
        and all(limited(s, limit, alone(values[s])).holds for s, limit in gate.limits.items() if s in values)
    }
    if not sound:
        return None
    return (min if lower_is_better(gate.score) else max)(sound, key=lambda name: sound[name])


def alone(value: float) -> dict[str, float]:
    """A value without an interval."""
    return {"value": value, "low": value, "high": value}
