"""What the pipeline costs beside training: `genpipe run` on the default project, in a fresh clone, then twice again.

Only what is committed is cloned. The environment must exist; its own code is put aside by PYTHONPATH.

    python benchmarks/overhead.py
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread

import psutil

ROOT = Path(__file__).resolve().parents[1]
FOREIGN = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "GENPIPE_HOME", "VIRTUAL_ENV")
SAMPLE_SECONDS = 0.5  # between looks at the memory


@dataclass(frozen=True)
class Run:
    """A run's lines of output, each with the second in which it came, its wall time and most memory."""

    lines: list[tuple[float, str]]
    seconds: float
    peak_bytes: int

    def when(self, part: str) -> float:
        """The second of the first line with `part` in it."""
        return next(second for second, line in self.lines if part in line)

    @property
    def stages(self) -> dict[str, float]:
        """The seconds of each stage, from the line `Time 61.2 s: ingest 2.1  validate 3.8  …`."""
        line = next(line for _, line in self.lines if re.match(r"Time [\d.]+ s:", line))
        return {name: float(seconds) for name, seconds in re.findall(r"(\w+) ([\d.]+)", line.partition(":")[2])}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        print(f"load of the machine before: {load()}\n")
        first, *later = [measured(clone) for _ in range(3)]
    table(first)
    for number, run in enumerate(later, 2):
        print(f"\nrun {number}, nothing changed: {run.seconds:.1f} s, {run.peak_bytes / 2**30:.2f} GiB at most")
    print(f"\nload of the machine after: {load()}")


def load() -> str:
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def measured(clone: Path) -> Run:
    """Run the pipeline of the clone with the clone's own code. Raises CalledProcessError when it fails."""
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "genpipe", "run"],
        cwd=clone,
        env=environment(clone),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as child:
        watch = Watch(child.pid)
        watch.start()
        lines = [(time.monotonic() - began, line.rstrip()) for line in child.stdout or ()]
        code = child.wait()
    watch.ended.set()
    watch.join()
    if code:
        raise subprocess.CalledProcessError(code, child.args, "\n".join(line for _, line in lines))
    return Run(lines, time.monotonic() - began, watch.peak)


def environment(clone: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "PYTHONPATH": str(clone), "PREFECT_HOME": str(clone.parent / "prefect")}
    return {**kept, **own, "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}  # whole lines, as soon as they are written


class Watch(Thread):
    """Follows the resident memory of a process and all below it; pages that they share count in each."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.root, self.peak, self.ended = psutil.Process(pid), 0, Event()

    def run(self) -> None:
        while not self.ended.wait(SAMPLE_SECONDS):
            try:
                members = [self.root, *self.root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            self.peak = max(self.peak, sum(map(resident, members)))


def resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def table(run: Run) -> None:
    """Where the time of the first run went."""
    server, flow = run.when("Starting temporary server"), run.when("Beginning flow run")
    stages = run.stages
    end = run.seconds - flow - sum(stages.values())
    parts = {"Python, settings, DVC's status": server, "Prefect's server": flow - server, **stages, "end": end}
    print("| part of the first run | seconds |\n|---|---|")
    for name, seconds in parts.items():
        print(f"| {name} | {seconds:.1f} |")
    print(f"| **all** | **{run.seconds:.1f}** |")
    print(f"| **not training** | **{run.seconds - stages['train']:.1f}** |")
    print(f"\nMemory of all processes together: {run.peak_bytes / 2**30:.2f} GiB at most")


if __name__ == "__main__":
    main()
