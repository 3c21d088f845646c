"""Sampling a registered version in a fresh process, by the code that it carries.

Nothing of a version is imported here: a request goes out as JSON, samples come back as .npy. So a version of older code
gives the samples that it gave then, and one that fails takes nothing else down.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import yaml

from genpipe.errors import ConfigError, DataError, StageError
from genpipe.files import write_json

SERVED = "served_model.py"
RAISED = re.compile(r"(?:\w+\.)*(\w+(?:Error|Exception|Exit|Interrupt))(?::|$)")  # the end of a traceback
# So long a Prefect run gives evaluate, which draws as many samples (tasks/stages.py): what takes longer hangs.
LONGEST_SECONDS = 6 * 3600.0
MOST_LINES = 8  # of what a failed version said
TYPES = {"boolean": (bool,), "long": (int,), "double": (int, float), "string": (str,)}
Rows = Mapping[str, Sequence[int]]


class Signature(NamedTuple):
    """What a version can be asked: the column of its rows, and its options (`seed` apart) with defaults and types."""

    column: str  # `label` for a conditional model, else `sample`
    options: dict[str, Any]
    types: dict[str, str]

    @property
    def conditional(self) -> bool:
        return self.column == "label"

    def rows(self, labels: np.ndarray) -> Rows:
        """A row for each sample: its label, or for a model that takes none its number."""
        return {self.column: labels.tolist() if self.conditional else list(range(len(labels)))}


def signature(folder: Path) -> Signature:
    """From the files of a version, as MLflow gives them. Raises DataError when they are none of genpipe's."""
    if not all((folder / name).is_file() for name in ("MLmodel", SERVED)):
        raise DataError(f"{folder} is no version that genpipe registered: it has no MLmodel and {SERVED}")
    content = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))["signature"]
    (column,) = (entry["name"] for entry in json.loads(content["inputs"]))
    options = {entry["name"]: entry for entry in json.loads(content["params"]) if entry["name"] != "seed"}
    return Signature(
        column,
        {name: entry["default"] for name, entry in options.items()},
        {name: entry["type"] for name, entry in options.items()},
    )


def sampled(folder: Path, rows: Rows, params: Mapping[str, Any], *, seconds: float = LONGEST_SECONDS) -> np.ndarray:
    """One example a row, as stored, (N, *shape), from the version in `folder`; `params` are seed and options.

    Raises ConfigError for options that the version refuses, and StageError when its own code fails or takes longer than
    so many seconds, after which it is ended.
    """
    refuse_types(signature(folder).types, params)
    with TemporaryDirectory() as scratch:
        request, out = Path(scratch) / "request.json", Path(scratch) / "samples.npy"
        write_json(request, {"model": str(folder), "rows": rows, "params": params, "out": str(out)})
        command = [sys.executable, "-P", str(folder / SERVED), str(request)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", check=False, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            count = len(next(iter(rows.values())))
            raise StageError(
                f"the version's own code gave no answer to {count:,} samples within {seconds:,.0f} seconds and was "
                "ended; it hangs, or this machine is too slow for it"
            ) from None
        if done.returncode:
            raise failure(done.returncode, done.stderr)
        return np.load(out, allow_pickle=False)  # type: ignore[no-any-return]


def refuse_types(types: Mapping[str, str], params: Mapping[str, Any]) -> None:
    wrong = {
        name: params[name] for name, kind in types.items() if name in params and type(params[name]) not in TYPES[kind]
    }
    if wrong:
        raise ConfigError([f"option {name} is {value!r}; it must be a {types[name]}" for name, value in wrong.items()])


def failure(code: int, said: str) -> ConfigError | StageError:
    """What a version's process said last, in short: the error at the end of its traceback, without the way to it."""
    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    ends = [(number, found[1]) for number, line in enumerate(lines) if (found := RAISED.match(line))]
    if not ends:
        why = f"ended by signal {-code}" if code < 0 else f"exit code {code}"
        return StageError("\n".join([f"the version's own code failed to sample ({why})", *lines[-MOST_LINES:]]))
    last, name = ends[-1]
    if name == ConfigError.__name__:  # its own class of that name: each fault a line, then their count
        text = "\n".join(lines[last:]).partition(": ")[2]
        faults = [fault.replace("params.yaml: params.", "option ") for fault in text.splitlines()]
        return ConfigError(faults[:-1] or faults)
    return StageError("\n".join(["the version's own code failed to sample:", *lines[last : last + MOST_LINES]]))
