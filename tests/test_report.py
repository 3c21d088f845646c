"""The page says what the numbers say, needs nothing but itself, and shows each curve."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from genpipe.evaluation import report
from genpipe.evaluation.scores import FORMAT

ROW = {"value": 5.0, "low": 4.0, "high": 6.0, "floor": 1.0, "baseline": 9.0}
SHARE = {"value": 0.9, "low": 0.85, "high": 0.95, "floor": 0.94, "baseline": 0.4}
COPIES = {"value": 0.01, "low": 0.0, "high": 0.02, "floor": 0.01, "baseline": 0.0}
RATIO = {"value": 0.98, "low": 0.95, "high": 1.01, "floor": 1.0, "baseline": 1.1}
CARD = {
    "generator": "gan", "dataset": "<digits>", "condition": "label", "draws": 10, "count_of_a_draw": 288,
    "held_out_count": 360, "split": "test", "interval": "percentiles 5 to 95", "floor": "real", "baseline": "simple",
    "evaluator": "features of a network", "estimators": {"recall": "recall 1", "near_copies": "near_copies 1"},
    "sampling": {"truncation": 1.0},
}  # fmt: skip
MEMORISATION = {"nearest_ratio": RATIO, "near_copies": COPIES}
METRICS: dict[str, Any] = {"format": FORMAT, "frechet_distance": ROW, "recall": SHARE, **MEMORISATION, "card": CARD}
PICTURES = {"samples": "data:image/png;base64,AA==", "neighbours": "data:image/png;base64,AA=="}


class Links(HTMLParser):
    """What a page loads, and which elements are left open."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass  # <path/>

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing() -> None:
    page = report.page(METRICS, PICTURES, [report.chart("critic_loss", [(0, 1.0), (10, 0.5)])])
    links = Links()
    links.feed(page)
    assert links.open == []
    assert links.sources == list(PICTURES.values())
    assert "url(" not in page
    assert "&lt;digits&gt;" in page  # names are text, not markup
    assert "4.00 to 6.00" in page
    assert "<dt>estimators</dt><dd>recall 1, near copies 1</dd>" in page


def test_people_keep_their_capital_letters() -> None:
    assert report.words("frechet_distance 1") == "Fréchet distance 1"
    good = {name: {**ROW, "low": 0.5} for name in ("frechet_distance", "kernel_distance")}
    page = report.page({**METRICS, **good}, PICTURES, [])
    assert "As good as real data on 3: Fréchet distance, kernel distance, recall." in page
    assert "frechet" not in page


def test_the_verdict_counts_scores_and_clears_of_copying() -> None:
    assert report.verdict(METRICS) == [
        "Better than the baseline on 2 of 2 scores.",
        "As good as real data on 1: recall.",
        "No sign of copying: 1.0\u00a0% of samples lie as near to a training example as 1.0\u00a0% of held-out data do,"
        " and the median distance is 0.980 of theirs.",
    ]


def test_the_verdict_says_what_is_bad() -> None:
    poor = {**ROW, "value": 20.0, "low": 19.0, "high": 21.0}
    below = {**SHARE, "value": 0.2, "low": 0.1, "high": 0.3}
    copies = {**COPIES, "value": 0.5, "low": 0.4, "high": 0.6}
    metrics = {**METRICS, "frechet_distance": poor, "recall": below, "near_copies": copies}
    behind, real, copying = report.verdict(metrics)
    assert behind == "Better than the baseline on 0 of 2 scores."
    assert real == "Behind real data on all of them."
    assert copying.startswith("Copying is likely: 50.0\u00a0%")


def test_samples_near_training_examples_are_copies_whatever_held_out_data_repeat() -> None:
    many = {**COPIES, "value": 1.0, "low": 1.0, "high": 1.0, "floor": 0.4}
    near = {**RATIO, "value": 0.1, "low": 0.0, "high": 0.2}
    assert report.copying(near, many).startswith("Copying is likely")
    assert report.copying(near, COPIES).startswith("Copying is likely")
    assert report.copying(RATIO, COPIES).startswith("No sign")


def test_the_way_goes_from_the_gaussian_to_real_data() -> None:
    assert report.row("frechet_distance", ROW).way == 0.5
    assert report.row("frechet_distance", {**ROW, "value": 0.0}).way == 1
    assert report.row("recall", {**SHARE, "baseline": 0.95}).way is None  # real data are no better: no way to go


def test_a_curve_spans_its_chart_and_skips_empty_cells(tmp_path: Path) -> None:
    file = tmp_path / "curves.csv"
    file.write_text("step,loss,validation/loss\n0,3,\n10,2,5\n20,1,\n")
    loss, validation = report.charts(file)
    assert (loss.low, loss.high, loss.last, loss.last_step) == (1, 3, 1, 20)
    assert loss.points == "0.0,0.0 160.0,48.0 320.0,96.0"
    assert (validation.name, validation.last_step) == ("validation · loss", 10)


def test_a_long_curve_is_thinned_to_means() -> None:
    found = report.chart("loss", [(step, float(step % 2)) for step in range(12_000)])
    assert len(found.points.split()) == report.POINTS
    assert (found.low, found.high) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.97712, "0.977"), (-0.004, "−0.004"), (0.99986, "1.00"), (5.4805, "5.48"), (31.31, "31.3"), (12345.6, "12,346")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert report.number(value) == text
