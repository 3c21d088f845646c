"""Parquet as Hugging Face writes it: an image column of `{bytes, path}` or binary, perhaps label, text and split.

Class names come from the settings, else from what Hugging Face keeps in the file, else from the labels themselves.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from genpipe.config import Field, settings
from genpipe.data.dataset import Dataset
from genpipe.errors import DataError
from genpipe.sources import _own

ROWS_AT_A_TIME = 256


@settings
class Config(_own.Own):
    path: str = Field(min_length=1, description="a file, or a folder of .parquet files, seen from the project's root")
    image: str = Field(default="image", description="column of the images")
    label: str = Field(default="label", description="column of classes, as numbers or names, where there is one")
    text: str = Field(default="text", description="column of captions, where there is one")
    split: str = Field(
        default="split", description="column of splits, where there is one; else the file's name says it"
    )


def modality(config: Config) -> str:
    return "image"


def describe(config: Config, root: Path) -> Dataset:
    """Raises DataError for a file that can't be read, has no images, or other columns than the first."""
    files = files_of(config, root)
    schemas = [schema_of(file) for file in files]
    for file, schema in zip(files, schemas, strict=True):
        check_columns(config, file, schema, schemas[0])
    texts = ["text"] if config.text in schemas[0].names else []
    splits = ["split"] if config.split in schemas[0].names or any(split_of(file) for file in files) else []
    return _own.about(config, config.path, classes(config, files, schemas[0]), [*splits, *texts])


def fingerprint(config: Config, root: Path) -> str:
    return str([_own.stamp(file) for file in files_of(config, root)])


def rows(config: Config, root: Path) -> Iterator[dict[str, Any]]:
    like, files = describe(config, root), files_of(config, root)
    places = {name: number for number, name in enumerate(like.classes)}
    wanted = [config.image, config.label, config.text, config.split]
    for file in files:
        with opened(file) as table:
            columns = [name for name in wanted if name in table.schema_arrow.names]
            for batch in table.iter_batches(batch_size=ROWS_AT_A_TIME, columns=columns):
                for row in batch.to_pylist():
                    label = row.get(config.label)
                    label = _own.label_of(label, places) if isinstance(label, str) else label
                    split = _own.split_named(row.get(config.split) or "", str(file)) or split_of(file)
                    yield _own.example(image_of(row[config.image], config), label, split, row.get(config.text), like)


def image_of(value: Any, config: Config) -> dict[str, Any]:
    """The column as a shard holds it; an image larger than allowed, or absent, has no bytes."""
    content = value if isinstance(value, dict) else {"bytes": value}
    encoded = content.get("bytes")
    kept = encoded if encoded and len(encoded) <= config.max_file_bytes else None
    return {"bytes": kept, "path": content.get("path")}


def classes(config: Config, files: list[Path], schema: pa.Schema) -> tuple[str, ...]:
    if config.label not in schema.names:
        return ()
    if config.classes:
        return config.classes
    if kept := json.loads((schema.metadata or {}).get(b"huggingface", b"{}")):
        feature = kept.get("info", {}).get("features", {}).get(config.label, {})
        if names := feature.get("names"):
            return tuple(names)
    found = set[Any]()
    for file in files:
        with opened(file) as table:
            for batch in table.iter_batches(columns=[config.label]):
                found |= set(batch.column(0).unique().to_pylist()) - {None}
    if pa.types.is_integer(schema.field(config.label).type):
        return _own.numbers(max(found, default=-1) + 1, ())
    return _own.class_names((name for name in found if name), ())


def check_columns(config: Config, file: Path, schema: pa.Schema, first: pa.Schema) -> None:
    if config.image not in schema.names:
        known = ", ".join(schema.names)
        raise DataError(f"{file} has no column '{config.image}'; ingest.source.image is one of: {known} (params.yaml)")
    kind = schema.field(config.image).type
    inner = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(inner) or pa.types.is_large_binary(inner)):
        raise DataError(f"{file}, column '{config.image}', holds {kind}; images are binary or {{bytes, path}}")
    if config.label in schema.names:
        kind = schema.field(config.label).type
        if not (pa.types.is_integer(kind) or is_text(kind)):
            raise DataError(f"{file}, column '{config.label}', holds {kind}; labels are whole numbers or names")
    for name in (config.text, config.split):
        if name in schema.names and not is_text(schema.field(name).type):
            raise DataError(f"{file}, column '{name}', holds {schema.field(name).type}; captions and splits are text")
    for name in (config.label, config.text):
        if (name in schema.names) != (name in first.names):
            raise DataError(f"{file} differs from the first file in having a column '{name}' or not; all must be alike")


def is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def files_of(config: Config, root: Path) -> list[Path]:
    place = _own.existing(root, config.path)
    files = [place]
    if place.is_dir():  # hidden ones are none of the data: macOS writes ._train.parquet beside train.parquet
        found = sorted(place.rglob("*.parquet"))
        files = [file for file in found if not any(part.startswith(".") for part in file.relative_to(place).parts)]
    if not files:
        raise DataError(f"{place} holds no .parquet file; ingest.source.path names it (params.yaml)")
    return [_own.inside(place if place.is_dir() else place.parent, str(file), config.path) for file in files]


def split_of(file: Path) -> str | None:
    """`train` of `train-00000-of-00001.parquet` or `train.parquet`, as Hugging Face names its files; None of others."""
    return _own.SPLIT_NAMES.get(file.stem.partition("-")[0].lower())


def schema_of(file: Path) -> pa.Schema:
    with opened(file) as table:
        return table.schema_arrow


@contextmanager
def opened(file: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(file) as table:
            yield table
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} can't be read as Parquet: {error}; get it anew") from error
