"""The runbook has a section for each class of error, with the remedy that `genpipe status` gives."""

import re

import pytest

from genpipe import errors
from genpipe.errors import GenpipeError
from tests.clones import ROOT

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GenpipeError)]


def sections() -> dict[str, str]:
    text = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^## (.+)\n\n((?:(?!^## ).*\n)*)", text, re.MULTILINE))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_class_of_error_has_a_section_with_its_remedy_and_more(kind: type[GenpipeError]) -> None:
    remedy, _, more = sections()[kind.__name__].partition("\n\n")
    assert remedy == f"Remedy: {kind.remedy}"
    assert len(more) > 40


def test_no_section_is_of_an_error_that_does_not_exist() -> None:
    known = {kind.__name__ for kind in KINDS}
    assert {title for title in sections() if title.endswith("Error")} == known
