"""train: fit the generator; resume exactly where an earlier run of the same training stopped.

Reads artifacts/augment/{meta.json,train,validation} and writes artifacts/train/{model.safetensors,config.json,
curves.csv,samples}, which hold no time and no name of a run: equal inputs give equal files.
"""

import hashlib
import json
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import torch
from PIL import Image
from safetensors.torch import save_file

from genpipe import checkpoint, code, devices, modalities, progress, sampling, training
from genpipe.config import Field, Plugin, parse, plain, settings
from genpipe.curve import Curve
from genpipe.data.arrays import Arrays, DataSpec
from genpipe.data.batches import Batches
from genpipe.devices import Compute
from genpipe.errors import ConfigError, DeviceMemoryError, DivergedError, StageError
from genpipe.evaluation import enough
from genpipe.files import write_json, written_aside
from genpipe.project import Project
from genpipe.records import recording
from genpipe.training import State

CHANGES_NOTHING = {"checkpoint_every_steps", "checkpoint_keep", "max_seconds"}  # in what training ends with
UNFINISHED_KEPT = 3  # other trainings whose checkpoints stay
PICTURED, COLUMNS = 100, 10  # samples in a picture, and in a row of it


@settings
class Config(training.Config):
    generator: Annotated[Any, Plugin("genpipe.generators")] = Field(default="gan", description="kind of model")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(default="auto", description="where to train")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="of the products; auto takes bf16 where it pays, and weights stay in fp32"
    )
    compile: bool = Field(default=False, description="translate networks by torch.compile; pays in long trainings")
    channels_last: bool = Field(
        default=False, description="keep an image's channels side by side; pays for convolutions"
    )
    threads: int = Field(default=0, ge=0, description="threads on a CPU; 0 leaves the choice to PyTorch")
    log_every: int = Field(default=100, ge=1, description="steps that a point of the curves averages over")
    pictures: int = Field(default=10, ge=0, description="pictures of samples on the way, beside one before it")
    checkpoint_every_steps: int = Field(default=1000, ge=1, description="steps between checkpoints")
    checkpoint_keep: int = Field(default=2, ge=1, description="checkpoints kept; a broken one costs one interval")
    max_seconds: float = Field(default=0.0, ge=0, description="stop with a checkpoint after so long; 0 sets no limit")

    def __post_init__(self) -> None:
        faults = [fault for part in self.parts for fault in training.optimizer_faults(self, part)]
        if self.batch_size % self.micro_batches:
            rule = f"it must be a multiple of train.micro_batches, {self.micro_batches}"
            faults.append(f"params.yaml: train.batch_size is {self.batch_size}; {rule}")
        if faults:
            raise ConfigError(faults)


