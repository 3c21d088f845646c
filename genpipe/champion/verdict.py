"""A verdict of the gate: what was asked of a challenger, what was found, and how it stands on a version in MLflow.

The outcome, the sentences and the checks are tags of the version; the same checks are a table in its description.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from genpipe.metrics import SCORES

ALLOW_DIRTY = "GENPIPE_ALLOW_DIRTY"  # in the environment: set by `genpipe run --allow-dirty`
OUTCOME, REASONS, CHECKS = "genpipe.verdict", "genpipe.verdict.reasons", "genpipe.verdict.checks"

Rule = Literal["first", "better", "not_worse"]
Outcome = Literal["promoted", "kept", "uncommitted"]
# By each rule: why a version is promoted, and why it is not.
GROUNDS: dict[Rule, tuple[str, str]] = {
    "first": ("as the first version", "since it does not keep to the limits"),
    "better": (
        "since it is shown to be better within guards and limits",
        "since it is not shown to be better within guards and limits",
    ),
    "not_worse": (
        "since it is shown to be as good within margin, guards and limits",
        "since it is not shown to be as good within margin, guards and limits",
    ),
}


@dataclass(frozen=True)
class Check:
    """One thing that must hold. `value` is the challenger's; the interval is of the difference, for a limit of itself.

    `other` is the value of the version named in `against`; a limit has neither.
    """

    rule: Literal["better", "not worse", "guard", "limit"]
    score: str
    value: float
    low: float
    high: float
    needed: str
    holds: bool
    against: str = ""
    other: float | None = None

    @property
    def title(self) -> str:
        return SCORES[self.score].title

    @property
    def sentence(self) -> str:
        if self.other is None:
            found = f"{self.title} {self.value:.4g} ({self.low:.4g} to {self.high:.4g})"
            return f"{found} {'keeps to' if self.holds else 'breaks'} its limit: {self.needed}."
        found = f"{self.title} {self.value:.4g} against {self.other:.4g} of {self.against}"
        even = self.rule == "better" and self.low <= 0 <= self.high
        why = ", since the interval of the difference holds 0" if even else ""
        shown = "" if self.holds else f"; it is not shown to be {self.needed}{why}"
        return f"{found}: {self.value - self.other:+.4g} ({self.low:+.4g} to {self.high:+.4g}){shown}."

    def row(self) -> dict[str, str]:
        """As people read it in a table."""
        alone = self.other is None
        sign = "" if alone else "+"
        return {
            "check": f"{self.title}: {self.rule}",
            "challenger": f"{self.value:.4g}",
            "against": "" if alone else f"{self.other:.4g} ({self.against})",
            "difference": "" if alone else f"{self.value - (self.other or 0):+.4g}",
            "interval": f"{self.low:{sign}.4g} to {self.high:{sign}.4g}",
            "needed": self.needed,
            "holds": "yes" if self.holds else "no",
        }


@dataclass(frozen=True)
class Verdict:
    """What the gate decided, by which rule, and why, in plain sentences.

    `uncommitted` would be `promoted` but for code or settings that no commit holds.
    """

    outcome: Outcome
    rule: Rule
    checks: tuple[Check, ...]
    reasons: tuple[str, ...]

    def uncommitted(self, version: str, *, in_git: bool = True) -> "Verdict":
        """The same for a version whose code no commit holds."""
        state = (
            "code or settings of its training were not committed. Commit them and run again"
            if in_git
            else "git knows no commit of this folder (`git log` says why). Mend that and run again"
        )
        why = f"It passes, but {state}, or `genpipe promote {version} --allow-dirty`."
        return replace(self, outcome="uncommitted", reasons=(why, *self.reasons))

    @property
    def title(self) -> str:
        if self.outcome == "uncommitted":
            return "held back, since its code or settings are in no commit"
        return f"{'promoted' if self.outcome == 'promoted' else 'stays challenger'}, {self.ground}"

    @property
    def ground(self) -> str:
        """Why it passes or does not, in general; the reasons have the figures."""
        passes, fails = GROUNDS[self.rule]
        return fails if self.outcome == "kept" else passes

    def rows(self) -> list[dict[str, str]]:
        return [check.row() for check in self.checks]

    def markdown(self) -> str:
        """Outcome, sentences, and the table of checks."""
        lines = [f"**Gate: {self.title}.** {' '.join(self.reasons)}"]
        if rows := self.rows():
            lines += ["", f"| {' | '.join(rows[0])} |", "|" + "---|" * len(rows[0])]
            lines += [f"| {' | '.join(row.values())} |" for row in rows]
        return "\n".join(lines)

    def tags(self) -> dict[str, str]:
        """As the tags of a version; `of_tags` reads them."""
        checks = [
            {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in asdict(check).items()}
            for check in self.checks
        ]
        written = json.dumps({"rule": self.rule, "checks": checks}, ensure_ascii=False)
        # The outcome last: a verdict of which a kill left a part is none.
        return {REASONS: "\n".join(self.reasons), CHECKS: written, OUTCOME: self.outcome}

    def figures(self) -> dict[str, float]:
        """As metrics of a run: difference and interval of each check beside another version."""
        return {
            f"gate/{check.score}_{name}": value
            for check in self.checks
            if check.other is not None
            for name, value in {"difference": check.value - check.other, "low": check.low, "high": check.high}.items()
        }

    def plain(self) -> dict[str, Any]:
        """As JSON, for those who show it."""
        return {"outcome": self.outcome, "title": self.title, "reasons": list(self.reasons), "rows": self.rows()}


def of_tags(tags: Mapping[str, str]) -> Verdict | None:
    """The verdict on the version with these tags; None where there is none, a part of it, or another genpipe's."""
    try:
        content = json.loads(tags[CHECKS])
        checks = tuple(Check(**check) for check in content["checks"])
        found = Verdict(tags[OUTCOME], content["rule"], checks, tuple(tags[REASONS].split("\n")))  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError):
        return None
    known = found.outcome in get_args(Outcome) and found.rule in GROUNDS and all(c.score in SCORES for c in checks)
    return found if known else None
