"""validate: measure every raw row, hold all against the suite that the team edits, set bad rows aside, or stop.

The suite runs in Great Expectations, whose result and pages (Data Docs) people read; the same rules give the row masks,
and both must agree. A chunk of the manifest is in memory at once, and of each row some bytes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from genpipe import code, modalities
from genpipe.config import Field, settings
from genpipe.data import cache, duplicates, manifest, suite
from genpipe.data.cache import Part
from genpipe.data.dataset import Stored
from genpipe.data.rules import Rule
from genpipe.errors import DataError
from genpipe.files import write_json
from genpipe.project import Project

if TYPE_CHECKING:
    from genpipe.expectations import Outcome

CHUNK_ROWS = 100_000  # that Great Expectations is given at once
COMPARED = ("duplicate_of", "near_duplicate_of")


@settings
class Config:
    max_quarantined: float = Field(default=0.05, ge=0, le=1, description="share of bad rows above which the run stops")
    min_accepted: int = Field(default=100, ge=1, description="fewer good rows than this stop the run")


@dataclass
class Found:
    """What a suite says of the data; `results` are its rules in order, each with its outcome."""

    rows: int = 0
    quarantined: int = 0
    results: list[dict[str, Any]] = field(default_factory=list)


def run(cfg: Config, project: Project) -> dict[str, float]:
    """Write manifest.parquet, accepted.parquet, quarantine.parquet (with a reason a row) and result.json.

    They lie in artifacts/validate/. Raises DataError, after these are written, when too many rows are bad, too few are
    good, or a rule that stops does not hold.
    """
    stored = Stored.find(project.data)
    if not stored.rows:
        raise DataError(f"{stored.about.name} holds no example any more; ingest.source can bring others (params.yaml)")
    modality = modalities.load(stored.about.modality)
    rules = suite.for_classes(suite.read(project.root, modality), len(stored.about.classes))
    found = judge(measured(stored, project), modality, rules, project)
    faults = refusals(cfg, found)
    decision = "stop" if faults else "pass with quarantine" if found.quarantined else "pass"
    counts, folder = {"rows": found.rows, "quarantined": found.quarantined}, project.artifacts / "validate"
    write_json(folder / "result.json", {**counts, "decision": decision, "rules": found.results})
    noted_file(project).write_text(outputs_digest(project), encoding="utf-8")
    print(f"{found.rows} rows, {found.quarantined} quarantined: {decision}")
    for result in found.results:
        if result["action"] != "quarantine" and not result["success"]:
            print(remark(result))
    if faults:
        raise DataError("; ".join([*faults, f"each bad row stands in {folder / 'quarantine.parquet'}"]))
    return {key: float(value) for key, value in counts.items()}


def measured(stored: Stored, project: Project) -> list[Path]:
    """A file of measurements for each shard; those of a shard that was there before are found again."""
    name = stored.about.modality
    depends = code.digest("genpipe.data.manifest", f"genpipe.modalities.{name}")
    parts = [Part(shard, 0) for shard in stored.shards]
    found = cache.of_parts(cache.folder(project, "validate"), parts, partial(manifest.measure, name), depends)
    first = list(islice(found, 1))
    import genpipe.expectations  # noqa: F401  # takes seconds, in which the workers go on

    return [*first, *found]


def judge(shards: Sequence[Path], modality: ModuleType, rules: Sequence[Rule], project: Project) -> Found:
    """Hold the rules against all rows, and write the manifest, the accepted and the quarantined rows.

    Raises DataError when a mask sets aside other rows than Great Expectations counts.
    """
    from genpipe.expectations import Outcome, Pages, added

    of_rows, of_whole = [rule for rule in rules if rule.about_rows], [rule for rule in rules if not rule.about_rows]
    pages, found, folder = Pages(project.state / "data_docs"), Found(), project.artifacts / "validate"
    kept, outcomes = list[pd.DataFrame](), list[list[Outcome]]()
    columns = ["row", *dict.fromkeys(rule.column for rule in of_whole if rule.column)]
    whole = pa.schema(manifest.fields(modality))
    with ExitStack() as stack:
        everything = stack.enter_context(manifest.writing(folder / "manifest.parquet", whole))
        accepted = stack.enter_context(manifest.writing(folder / "accepted.parquet", manifest.KEYS))
        reasoned = whole.append(pa.field("reason", pa.string()))
        quarantine = stack.enter_context(manifest.writing(folder / "quarantine.parquet", reasoned))
        for table in chunks(shards, of_rows):
            masks = [rule.broken(table) for rule in of_rows]
            title = f"rows {table['row'].iloc[0]} to {table['row'].iloc[-1]}"
            outcomes.append(pages.hold(of_rows, "rows", table, title) if of_rows else [])
            check_counts(of_rows, outcomes[-1], masks)
            reasons = explain(table, of_rows, masks)
            good = reasons == ""
            everything.write(table)
            accepted.write(table[good].astype({"row": "int64"}))
            quarantine.write(table[~good].assign(reason=reasons[~good]))
            kept.append(table.loc[good, columns])
            found.rows, found.quarantined = found.rows + len(table), found.quarantined + int((~good).sum())
    of_chunks = zip(*outcomes, strict=True)
    summed = [added(rule, list(every)) for rule, every in zip(of_rows, of_chunks, strict=True)]
    observed = pages.hold(of_whole, "whole", pd.concat(kept, ignore_index=True), "accepted rows") if of_whole else []
    by_rule = iter(summed), iter(observed)
    found.results = [summarise(rule, next(by_rule[0 if rule.about_rows else 1])) for rule in rules]
    return found


def chunks(shards: Sequence[Path], rules: Sequence[Rule]) -> Iterator[pd.DataFrame]:
    """The manifest, at least CHUNK_ROWS rows at a time while there are so many."""
    same, near = compare(shards, rules)
    waiting, first = list[Path](), 0
    for shard in shards:
        waiting.append(shard)
        rows = sum(manifest.length(one) for one in waiting)
        if rows >= CHUNK_ROWS or shard == shards[-1]:
            table, span = manifest.frame(waiting), slice(first, first + rows)
            table["row"] = pd.array(np.arange(first, first + rows), "Int32")
            table["duplicate_of"], table["near_duplicate_of"] = numbers(same[span]), numbers(near[span])
            yield table
            waiting, first = [], first + rows


def compare(shards: Sequence[Path], rules: Sequence[Rule]) -> tuple[np.ndarray, np.ndarray]:
    """For each row the one with the same content that is kept, and one that looks nearly the same; else NONE.

    Rows that other rules set aside take no good row with them.
    """
    judging = [rule for rule in rules if rule.action == "quarantine" and rule.column not in COMPARED]
    ids, likenesses, usable = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
    for shard in shards:
        table = manifest.frame([shard])
        ids.append(manifest.ids(shard))
        likenesses.append(manifest.likenesses(shard))
        broken = [rule.broken(table).to_numpy() for rule in judging]
        usable.append(~np.any(broken, axis=0) if broken else np.ones(len(table), bool))
    good = np.concatenate(usable)
    same = duplicates.same(np.concatenate(ids), good)
    return same, duplicates.near(np.concatenate(likenesses), good & (same == duplicates.NONE))


def numbers(rows: np.ndarray) -> pd.Series:
    """Row numbers, missing where there is NONE."""
    return pd.Series(rows, dtype="Int32").mask(rows == duplicates.NONE)


def explain(table: pd.DataFrame, rules: Sequence[Rule], masks: Sequence["pd.Series[bool]"]) -> "pd.Series[str]":
    """Why each row is set aside, all reasons joined; empty for a good row."""
    reasons = pd.Series("", index=table.index)
    for rule, broken in zip(rules, masks, strict=True):
        if rule.action == "quarantine":
            reasons[broken] = reasons[broken].where(reasons[broken] == "", reasons[broken] + "; ") + rule.reason
    return reasons


def check_counts(rules: Sequence[Rule], outcomes: Sequence["Outcome"], masks: Sequence["pd.Series[bool]"]) -> None:
    """Raises DataError when a mask sets aside other rows than Great Expectations counts."""
    for rule, outcome, mask in zip(rules, outcomes, masks, strict=True):
        if outcome.bad != mask.sum():
            raise DataError(
                f"{rule.expectation} on '{rule.column}': Great Expectations counts {outcome.bad} bad rows, "
                f"the mask {mask.sum()}; the rule's mask in genpipe/data/rules.py does not follow the expectation"
            )


def summarise(rule: Rule, outcome: "Outcome") -> dict[str, Any]:
    """A rule as result.json has it."""
    shown = {"bad": outcome.bad} if rule.about_rows else {"observed": outcome.observed}
    return {
        "expectation": rule.expectation,
        "column": rule.column,
        **rule.options,
        "reason": rule.reason,
        "action": rule.action,
        "success": outcome.success,
        **shown,
    }


def remark(result: dict[str, Any]) -> str:
    """What the log says of a rule that does not hold and sets no row aside."""
    if result["action"] == "stop":
        return f"stop: {told(result)}"
    if "bad" not in result:
        return f"reported: {told(result)}"
    rows = "1 row" if result["bad"] == 1 else f"{result['bad']:,} rows"
    return f"reported, not set aside: {rows} ({result['reason']})"


def told(result: dict[str, Any]) -> str:
    """A rule that does not hold, in words."""
    if "bad" in result:
        return f"{result['bad']} × {result['reason']}"
    seen = "" if result["observed"] is None else f", found {result['observed']}"
    return f"{result['reason']} ({result['expectation']} on '{result['column']}'{seen})"


def refusals(cfg: Config, found: Found) -> list[str]:
    """Why the run stops; nothing when it goes on."""
    bad, good = found.quarantined, found.rows - found.quarantined
    faults = []
    if bad > cfg.max_quarantined * found.rows or good < cfg.min_accepted:
        aside = [one for one in found.results if one["action"] == "quarantine" and one["bad"]]
        most = "; ".join(told(one) for one in sorted(aside, key=lambda one: -one["bad"])[:3])
        faults.append(
            f"{bad} of {found.rows} rows are bad ({most or 'none'}); validate.max_quarantined allows a share of "
            f"{cfg.max_quarantined:g} and validate.min_accepted asks for {cfg.min_accepted} good rows (params.yaml)"
        )
    stopping = [one for one in found.results if one["action"] == "stop" and not one["success"]]
    return [*faults, *(f"{told(one)}, which the suite says stops the run" for one in stopping)]


def pages(project: Project) -> dict[str, Path]:
    """Title → page of Data Docs, the first page first; none when they tell of other data or rules than the outputs do.

    So they do where DVC brought the outputs back and nothing was validated here.
    """
    noted = noted_file(project)
    if not noted.exists() or noted.read_text(encoding="utf-8") != outputs_digest(project):
        return {}
    results = sorted(noted.parent.glob("validations/*/*/*/*.html"), key=lambda page: page.parent.name)
    return {"Data Docs": noted.parent / "index.html", **{page.parts[-3]: page for page in results}}


def noted_file(project: Project) -> Path:
    """Which outputs the pages tell of."""
    return project.state / "data_docs" / "outputs.sha256"


def outputs_digest(project: Project) -> str:
    total = hashlib.sha256()
    for name in ("result.json", "manifest.parquet"):
        file = project.artifacts / "validate" / name
        total.update(file.read_bytes() if file.exists() else b"")
    return total.hexdigest()
