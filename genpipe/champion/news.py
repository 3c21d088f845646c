"""The news that retraining has made a champion: kept in the registry until somebody was told.

The version carries the tag UNTOLD, which says why it was trained, from before the alias moves until a notice was taken.
A run that is killed in between leaves it to the next one; a champion of old, or of a person's hand, is no news to any.
"""

import os

from genpipe.champion import ledger
from genpipe.champion.verdict import of_tags
from genpipe.project import Project
from genpipe.records import registry
from genpipe.records.registry import ModelVersion
from genpipe.unattended.pending import WHY

UNTOLD = "genpipe.untold"


def tags() -> dict[str, str]:
    """Those of a version that is about to be promoted; none outside of a retraining, where somebody looks on."""
    return {UNTOLD: os.environ[WHY]} if os.environ.get(WHY) else {}


def untold(project: Project) -> ModelVersion | None:
    """The champion, if nobody was told of it yet."""
    champion = ledger.champion(project)
    return champion if champion and UNTOLD in champion.tags else None


def text(version: ModelVersion) -> str:
    """What there is to say of a new champion: since when, by which verdict, and why it was trained."""
    verdict = of_tags(version.tags)
    lines = [version.tags.get(ledger.PROMOTED, ""), " ".join(verdict.reasons) if verdict else ""]
    return "\n".join([*filter(None, lines), f"Why it was trained: {version.tags[UNTOLD]}."])


def settle(project: Project, version: ModelVersion) -> None:
    """Note that somebody was told of `version`."""
    registry.untag_version(project, int(version.version), UNTOLD)
