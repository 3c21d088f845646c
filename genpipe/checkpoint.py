"""Exact resume: the state of a training in a folder a step, without pickle.

step-00001000/ holds state.safetensors (weights, their average, the optimizers' memory) and state.json (step, identity,
what is no tensor, and a digest over both files). It is written aside, flushed to the disk and renamed, so that a
folder of that name is whole; its digest is checked all the same before it is used.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from genpipe.errors import CheckpointError, refuse_newer
from genpipe.files import write_json
from genpipe.training import State

FORMAT = 1
TENSORS, SCALARS = "state.safetensors", "state.json"
Identity = Mapping[str, Any]


@dataclass(frozen=True)
class Resumed:
    """What else a checkpoint held, and what to tell the user about those that were passed over."""

    curve: dict[str, Any]
    notes: tuple[str, ...] = ()


def save(folder: Path, state: State, identity: Identity, curve: Mapping[str, Any], keep: int) -> Path:
    """Write the state into `folder` and remove all but the last `keep`; returns the new checkpoint.

    Raises FloatingPointError rather than keep what is not finite: no later step could mend it.
    """
    tensors, scalars = packed(state)
    for name, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise FloatingPointError(f"{name} is not finite at step {state.step}")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{state.step:08d}"
    aside = Path(mkdtemp(prefix=f".{target.name}.", dir=folder))
    save_file(tensors, aside / TENSORS)
    flush(aside / TENSORS)
    content = {"format": FORMAT, "step": state.step, "identity": identity, "scalars": scalars, "curve": curve}
    write_json(aside / SCALARS, {"sha256": seal(content, aside / TENSORS), **content})
    flush(aside)
    if target.exists():  # one that could not be read
        shutil.rmtree(target)
    aside.replace(target)
    flush(folder)
    for old in [*found(folder)[keep:], *folder.glob(".step-*")]:
        shutil.rmtree(old)
    return target


def load(folder: Path, state: State, identity: Identity) -> Resumed:
    """Fill `state` from the newest checkpoint that is whole; `state` stays as it is when there is none.

    Raises CheckpointError, with every key that differs, when the checkpoint belongs to another training.
    """
    notes = []
    for checkpoint in found(folder):
        try:
            content, tensors = read(checkpoint)
        except CheckpointError as error:
            notes.append(f"{error}; falling back to the one before")
            continue
        if changed := differences(content["identity"], identity):
            raise CheckpointError(f"{checkpoint} is of another training:\n" + "\n".join(changed))
        unpack(state, tensors, content["scalars"])
        state.step = content["step"]
        return Resumed(content["curve"], tuple(notes))
    return Resumed({}, tuple(notes))


def read(checkpoint: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The two files. Raises CheckpointError unless they are whole and of this format, FormatError for a newer one."""
    try:
        content = json.loads((checkpoint / SCALARS).read_text(encoding="utf-8"))
        refuse_newer(checkpoint, content["format"], FORMAT)
        if content["format"] != FORMAT:
            raise CheckpointError(f"{checkpoint} has format {content['format']}; this genpipe reads {FORMAT}")
        if content.pop("sha256") != seal(content, checkpoint / TENSORS):
            raise CheckpointError(f"{checkpoint} is corrupt: its content is not what its digest says")
        return content, load_file(checkpoint / TENSORS)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{checkpoint} is corrupt: {error}") from None


def found(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def reached(folder: Path) -> tuple[Identity, int] | None:
    """Which training lies in `folder`, and its last step, as state.json alone says; None where none can be read."""
    for checkpoint in found(folder):
        try:
            content = json.loads((checkpoint / SCALARS).read_text(encoding="utf-8"))
            return content["identity"], content["step"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # `load` tells of it, should it ever be asked for this folder
    return None


def differences(old: Identity, new: Identity) -> list[str]:
    """Each key that differs, as `config.generator.latent_dim: 32 → 64`."""
    before, after = dict(flattened(old)), dict(flattened(new))
    keys = [*before, *(key for key in after if key not in before)]
    return [
        f"{key}: {before.get(key, 'absent')} → {after.get(key, 'absent')}"
        for key in keys
        if before.get(key, "absent") != after.get(key, "absent")
    ]


def flattened(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple) else value


def packed(state: State) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state as tensors, copied to the CPU, and as what JSON can hold."""
    tensors: dict[str, Tensor] = {}
    memory: dict[str, dict[str, Any]] = {}
    for name, part in state.model.parts().items():
        tensors |= {f"model.{name}.{key}": value for key, value in part.state_dict().items()}
        for number, values in state.optimizers[name].state_dict()["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{name}.{number}.{key}"] = value
                else:
                    memory.setdefault(name, {})[f"{number}.{key}"] = value
    tensors |= {f"average.{key}": value for key, value in state.average.sampler().state_dict().items()}
    copies = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in tensors.items()}
    scalers = {name: scaler.state_dict() for name, scaler in state.scalers.items()}
    return copies, {"optimizers": memory, "scalers": scalers}


def unpack(state: State, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]) -> None:
    state.average.sampler().load_state_dict(below(tensors, "average."))
    for name, part in state.model.parts().items():
        part.load_state_dict(below(tensors, f"model.{name}."))
        memory = {**below(tensors, f"optimizer.{name}."), **scalars["optimizers"].get(name, {})}
        remember(state.optimizers[name], memory)
        state.scalers[name].load_state_dict(scalars["scalers"][name])


def remember(optimizer: torch.optim.Optimizer, memory: Mapping[str, Any]) -> None:
    """Fill an optimizer's memory from `{"3.exp_avg": tensor}`, laid out as its parameter is (fused steps want that)."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    restored: dict[int, dict[str, Any]] = {}
    for key, value in memory.items():
        number, _, name = key.partition(".")
        param = params[int(number)]
        if isinstance(value, Tensor) and value.shape == param.shape:
            value = torch.empty_like(param, dtype=value.dtype).copy_(value)
        restored.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": restored})


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def seal(content: Mapping[str, Any], tensors: Path) -> str:
    """SHA-256 over both files, but for the seal itself."""
    text = json.dumps(content, sort_keys=True) + digest_of(tensors)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Have the disk hold a file's or folder's content before anything that follows."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
