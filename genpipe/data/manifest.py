"""The manifest: a row of measurements for each example, by which the rules of the suite judge it.

A shard is measured by itself and the result kept; what compares rows with one another (`row`, `duplicate_of`,
`near_duplicate_of`) is added for all of them together.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from genpipe import modalities
from genpipe.data import duplicates
from genpipe.data.cache import Part
from genpipe.files import written_aside

NAMES = pa.dictionary(pa.int8(), pa.string())  # few different ones
STORED = (
    pa.field("id", pa.string()),
    pa.field("label", pa.int64()),
    pa.field("split", NAMES),
    pa.field("text", pa.string()),
)
COMPARED = (
    pa.field("row", pa.int32()),
    pa.field("duplicate_of", pa.int32()),
    pa.field("near_duplicate_of", pa.int32()),
)
ERROR = pa.field("error", pa.string())
LIKENESS = pa.field("likeness", pa.binary(16))
KEYS = pa.schema([pa.field("id", pa.string()), pa.field("row", pa.int64())])  # of the accepted rows
BATCH = 500  # examples with their content in memory


def fields(modality: ModuleType) -> list[pa.Field]:
    """The manifest's columns for a modality: what rules can be about."""
    row, *compared = COMPARED
    return [row, *STORED, ERROR, *modality.MEASUREMENTS, *compared]


def measure(modality: str, part: Part, file: Path) -> None:
    """Decode and measure each example of a shard; `file` gets a row for each, with the likeness where there is one."""
    module = modalities.load(modality)
    schema = pa.schema([*STORED, ERROR, *module.MEASUREMENTS, LIKENESS])
    with pq.ParquetFile(part.shard) as shard, pq.ParquetWriter(file, schema) as writer:
        for batch in shard.iter_batches(batch_size=BATCH):
            measured = [module.describe(row) for row in batch.to_pylist()]
            columns = {field.name: stored(batch, field) for field in STORED}
            columns |= {
                field.name: pa.array([one.get(field.name) for one in measured], field.type)
                for field in (ERROR, *module.MEASUREMENTS)
            }
            columns["likeness"] = likeness([one.get("thumbnail") for one in measured])
            writer.write_batch(pa.record_batch([columns[name] for name in schema.names], schema))


def stored(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    """A column of the shard in the manifest's type; missing values where the data have no such column."""
    if field.name not in batch.schema.names:
        return pa.nulls(len(batch), field.type)
    column = batch.column(field.name)
    return column.dictionary_encode().cast(field.type) if field.type == NAMES else column.cast(field.type)


def likeness(thumbnails: list[np.ndarray | None]) -> pa.Array:
    """The difference hash of each thumbnail, as 16 bytes; missing where there is none."""
    there = {number: thumbnail for number, thumbnail in enumerate(thumbnails) if thumbnail is not None}
    values: list[bytes | None] = [None] * len(thumbnails)
    if there:
        hashes = duplicates.difference_hash(np.stack(list(there.values())))
        for number, one in zip(there, hashes, strict=True):
            values[number] = one.tobytes()
    return pa.array(values, pa.binary(16))


def frame(files: Sequence[Path]) -> pd.DataFrame:
    """What `measure` wrote to these, in types that tell a missing value from a number."""
    tables = [pq.read_table(file).drop_columns(["likeness"]) for file in files]
    found: pd.DataFrame = pa.concat_tables(tables).unify_dictionaries().to_pandas(types_mapper=TYPES.get)
    return found


def length(file: Path) -> int:
    return int(pq.read_metadata(file).num_rows)


def ids(file: Path) -> np.ndarray:
    """The ids, 32 hexadecimal digits, as uint64 (N, 2)."""
    return duplicates.of_hexadecimal(pq.read_table(file, columns=["id"])["id"].to_pylist())


def likenesses(file: Path) -> np.ndarray:
    """The likenesses as uint64 (N, 2); 0, which `duplicates.near` leaves alone, where there is none."""
    values = pq.read_table(file, columns=["likeness"])["likeness"].to_pylist()
    return np.frombuffer(b"".join(value or bytes(16) for value in values), np.uint64).reshape(-1, 2)


TYPES = {
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
    pa.string(): pd.StringDtype(na_value=np.nan),
}


class Table:
    """A Parquet file that grows by one row group a frame; it appears under its name once it is whole."""

    def __init__(self, aside: Path, schema: pa.Schema) -> None:
        self._aside, self._schema = aside, schema
        self._writer: pq.ParquetWriter | None = None

    def write(self, rows: pd.DataFrame) -> None:
        table = pa.Table.from_pandas(rows[self._schema.names], self._schema, preserve_index=False)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._aside, table.schema)  # with what tells pandas its types
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer:
            self._writer.close()


@contextmanager
def writing(file: Path, schema: pa.Schema) -> Iterator[Table]:
    with written_aside(file) as aside:
        table = Table(aside, schema)
        try:
            yield table
        finally:
            table.close()
