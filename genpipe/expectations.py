"""Great Expectations: holds rules against tables, and writes the pages that people read (Data Docs).

The only module that imports it. A long table is given chunk by chunk; the counts of a rule are added up.
"""

import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.checkpoint.actions import UpdateDataDocsAction
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

from genpipe.data.rules import Rule
from genpipe.errors import DataError

SITE = "local_site"  # which Great Expectations would write to a temporary folder

logging.getLogger("great_expectations").setLevel(logging.WARNING)


@dataclass(frozen=True)
class Outcome:
    """What Great Expectations says of a rule: rows that have a value, those that break it, or the figure observed."""

    rows: int
    bad: int
    success: bool
    observed: Any = None


class Pages:
    """A context of Great Expectations whose pages lie in one folder; what lay there before is deleted."""

    def __init__(self, folder: Path) -> None:
        if folder.exists():
            shutil.rmtree(folder)
        self._context = gx.get_context(mode="ephemeral")
        self._context.variables.progress_bars = ProgressBarsConfig(globally=False)
        backend = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)}
        index = {"class_name": "DefaultSiteIndexBuilder"}
        site: Any = {"class_name": "SiteBuilder", "store_backend": backend, "site_index_builder": index}
        self._context.update_data_docs_site(SITE, site)
        self._source = self._context.data_sources.add_pandas("manifest")
        self._checkpoints: dict[str, gx.Checkpoint] = {}

    def hold(self, rules: Sequence[Rule], name: str, table: pd.DataFrame, title: str) -> list[Outcome]:
        """One outcome a rule, in order. Tables held against the same rules have the same `name`, each its own `title`.

        Raises DataError when an expectation can't be computed.
        """
        checkpoint = self._checkpoints.get(name) or self._checkpoint(rules, name)
        self._checkpoints[name] = checkpoint
        ran = checkpoint.run(batch_parameters={"dataframe": table}, run_id=gx.RunIdentifier(run_name=title))
        (result,) = ran.run_results.values()
        found = {number_of(one): one for one in result.results}
        return [outcome(rule, found[number]) for number, rule in enumerate(rules)]

    def _checkpoint(self, rules: Sequence[Rule], name: str) -> gx.Checkpoint:
        suite = self._context.suites.add(gx.ExpectationSuite(name=name))
        for number, rule in enumerate(rules):
            column = {} if rule.column is None else {"column": rule.column}
            made = ExpectationConfiguration(
                type=rule.expectation,
                kwargs={**column, **rule.options},
                meta={"rule": number},
                notes=f"{rule.reason} ({rule.action})",
            )
            suite.add_expectation(made.to_domain_obj())
        batch = self._source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        definition = gx.ValidationDefinition(name=name, data=batch, suite=suite)
        action = UpdateDataDocsAction(name="pages", site_names=[SITE])
        checkpoint = gx.Checkpoint(
            name=name, validation_definitions=[self._context.validation_definitions.add(definition)], actions=[action]
        )
        return self._context.checkpoints.add(checkpoint)


def number_of(found: Any) -> int:
    """Which rule a result of Great Expectations belongs to; they come back in another order."""
    return int(found.expectation_config.meta["rule"])


def outcome(rule: Rule, found: Any) -> Outcome:
    """One result of Great Expectations."""
    if not found.result:
        raise DataError(f"{rule.expectation} on '{rule.column}' can't be computed: {found.exception_info}")
    rows = found.result.get("element_count", 0)
    if rule.about_rows:
        missing = found.result.get("missing_count", 0)  # absent where the rule is about missing values
        return Outcome(rows - missing, found.result["unexpected_count"], found.success)
    observed = found.to_json_dict()["result"].get("observed_value")
    known = not isinstance(observed, float) or math.isfinite(observed)  # the deviation of one row is no number
    return Outcome(rows, 0, found.success, observed if known else None)


def added(rule: Rule, outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of a rule about rows over all chunks."""
    rows, bad = sum(one.rows for one in outcomes), sum(one.bad for one in outcomes)
    return Outcome(rows, bad, rule.holds(rows, bad))