class Recorder(Protocol):
    """Where a training's numbers and pictures go while it runs."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...
    def picture(self, step: int, image: Image.Image) -> None: ...
    def flush(self) -> None: ...


@dataclass(frozen=True)
class Session:
    """One training: what it is made of, where its checkpoints lie, and what the leading process writes."""

    cfg: Config
    project: Project
    compute: Compute
    data: DataSpec
    identity: checkpoint.Identity
    state: State
    curve: Curve
    stop: "Stop" = field(default_factory=lambda: Stop())

    @property
    def digest(self) -> str:
        return digest(self.identity)

    @property
    def folder(self) -> Path:
        return self.project.state / "checkpoints" / self.digest[:16]


def run(cfg: Config, project: Project) -> dict[str, float]:
    """The last point of the curve. Raises StageError when it was stopped; the next run goes on from there.

    Raises DataError, too, where there are too few held-out examples to score what would be trained.

    The last checkpoint of a finished training stays until another training starts: should its outputs be lost before
    DVC has them, the next run writes them again. Remove it to train anew from step 0.
    """
    enough.refuse_too_few(project)
    data = DataSpec.read(project.artifacts / "augment" / "meta.json")
    with devices.threads(cfg.threads), remedies(cfg):
        model = training.new_model(cfg.generator, data, cfg)
        with devices.joined(cfg.device, cfg.precision, training.weights_of(model)) as compute:
            state, identity = training.state_of(model, compute, cfg), identify(cfg, project, compute)
            session = Session(cfg, project, compute, data, identity, state, Curve(cfg.log_every))
            prepare(session)
            resume(session)
            recorded(session)
    return session.curve.rows[-1]


@contextmanager
def remedies(cfg: Config) -> Iterator[None]:
    """Tell the failures of a training that its settings can mend in words."""
    try:
        yield
    except FloatingPointError as error:
        remedy = (
            "lower train.optimizer.lr, or limit the gradient by train.max_norm (params.yaml): both start from step 0; "
            "with the same settings the next run goes on from its last checkpoint, and most likely ends here again"
        )
        raise DivergedError(f"{error}; {remedy}") from error
    except torch.OutOfMemoryError as error:
        size = cfg.batch_size // cfg.micro_batches
        raise DeviceMemoryError(
            f"train.batch_size {cfg.batch_size} in train.micro_batches {cfg.micro_batches} puts {size} examples at a "
            "time on the device, whose memory is full; raise train.micro_batches (params.yaml): the same training in "
            "smaller pieces"
        ) from error


def recorded(session: Session) -> None:
    """Train and publish under a run of the tracking store, which the leading process keeps; it ends last of all."""
    with ExitStack() as stack:
        stack.enter_context(session.stop.listening())
        recorder: Recorder | None = None
        if session.compute.leads:
            resumed = session.state.step > 0
            opened = recording.training_run(session.project, session.digest, plain(session.cfg), resumed)
            recorder = stack.enter_context(opened)
            for row in session.curve.rows:  # a store that knows nothing of the steps before gets their points too
                recorder.log(int(row["step"]), {name: value for name, value in row.items() if name != "step"})
            for file in sorted((session.folder / "samples").glob("step-*.png")):
                with Image.open(file) as image:
                    recorder.picture(int(file.stem.removeprefix("step-")), image.copy())
        train(session, recorder)
        if recorder:
            publish(session)


def identify(cfg: Config, project: Project, compute: Compute) -> checkpoint.Identity:
    """All that decides what training ends with; a checkpoint is resumed by a run of equal identity only."""
    return {
        "config": deciding(cfg) | {"device": compute.device.type, "precision": compute.precision},
        "data": digest_of_arrays(project.artifacts / "augment"),
        "code": code.closure_digest("train", cfg.generator.kind),
    }


def deciding(cfg: Config) -> dict[str, Any]:
    """The settings that decide what training ends with."""
    return {key: value for key, value in plain(cfg).items() if key not in CHANGES_NOTHING}


def digest_of_arrays(folder: Path) -> str:
    files = [folder / "meta.json", *sorted(folder.glob("train/*.npy")), *sorted(folder.glob("validation/*.npy"))]
    names = [file.relative_to(folder).as_posix() for file in files]
    return digest({name: checkpoint.digest_of(file) for name, file in zip(names, files, strict=True)})


def digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def resume(session: Session) -> None:
    """Take up this training's newest checkpoint; without one, say which unfinished training is not resumed, and why.

    Of other trainings nothing stays but the last UNFINISHED_KEPT that have not come to their end.
    """
    resumed = checkpoint.load(session.folder, session.state, session.identity)
    session.curve.restore(resumed.curve)
    if not session.compute.leads:
        return
    for note in resumed.notes:
        tell(note)
    step, steps = session.state.step, session.cfg.steps
    if step == steps:
        tell("complete already; its outputs are written again")
    elif step:
        tell(f"resumed at step {step:,} of {steps:,}")
    for folder, other in pruned(session):
        if not step:
            changed = "; ".join(checkpoint.differences(other, session.identity))
            tell(f"a new training; the unfinished one in {folder} is not resumed, since these differ: {changed}")


def pruned(session: Session) -> list[tuple[Path, checkpoint.Identity]]:
    """The other trainings that have not come to their end, the last few; the rest are removed."""
    others = [folder for folder in session.folder.parent.glob("*/") if folder != session.folder]
    kept: list[tuple[Path, checkpoint.Identity]] = []
    for folder in sorted(others, key=lambda folder: folder.stat().st_mtime, reverse=True):
        reached = checkpoint.reached(folder)
        if reached and reached[1] < reached[0]["config"]["steps"] and len(kept) < UNFINISHED_KEPT:
            kept.append((folder, reached[0]))
        else:
            shutil.rmtree(folder)
    return kept


def tell(line: str) -> None:
    print(f"train: {line}", file=sys.stderr, flush=True)


def train(session: Session, recorder: Recorder | None) -> None:
    """Step to the end; every process steps, the leading one records. Raises StageError when asked to stop."""
    cfg, state, compute = session.cfg, session.state, session.compute
    pictured = picture_steps(cfg)
    if recorder and not state.step and pictured:
        recorder.picture(0, picture(session))  # MLflow's slider over the steps begins there
    with progress.shown("train", cfg.steps, state.step, cfg.batch_size * len(state.model.updates())) as show:
        for logged in training.fit(state, batches(session), cfg, compute):
            last = state.step == cfg.steps
            row = session.curve.add(state.step, logged, last)
            stopped = compute.any(session.stop.asked or session.stop.late(cfg.max_seconds)) and not last
            if recorder:
                if row:
                    recorder.log(state.step, row)
                if state.step in pictured:
                    recorder.picture(state.step, picture(session))
                if stopped or last or state.step % cfg.checkpoint_every_steps == 0:
                    save(session, keep=1 if last else cfg.checkpoint_keep)
                    recorder.flush()  # which ends a training whose store stays away; its checkpoint is written by then
                show(state.step)
            if stopped:
                raise StageError(f"stopped at step {state.step:,} of {cfg.steps:,}; the next run resumes there")


def prepare(session: Session) -> None:
    """Memory layout and compilation, before anything is restored; names and values of the weights stay."""
    parts, averaged = session.state.model.parts(), session.state.average.parts()
    if session.cfg.channels_last:
        for part in (*parts.values(), *averaged.values()):
            part.to(memory_format=torch.channels_last)  # of its 4-d weights
    if session.cfg.compile:
        compilable = session.state.model.compilable()
        if not compilable and session.compute.leads:
            tell("train.compile changes nothing: this kind of generator has no part that can be compiled")
        for name in compilable:
            parts[name].compile()


def batches(session: Session) -> Batches:
    augmented, cfg = session.project.artifacts / "augment", session.cfg
    meta = json.loads((augmented / "meta.json").read_text(encoding="utf-8"))
    modality = modalities.load(session.data.modality)
    return Batches(
        Arrays(augmented / "train"),
        session.data.modality,
        parse(modality.Augmentation, meta["augmentation"], "augment.augmentation"),
        size=cfg.batch_size // cfg.micro_batches,
        micro_batches=cfg.micro_batches,
        updates=len(session.state.model.updates()),
        seed=cfg.seed,
        device=session.compute.device,
    )


def picture_steps(cfg: Config) -> set[int]:
    """Evenly spread, the last step among them."""
    return {round(cfg.steps * number / cfg.pictures) for number in range(1, cfg.pictures + 1)}


def picture(session: Session) -> Image.Image:
    """Samples of the averaged weights, always from the same noise; kept with the checkpoints."""
    state, modality = session.state, modalities.load(session.data.modality)
    chosen = sampling.chosen(state.average, {})
    drawn = sampling.draw(state.average, PICTURED, session.cfg.seed, chosen, device=session.compute.device)
    image: Image.Image = modality.picture(drawn[modality.CONTENT], COLUMNS)
    with written_aside(session.folder / "samples" / f"step-{state.step:08d}.png") as aside:
        image.save(aside)
    return image


def save(session: Session, keep: int) -> None:
    checkpoint.save(session.folder, session.state, session.identity, session.curve.plain(), keep)


def publish(session: Session) -> None:
    """Write the outputs of the finished training."""
    folder, state = session.project.artifacts / "train", session.state
    shutil.rmtree(folder / "samples", ignore_errors=True)
    (session.folder / "samples").mkdir(parents=True, exist_ok=True)  # no picture, an empty folder
    shutil.copytree(session.folder / "samples", folder / "samples")
    session.curve.write(folder / "curves.csv")
    weights = state.average.sampler().state_dict()
    with written_aside(folder / "model.safetensors") as aside:
        save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, aside)
    compute, identity = session.compute, session.identity
    content = {
        "train": deciding(session.cfg),
        "data": session.data.plain(),
        "ran": {"device": compute.device.type, "precision": compute.precision},  # what `auto` came to
        "digest": session.digest,
        "identity": {**identity, "config": digest(identity["config"])},
    }
    write_json(folder / "config.json", content)


class Stop:
    """Whether training should end early: a signal asks for it, or its time is over."""

    def __init__(self) -> None:
        self.asked = False
        self._began = time.monotonic()

    def late(self, max_seconds: float) -> bool:
        return 0 < max_seconds < time.monotonic() - self._began

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM and Control-C as a request to finish the step; outside the main thread there are none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True
