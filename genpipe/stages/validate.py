"""validate: measure every raw row, hold it against the modality's rules, set bad rows aside, or stop.

The suite runs in Great Expectations, whose result and pages (Data Docs) people read; the same rules give the row mask.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from genpipe import modalities
from genpipe.config import Field, settings
from genpipe.data.dataset import Stored
from genpipe.data.rules import Rule
from genpipe.errors import DataError
from genpipe.files import write_json, written_aside
from genpipe.project import Project

SITE = "local_site"  # which Great Expectations would write to a temporary folder
COLUMN_TYPES = {"id": "str", "error": "str", "duplicate_of": "str"}


@settings
class Config:
    max_quarantined: float = Field(default=0.05, ge=0, le=1, description="share of bad rows above which the run stops")
    min_accepted: int = Field(default=100, ge=1, description="fewer good rows than this stop the run")


def run(cfg: Config, project: Project) -> dict[str, float]:
    """Write accepted.parquet, quarantine.parquet (with a reason a row) and result.json to artifacts/validate/.

    Raises DataError, after these are written, when too many rows are bad or too few are good.
    """
    stored = Stored.find(project.data)
    modality = modalities.load(stored.about.modality)
    table = measure(stored, modality)
    rules = [*modality.RULES, *common_rules(stored)]
    reasons = explain(table, rules)
    results = expectations(table, rules, project.state / "data_docs")
    check_counts(results, [int(rule.broken(table).sum()) for rule in rules])
    good, summary = reasons == "", {"rows": len(table), "quarantined": int((reasons != "").sum())}
    folder = project.artifacts / "validate"
    write_table(folder / "accepted.parquet", table[good][["id", "row"]])
    write_table(folder / "quarantine.parquet", table[~good].assign(reason=reasons[~good]))
    write_json(folder / "result.json", {**summary, "decision": decide(cfg, summary), "rules": results})
    print(f"{summary['rows']} rows, {summary['quarantined']} quarantined: {decide(cfg, summary)}")
    if decide(cfg, summary) == "stop":
        raise DataError(refusal(cfg, summary, reasons, folder))
    return {key: float(value) for key, value in summary.items()}


def measure(stored: Stored, modality: ModuleType) -> pd.DataFrame:
    """The validation table: `row`, `id`, `label`, `duplicate_of` and what the modality measures of each example."""
    first: dict[str, int] = {}
    records = []
    for number, row in enumerate(stored.read_rows()):
        known = first.setdefault(row["id"], number)
        duplicate = None if known == number else f"row {known}"
        described = {"error": None, **modality.describe(row), "duplicate_of": duplicate}
        records.append({"row": number, "id": row["id"], "label": row.get("label"), **described})
    measured = {rule.column for rule in modality.RULES}  # there, even if no example could be measured
    table = pd.DataFrame.from_records(records)
    table = table.reindex(columns=[*table.columns, *sorted(measured - set(table.columns))])
    return table.astype({name: kind for name, kind in COLUMN_TYPES.items() if name in table})


def common_rules(stored: Stored) -> list[Rule]:
    """What holds for every modality: no example twice, and a known label where there are labels."""
    rules = [Rule("expect_column_values_to_be_null", "duplicate_of", "the same content as an earlier row")]
    if stored.about.classes:
        labels = list(range(len(stored.about.classes)))
        rules += [
            Rule("expect_column_values_to_not_be_null", "label", "no label"),
            Rule("expect_column_values_to_be_in_set", "label", "unknown label", {"value_set": labels}),
        ]
    return rules


def explain(table: pd.DataFrame, rules: Sequence[Rule]) -> pd.Series:
    """Why each row is bad, all reasons joined; empty for a good row."""
    reasons = pd.Series("", index=table.index)
    for rule in rules:
        broken = rule.broken(table)
        reasons[broken] = reasons[broken].where(reasons[broken] == "", reasons[broken] + "; ") + rule.reason
    return reasons


def expectations(table: pd.DataFrame, rules: Sequence[Rule], pages: Path) -> list[dict[str, Any]]:
    """Run the rules as a Great Expectations suite and write its Data Docs to `pages`; one summary a rule, in order."""
    import great_expectations as gx
    from great_expectations.checkpoint.actions import UpdateDataDocsAction
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    batch = (
        context.data_sources.add_pandas("raw").add_dataframe_asset("rows").add_batch_definition_whole_dataframe("all")
    )
    suite = context.suites.add(gx.ExpectationSuite(name="data"))
    for rule in rules:
        kwargs = {"column": rule.column, **rule.options}
        suite.add_expectation(ExpectationConfiguration(type=rule.expectation, kwargs=kwargs).to_domain_obj())
    definition = context.validation_definitions.add(gx.ValidationDefinition(name="data", data=batch, suite=suite))
    context.update_data_docs_site(SITE, site_at(pages))
    action = UpdateDataDocsAction(name="pages", site_names=[SITE])
    checkpoint = gx.Checkpoint(name="data", validation_definitions=[definition], actions=[action])
    (result,) = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": table}).run_results.values()
    ran: list[Any] = list(result.results)
    found = {(one.expectation_config.type, one.expectation_config.kwargs["column"]): one for one in ran}
    return [summarise(rule, found[rule.expectation, rule.column]) for rule in rules]


def site_at(pages: Path) -> Any:
    """Data Docs as files below `pages`."""
    backend = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(pages)}
    index = {"class_name": "DefaultSiteIndexBuilder"}
    return {"class_name": "SiteBuilder", "store_backend": backend, "site_index_builder": index}


def summarise(rule: Rule, result: Any) -> dict[str, Any]:
    unexpected = result.result.get("unexpected_count", 0)
    options = dict(rule.options)
    return {
        "expectation": rule.expectation,
        "column": rule.column,
        **options,
        "success": result.success,
        "bad": unexpected,
    }


def check_counts(results: Sequence[dict[str, Any]], masked: Sequence[int]) -> None:
    """Raises DataError when a mask sets aside other rows than Great Expectations counts."""
    for result, count in zip(results, masked, strict=True):
        if result["bad"] != count:
            raise DataError(
                f"{result['expectation']} on '{result['column']}': Great Expectations counts {result['bad']} bad rows, "
                f"the mask {count}; the rule's mask in genpipe/data/rules.py does not follow the expectation"
            )


def decide(cfg: Config, summary: dict[str, int]) -> str:
    """`pass`, `pass with quarantine` or `stop`."""
    bad, rows = summary["quarantined"], summary["rows"]
    if bad > cfg.max_quarantined * rows or rows - bad < cfg.min_accepted:
        return "stop"
    return "pass with quarantine" if bad else "pass"


def refusal(cfg: Config, summary: dict[str, int], reasons: pd.Series, folder: Path) -> str:
    bad, rows = summary["quarantined"], summary["rows"]
    most = "; ".join(f"{count} × {reason}" for reason, count in reasons[reasons != ""].value_counts().head(3).items())
    return (
        f"{bad} of {rows} rows are bad ({most or 'none'}); validate.max_quarantined allows a share of "
        f"{cfg.max_quarantined:g} and validate.min_accepted asks for {cfg.min_accepted} good rows (params.yaml); "
        f"each bad row stands in {folder / 'quarantine.parquet'}"
    )


def write_table(file: Path, table: pd.DataFrame) -> None:
    with written_aside(file) as aside:
        table.reset_index(drop=True).to_parquet(aside)
