"""What the way of the data costs: ingest, validate and augment as users run them, at growing numbers of 28×28 images.

Each size has a project of its own in a temporary folder. The images are made from scikit-learn's digits by a seed, two
laid over each other, shifted and with noise, so that no two are equal, and given as one .npz file; nothing is fetched.

    python benchmarks/data.py
    python benchmarks/data.py --sizes 1000 10000 70000 700000
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from overhead import ROOT, Watch, environment, load
from PIL import Image

STAGES = ("ingest", "validate", "augment")
APPENDED, APPENDED_TO = 1_000, 70_000
SIDE = 28
AT_ONCE = 1_000
PARAMS = """
ingest:
  source: {kind: npz, name: shifted, path: images.npz, arrays: [{images: images, labels: labels}]}
validate: {}
augment: {}
calibrate: {}
train:
  generator: {kind: gan}
evaluate: {}
register: {}
"""


@dataclass(frozen=True)
class Cost:
    """Of one stage, its start included."""

    seconds: float
    cpu_seconds: float  # of all its processes, user and system
    largest_bytes: int  # resident memory of its largest process
    together_bytes: int  # of all its processes together, looked at twice a second; shared pages count in each


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 70_000])
    sizes = options.parse_args().sizes
    print(f"load of the machine before: {load()}\n")
    head = "| images | stage | seconds | CPU seconds | CPU µs an image | memory, largest process | all processes |"
    print(f"{head}\n|---|---|---|---|---|---|---|")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            project = make(Path(folder))
            write_images(project / "images.npz", size)
            show(f"{size:,}", size, [run(project, stage) for stage in STAGES])
            if size == APPENDED_TO:
                write_images(project / "images.npz", size + APPENDED)
                show(f"{APPENDED:,} more", APPENDED, [run(project, stage) for stage in STAGES])
    print(f"\nload of the machine after: {load()}")


def make(folder: Path) -> Path:
    """An empty project under DVC."""
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "dvc.yaml").write_text("stages: {}\n")
    (folder / "mlflow.yml").write_text("")
    shutil.copytree(ROOT / "suites", folder / "suites")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--no-scm"], cwd=folder, check=True)
    return folder


def write_images(file: Path, count: int) -> None:
    """`count` images and labels, the first of them the same whatever `count` is; a piece at a time."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, shape in (("images", (count, SIDE, SIDE)), ("labels", (count,))):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as values:
                npy.write_array_header_1_0(values, {"descr": "|u1", "fortran_order": False, "shape": shape})
                for images, labels in pieces(count):
                    values.write((images if name == "images" else labels).tobytes())


def pieces(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images (N, 28, 28) and labels (N,), uint8; N is AT_ONCE, at last fewer."""
    from sklearn.datasets import load_digits

    found = load_digits()
    grey = np.rint(found.images * (255 / 16)).astype(np.uint8)
    large = np.stack([np.asarray(Image.fromarray(one).resize((22, 22), Image.Resampling.BICUBIC)) for one in grey])
    digits = np.pad(large, ((0, 0), (3, 3), (3, 3)))
    for first in range(0, count, AT_ONCE):
        draw = np.random.default_rng(first)
        one, other = draw.integers(0, len(digits), (2, AT_ONCE))
        shifts = draw.integers(-3, 4, (AT_ONCE, 2))
        under = np.stack([np.roll(digits[row], shift, (0, 1)) for row, shift in zip(other, shifts, strict=True)])
        images = np.maximum(digits[one], under // 2).astype(np.int16)
        images += draw.integers(-12, 13, images.shape, np.int16) * (images > 10)
        yield images[: count - first].clip(0, 255).astype(np.uint8), found.target[one][: count - first].astype(np.uint8)


def run(project: Path, stage: str) -> Cost:
    """Run `genpipe stage STAGE`. Raises CalledProcessError when it fails."""
    command = [sys.executable, "-m", "genpipe", "stage", stage]
    own = environment(project) | {"PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    child = subprocess.Popen(command, cwd=project, env=own, stdout=subprocess.DEVNULL)
    watch = Watch(child.pid)
    watch.start()
    _, status, used = os.wait4(child.pid, 0)  # what it and all that it waited for have used
    seconds = time.monotonic() - began
    watch.ended.set()
    watch.join()
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command)
    return Cost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024, watch.peak)


def show(what: str, images: int, costs: list[Cost]) -> None:
    """A row a stage, and one for all three."""
    for stage, cost in zip(STAGES, costs, strict=True):
        row(what, stage, images, cost)
    sums = [sum(cost.seconds for cost in costs), sum(cost.cpu_seconds for cost in costs)]
    peaks = [max(cost.largest_bytes for cost in costs), max(cost.together_bytes for cost in costs)]
    row(what, f"**all, {images / sums[0]:,.0f} images/s**", images, Cost(*sums, *peaks))


def row(what: str, name: str, images: int, cost: Cost) -> None:
    memory = f"{cost.largest_bytes / 2**20:,.0f} MiB | {cost.together_bytes / 2**20:,.0f} MiB"
    each = f"{cost.cpu_seconds / images * 1e6:,.0f}"
    print(f"| {what} | {name} | {cost.seconds:.1f} | {cost.cpu_seconds:.1f} | {each} | {memory} |", flush=True)


if __name__ == "__main__":
    main()
