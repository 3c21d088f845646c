"""What a run would take, measured: rows at work, steps of the chosen model, the sizes of what is written.

It works in a process of its own that may be ended at any moment (see estimate.py), writes into a scratch folder
only, and calls the functions that the stages call, on a slice of the data.
"""

import json
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from genpipe import checkpoint, devices, modalities, sampling, training
from genpipe.config import parse, plain
from genpipe.curve import Curve
from genpipe.data import cache, manifest, parallel
from genpipe.data.arrays import SPLITS, Arrays, DataSpec, write_arrays
from genpipe.data.batches import RESIDENT_BYTES
from genpipe.data.cache import Part
from genpipe.data.dataset import Stored
from genpipe.errors import ConfigError, DataError, GenpipeError
from genpipe.evaluation import baseline, enough
from genpipe.evaluation.bench import Bench, Seen
from genpipe.evaluation.evaluator import Evaluator
from genpipe.files import write_json
from genpipe.project import Project
from genpipe.rehearsal.costs import Cost, Data, Failure, Memory, Piece
from genpipe.rehearsal.slices import FEW, Slice, spread, take
from genpipe.stages import augment, calibrate, evaluate, train
from genpipe.stages.train import Session

ROWS, ROW_SECONDS = 256, 1.0  # that are tried, at most
STEP_SECONDS = 4.0
FIT_STEPS = 20  # of the evaluator
BLOCKS = 5  # of steps; how far their means lie apart tells how sure the mean of all is
COPIES = 3  # of what data stages make: in artifacts/, in DVC's cache, and kept for the next run


def answer(answers: Connection, project: Project, names: list[str], scratch: Path) -> None:
    """Send None once all is imported, then each piece as soon as it is known."""
    answers.send(None)
    try:
        for piece in pieces(project, names, scratch):
            answers.send(piece)
    except GenpipeError as error:
        answers.send(Failure(str(error), error.faults if isinstance(error, ConfigError) else ()))


def pieces(project: Project, names: list[str], scratch: Path) -> Iterator[Piece]:
    """What the stages `names` would take, on what all of it rests first."""
    try:
        found = take(project, scratch / "data", ROWS, seconds=ROW_SECONDS)
    except DataError as error:
        yield Data(f"can't be told before ingest: {error}")
        return
    if found is None:
        yield Data("can't be told before ingest: the source has to be fetched for that")
        return
    yield Data(described(found))
    here = Project(scratch)
    if {"ingest", "validate", "augment"} & set(names):
        yield from of_rows(project, found, here)
    if "augment" not in names:  # the run would leave the arrays as they are
        here.artifacts.mkdir(exist_ok=True)
        (here.artifacts / "augment").symlink_to(project.artifacts / "augment")
    yield from of_models(project, here, names)


def described(found: Slice) -> str:
    about = found.stored.about
    classes = f"{len(about.classes):,} classes" if about.classes else "no classes"
    return f"{about.name}: {'' if found.counted else 'more than '}{found.rows:,} examples, {classes} ({found.origin})"


def of_rows(project: Project, found: Slice, here: Project) -> Iterator[Piece]:
    """Ingest, validate and augment, by the pace of one row; leaves the arrays of a slice in `here`."""
    stored, rows = found.stored, found.rows
    cfg, kind = project.section("augment", augment.Config), stored.about.modality
    preparing = parse(modalities.load(kind).Preparing, cfg.prepare, "augment.prepare")
    table, size = pq.read_table(stored.shards[0]), stored.shards[0].stat().st_size
    shards = size * rows // len(table)
    cores = parallel.cores() if shards > cache.SMALL_BYTES else 1
    if found.pace:
        yield of_pace("ingest", rows, found.pace, cores, 2 * shards)
    tried, pace = paced(partial(manifest.measure, kind), table, here.root / "measured")
    measurements = (here.root / "measured").stat().st_size * rows // len(tried)
    yield of_pace("validate", rows, pace, cores, COPIES * measurements)
    whole = pc.is_null(pq.read_table(here.root / "measured", columns=["error"])["error"])
    if not pc.any(whole).as_py():
        raise DataError(f"none of {len(tried)} examples that were tried can be read; `genpipe stage validate` says why")
    tried, pace = paced(partial(augment.prepare, kind, preparing), tried.filter(whole), here.root / "prepared")
    examples = np.load(here.root / "prepared", allow_pickle=False)
    yield of_pace("augment", rows, pace, cores, COPIES * examples[0].nbytes * rows)
    write_slice(tried, examples, found, cfg, here)


def paced(work: Callable[[Part, Path], None], table: pa.Table, file: Path) -> tuple[pa.Table, float]:
    """Some rows of `table` and the seconds that `work` takes for each; its result for them is left in `file`."""
    shard, count, some, pace = file.with_suffix(".parquet"), FEW, table, 0.0
    for _ in range(2):  # a first time to warm up
        some = table.take(pa.array(spread(len(table), count)))
        pq.write_table(some, shard)
        begun = time.perf_counter()
        work(Part(shard, 0, np.ones(len(some), bool)), file)
        pace = (time.perf_counter() - begun) / len(some)
        count = int(min(max(ROW_SECONDS / pace, FEW), ROWS))
    return some, pace


