"""report.html: what evaluate found, on one page that needs nothing but itself (pictures and charts are inside it)."""

import base64
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from genpipe.files import written_aside
from genpipe.metrics import SCORES, Score

COPYING = ("nearest_ratio", "near_copies")
NEAR, MANY = 0.5, 3  # times the score of held-out data: below the one, or above the other, copying is likely
ARROWS = {"lower": "↓", "higher": "↑", "like real": "="}
POINTS = 120  # of a curve
WIDTH, HEIGHT = 320, 96  # of a chart, in the units of its picture

Values = Mapping[str, float]


class Row(NamedTuple):
    """One score as the page shows it."""

    about: Score
    arrow: str
    values: Values
    way: float | None  # share of the way from the baseline (0) to real data (1), where they differ in that order


class Chart(NamedTuple):
    """A training curve: points of an SVG polyline, and the numbers at its edges."""

    name: str
    points: str
    last_step: int
    low: float
    high: float
    last: float


def write(folder: Path, curves: Path) -> None:
    """report.html from metrics.json, samples.png and neighbours.png in `folder`, and the table of training curves."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    pictures = {name: data_uri(folder / f"{name}.png") for name in ("samples", "neighbours")}
    with written_aside(folder / "report.html") as aside:
        aside.write_text(page(metrics, pictures, charts(curves)), encoding="utf-8")


def page(metrics: Mapping[str, Any], pictures: Mapping[str, str], curves: Sequence[Chart]) -> str:
    """The page as HTML; `metrics` as in metrics.json, `pictures` by name as data URIs."""
    environment = Environment(
        loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["number"] = number
    environment.filters["words"] = words
    return environment.get_template("report.html.j2").render(
        rows=[row(name, metrics[name]) for name in SCORES if name in metrics],
        verdict=verdict(metrics),
        classes=classes(metrics),
        pictures=pictures,
        charts=curves,
        chart_size=(WIDTH, HEIGHT),
        card=metrics["card"],
    )


def verdict(metrics: Mapping[str, Any]) -> list[str]:
    """Two or three sentences: against the baseline, against real data, about copying. No score is left out of them."""
    names = [name for name in SCORES if name in metrics and name not in COPYING]
    beaten = [name for name in names if beyond(name, metrics[name], "baseline")]
    level = [name for name in names if not behind(name, metrics[name], "floor")]
    titles = ", ".join(SCORES[name].noun for name in level)
    real = f"As good as real data on {len(level)}: {titles}." if level else "Behind real data on all of them."
    memorised = copying(*(metrics[name] for name in COPYING))
    return [f"Better than the baseline on {len(beaten)} of {len(names)} scores.", real, memorised]


def copying(nearest_ratio: Values, near_copies: Values) -> str:
    """Either score can show it: copies with some noise are not so near, held-out copies leave no room for MANY."""
    near = nearest_ratio["high"] < NEAR * nearest_ratio["floor"]
    many = near_copies["low"] > MANY * near_copies["floor"]
    sign = "Copying is likely" if near or many else "No sign of copying"
    share, usual = (f"{100 * near_copies[name]:.1f}\u00a0%" for name in ("value", "floor"))
    ratio = number(nearest_ratio["value"])
    return (
        f"{sign}: {share} of samples lie as near to a training example as {usual} of held-out data do, and the median "
        f"distance is {ratio} of theirs."
    )


def beyond(name: str, values: Values, other: str) -> bool:
    """Whether the whole interval of the model is better than `other`."""
    if SCORES[name].better == "lower":
        return values["high"] < values[other]
    return values["low"] > values[other]


def behind(name: str, values: Values, other: str) -> bool:
    """Whether the whole interval of the model is worse than `other`."""
    if SCORES[name].better == "lower":
        return values["low"] > values[other]
    return values["high"] < values[other]


def row(name: str, values: Values) -> Row:
    about = SCORES[name]
    span = values["floor"] - values["baseline"]
    ordered = about.better != "like real" and (span < 0 if about.better == "lower" else span > 0)
    way = (values["value"] - values["baseline"]) / span if ordered else None
    return Row(about, ARROWS[about.better], values, way if way is None else min(max(way, 0.0), 1.0))


def classes(metrics: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Name, label agreement and kernel distance of each class; none for a model without labels."""
    agreement = metrics.get("label_agreement_by_class", {})
    distance = metrics.get("kernel_distance_by_class", {})
    return [(name, agreement[name]["value"], distance[name]["value"]) for name in agreement]


def charts(file: Path) -> list[Chart]:
    """One chart for each column of curves.csv beside `step`; empty cells are steps at which nothing was logged."""
    with file.open(newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    names = [name for name in rows[0] if name != "step"] if rows else []
    return [chart(name, [(int(row["step"]), float(row[name])) for row in rows if row[name]]) for name in names]


def chart(name: str, values: Sequence[tuple[int, float]]) -> Chart:
    """The curve thinned to about POINTS means, so that noise doesn't paint a block."""
    size = max(1, len(values) // POINTS)
    chunks = [values[first : first + size] for first in range(0, len(values), size)]
    means = [(chunk[-1][0], sum(value for _, value in chunk) / len(chunk)) for chunk in chunks]
    steps, heights = [step for step, _ in means], [value for _, value in means]
    low, high, last_step = min(heights), max(heights), steps[-1]
    points = " ".join(
        f"{WIDTH * step / max(last_step, 1):.1f},{HEIGHT * (high - value) / (high - low or 1):.1f}"
        for step, value in means
    )
    return Chart(name.replace("_", " ").replace("/", " · "), points, last_step, low, high, heights[-1])


def number(value: float) -> str:
    """About three digits, as people write them."""
    size = abs(float(f"{value:.3g}"))
    digits = 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    return f"{value:,.{digits}f}".replace("-", "−")


def words(name: str) -> str:
    """The name of a key, or of an estimator, as people write it."""
    return name.replace("_", " ").replace("frechet", "Fréchet")


def data_uri(picture: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
