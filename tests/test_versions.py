"""Versions are sampled in a fresh process by their own code, whatever that is; their failures are told in short."""

import json
import os
from pathlib import Path

import numpy as np
import psutil
import pytest

from genpipe.champion import versions
from genpipe.errors import ConfigError, DataError, StageError

# The code of a version, as it might have been once: all that today's code knows of it is the request and the answer.
SERVED = """
import json, os, sys, time
import numpy as np
request = json.load(open(sys.argv[1]))
scale = request["params"]["scale"]
if scale < 0:
    class ConfigError(Exception): pass
    ConfigError.__module__ = "genpipe.errors"
    raise ConfigError("params.yaml: params.scale is -1.0; it must be at least 0\\n1 fault; nothing was run")
if scale > 12:
    time.sleep(600)
if scale > 9:
    os.kill(os.getpid(), 9)
if scale > 5:
    try:
        {}["weights"]
    except KeyError as error:
        raise RuntimeError(f"no weights\\nat scale {scale}") from error
examples = np.array(request["rows"]["label"])[:, None] * scale + request["params"]["seed"]
np.save(request["out"], np.hstack([examples, np.full_like(examples, os.getpid())]))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A version that gives label · scale + seed, beside the number of its process."""
    inputs = [{"type": "long", "name": "label", "required": True}]
    params = [{"name": "seed", "default": 0, "type": "long"}, {"name": "scale", "default": 2.0, "type": "double"}]
    signature = {"inputs": json.dumps(inputs), "params": json.dumps(params)}
    (tmp_path / "MLmodel").write_text(json.dumps({"signature": signature}))  # JSON is YAML too
    (tmp_path / "served_model.py").write_text(SERVED)
    return tmp_path


def test_a_version_answers_from_a_process_of_its_own(folder: Path) -> None:
    asked = versions.signature(folder)
    assert asked == ("label", {"scale": 2.0}, {"scale": "double"})
    drawn = versions.sampled(folder, asked.rows(np.array([3, 1])), {"seed": 1, "scale": 2.5})
    assert drawn[:, 0] == pytest.approx([8.5, 3.5])
    assert drawn[0, 1] != os.getpid()


def test_options_that_it_refuses_are_faults_of_the_settings(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        versions.sampled(folder, {"label": [1]}, {"seed": 1, "scale": -1.0})
    assert caught.value.faults == ("option scale is -1.0; it must be at least 0",)
    with pytest.raises(ConfigError, match="option scale is 'big'; it must be a double"):
        versions.sampled(folder, {"label": [1]}, {"seed": 1, "scale": "big"})


def test_its_own_failure_is_told_without_the_way_to_it(folder: Path) -> None:
    with pytest.raises(StageError) as caught:
        versions.sampled(folder, {"label": [1]}, {"seed": 1, "scale": 6})
    assert str(caught.value) == "the version's own code failed to sample:\nRuntimeError: no weights\nat scale 6"
    with pytest.raises(StageError, match="ended by signal 9"):
        versions.sampled(folder, {"label": [1]}, {"seed": 1, "scale": 10})


def test_one_that_hangs_is_ended_and_told(folder: Path) -> None:
    with pytest.raises(StageError, match="gave no answer to 2 samples within 3 seconds and was ended"):
        versions.sampled(folder, {"label": [1, 2]}, {"seed": 1, "scale": 13}, seconds=3)
    assert [child for child in psutil.Process().children() if "served_model.py" in " ".join(child.cmdline())] == []


def test_a_folder_that_is_no_version_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no version that genpipe registered: it has no MLmodel"):
        versions.signature(tmp_path)