def of_pace(stage: str, rows: int, pace: float, cores: int, size: int) -> Cost:
    how = f"{rows:,} rows, {1 / pace:,.{0 if pace < 1 else 1}f} a second{' on each core' * (cores > 1)}"
    return Cost(stage, rows * pace / cores, how, size=size)


def write_slice(tried: pa.Table, examples: np.ndarray, found: Slice, cfg: augment.Config, here: Project) -> None:
    """The arrays of a slice as augment writes them, with the counts that the whole dataset would have."""
    stored, modality = found.stored, modalities.load(found.stored.about.modality)
    labels = {"label": tried["label"].to_numpy()} if stored.about.classes else {}
    write_arrays(here.artifacts / "augment" / "train", {modality.CONTENT: examples, **labels})
    shares = shares_of(stored, cfg)
    counts = {split: int(share * found.rows) for split, share in zip(SPLITS, shares, strict=True)}
    augmentation = parse(modality.Augmentation, cfg.augmentation, "augment.augmentation")
    spec = DataSpec(stored.about.modality, examples.shape[1:], stored.about.classes)
    meta = {**spec.plain(), "counts": counts, "augmentation": plain(augmentation)}
    write_json(here.artifacts / "augment" / "meta.json", meta)


def shares_of(stored: Stored, cfg: augment.Config) -> Sequence[float]:
    """The shares of SPLITS: those of the settings, or those that the publisher's splits and the settings give."""
    if not stored.published:
        return 1 - cfg.validation - cfg.test, cfg.validation, cfg.test
    part = Part(stored.shards[0], 0, np.ones(pq.read_metadata(stored.shards[0]).num_rows, bool))
    found: list[float] = np.bincount(augment.split_rows(part, stored, cfg), minlength=len(SPLITS)).tolist()
    return [count / sum(found) for count in found]


def of_models(project: Project, here: Project, names: list[str]) -> Iterator[Piece]:
    """Train, calibrate, evaluate and register, from the arrays in `here`."""
    meta = json.loads((here.artifacts / "augment" / "meta.json").read_text(encoding="utf-8"))
    data, cfg = DataSpec.of(meta), project.section("train", train.Config)
    enough.refuse(project, meta["counts"], len(data.classes))
    with devices.threads(cfg.threads), train.remedies(cfg):
        model = training.new_model(cfg.generator, data, cfg)
        with devices.joined(cfg.device, cfg.precision, training.weights_of(model)) as compute:
            state = training.state_of(model, compute, cfg)
            session = Session(cfg, here, compute, data, {}, state, Curve(cfg.log_every))
            train.prepare(session)
            yield from of_training(session, project, meta["counts"]["train"])
    evaluator, seconds = of_calibration(project, here, data, names)
    steps = project.section("calibrate", calibrate.Config).steps
    yield Cost("calibrate", seconds, f"{steps:,} steps, {FIT_STEPS} measured" if seconds else "the evaluator stays")
    yield from of_evaluation(project, session, evaluator, meta["counts"])


def of_training(session: Session, project: Project, rows: int) -> Iterator[Piece]:
    """The training from its last checkpoint on, and the memory that it takes; `rows` examples are trained on."""
    cfg, state = session.cfg, session.state
    first, *paces = steps_timed(training.fit(state, train.batches(session), cfg, session.compute))
    warm = len(paces) // 5
    low, mean, high = steadiness(paces[warm:] or [first])
    left = cfg.steps - reached(session, project)
    begun = time.perf_counter()
    sampling.draw(state.average, train.PICTURED, 0, sampling.chosen(state.average, {}), device=session.compute.device)
    drawn = time.perf_counter()
    saved = checkpoint.save(session.project.root / "checkpoint", state, {}, {}, keep=1)
    written = time.perf_counter() - drawn
    fixed = first + cfg.pictures * (drawn - begun) + left // cfg.checkpoint_every_steps * written
    size = sum(file.stat().st_size for file in saved.iterdir())
    how = f"{left:,} steps of {1000 * mean:.3g} ms; {len(paces) - warm} measured after {1 + warm} of warm-up"
    # Of weights alone there are three copies: in artifacts/, in DVC's cache and in the registry.
    size = (cfg.checkpoint_keep + 2) * size
    yield Cost("train", fixed + left * mean, how, fixed + left * low, fixed + left * high, size)
    yield Memory(peak_bytes() + not_yet_held(session, rows), gpu_bytes(session.compute.device))


def steps_timed(steps: Iterable[object]) -> list[float]:
    """The seconds of each of as many steps as STEP_SECONDS allow after the first, which may compile."""
    ends = [time.perf_counter()]
    for _ in steps:
        ends.append(time.perf_counter())
        if len(ends) > 2 and ends[-1] - ends[1] > STEP_SECONDS:
            break
    return np.diff(ends).tolist()


def steadiness(paces: list[float]) -> tuple[float, float, float]:
    """The mean, between the least and the greatest mean of BLOCKS blocks."""
    means = [float(block.mean()) for block in np.array_split(paces, min(BLOCKS, len(paces)))]
    return min(means), float(np.mean(paces)), max(means)


def reached(session: Session, project: Project) -> int:
    """The step at which the run would resume."""
    if not (session.project.artifacts / "augment").is_symlink() or not (project.state / "checkpoints").exists():
        return 0
    identity = train.identify(session.cfg, project, session.compute)
    found = checkpoint.reached(replace(session, project=project, identity=identity).folder)
    return found[1] if found else 0


def not_yet_held(session: Session, rows: int) -> int:
    """Bytes that the training would hold of its examples beyond those of the slice."""
    held = Arrays(session.project.artifacts / "augment" / "train")
    each = [int(column[0].nbytes) for column in held.values() if column.dtype.kind in "biuf"]
    return sum(size for size in each if size * rows <= RESIDENT_BYTES) * max(rows - held.rows, 0)


def peak_bytes() -> int:
    """The most memory that this process has had at once."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage tells of the process that started this one, too
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def gpu_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0


def of_calibration(project: Project, here: Project, data: DataSpec, names: list[str]) -> tuple[Evaluator, float]:
    """An evaluator, and the seconds to fit it in all; none where that of the project would stay."""
    cfg, folder = project.section("calibrate", calibrate.Config), project.artifacts / "calibrate"
    if calibrate.kept(folder, data.plain() | {"settings": plain(cfg)}):
        return Evaluator.load(folder, devices.choose_device("auto")), 0.0
    given = calibrate.weights_of(cfg, project) if cfg.extractor == "inception" else None
    few, arrays = replace(cfg, steps=FIT_STEPS), Arrays(here.artifacts / "augment" / "train")
    for _ in range(2):  # a first time to warm up
        begun = time.perf_counter()
        evaluator = calibrate.fit(few, data, arrays, given, devices.choose_device("auto"))
        seconds = time.perf_counter() - begun
    return evaluator, seconds * cfg.steps / FIT_STEPS


def of_evaluation(
    project: Project, session: Session, evaluator: Evaluator, counts: Mapping[str, int]
) -> Iterator[Piece]:
    """Sampling, features and scores by their pace; the scores with random features in place of real ones."""
    cfg, arrays = project.section("evaluate", evaluate.Config), Arrays(session.project.artifacts / "augment" / "train")
    modality = modalities.load(session.data.modality)
    training_rows, held_out = (min(counts[split], cfg.most_real) for split in ("train", "test"))
    size = max(min(int(cfg.held_out_share * held_out), training_rows, cfg.most), cfg.neighbours + 2)
    samples = cfg.draws * size
    drawing, content = drawing_pace(session, cfg), arrays[modality.CONTENT][:ROWS]
    evaluator.features(content)
    begun = time.perf_counter()
    features = evaluator.features(content)
    seeing = (time.perf_counter() - begun) / len(content)
    once, scoring = scoring_pace(evaluator, features.shape[1], (training_rows, held_out, size), cfg.neighbours)
    begun = time.perf_counter()
    baseline.draw(content, size, modality, np.random.default_rng(0))
    simple = time.perf_counter() - begun
    real = (training_rows + held_out) * seeing + once
    mine = samples * (drawing + seeing) + cfg.draws * scoring
    work = real + mine + samples * seeing + cfg.draws * (simple + 2 * scoring)  # of the baseline, and of the floor
    how = f"{cfg.draws} draws of {size:,} samples"
    yield Cost("evaluate", work, how, size=3 * size * content[0].nbytes)
    yield Cost("register", real + 2 * mine, f"{how}, anew, of this model and of the champion if there is one")


def drawing_pace(session: Session, cfg: evaluate.Config) -> float:
    """The seconds for one sample."""
    model, pace = session.state.average, 0.0
    chosen = sampling.chosen(model, cfg.sampling)
    for _ in range(2):  # a first time to warm up
        begun = time.perf_counter()
        sampling.draw(model, sampling.CHUNK, cfg.seed, chosen, device=session.compute.device)
        pace = (time.perf_counter() - begun) / sampling.CHUNK
    return pace


def scoring_pace(
    evaluator: Evaluator, width: int, counts: tuple[int, int, int], neighbours: int
) -> tuple[float, float]:
    """The seconds to set up a bench, and to score one draw on it, whose time follows from the counts."""
    rng = np.random.default_rng(0)
    classes = len(evaluator.data.classes)

    def random(count: int) -> Seen:
        label = np.arange(count) % classes if classes else None
        return Seen(np.empty((count, 0)), rng.normal(size=(count, width)), label)

    training_rows, held_out, size = counts
    bench = Bench(evaluator, random(training_rows), random(held_out), neighbours)
    begun = time.perf_counter()
    _ = bench.held_out_distances
    once = time.perf_counter()
    bench.likeness(random(size), random(size)), bench.alone(random(size))
    return once - begun, time.perf_counter() - once
