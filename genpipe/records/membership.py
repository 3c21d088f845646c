"""Which rows a model knows: a table of ids that its run in MLflow carries, 16 bytes a row and the name of its split.

A training writes the table of its training and validation rows when its run begins, `register` that of the rows on
which the model was measured. So it can be said of a row, long after it has left the data, which models it is in.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from genpipe.data.arrays import Arrays
from genpipe.data.keys import KEY, packed

FOLDER = "lineage"  # among a run's artifacts
TRAINED, MEASURED = "trained.parquet", "measured.parquet"
SPLITS = {TRAINED: ("train", "validation"), MEASURED: ("test",)}
SCHEMA = pa.schema([pa.field("id", pa.binary(KEY.itemsize)), pa.field("split", pa.dictionary(pa.int8(), pa.string()))])
ROWS_AT_ONCE = 50_000


@contextmanager
def written(augmented: Path, name: str) -> Iterator[Path]:
    """The table `name` of the arrays in the folder `augmented`, as a file for the time of a `with`."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / name
        with pq.ParquetWriter(file, SCHEMA, compression="none") as writer:  # digests don't compress
            for split in SPLITS[name]:
                ids = Arrays(augmented / split)["id"]
                for first in range(0, len(ids), ROWS_AT_ONCE):
                    writer.write_table(table(packed(ids[first : first + ROWS_AT_ONCE].tolist()), split))
        yield file


def table(keys: np.ndarray, split: str) -> pa.Table:
    ids = pa.FixedSizeBinaryArray.from_buffers(SCHEMA.field("id").type, len(keys), [None, pa.py_buffer(keys.tobytes())])
    splits = pa.DictionaryArray.from_arrays(np.zeros(len(keys), np.int8), [split])
    return pa.table([ids, splits], schema=SCHEMA)


def found(file: Path, keys: Sequence[bytes]) -> dict[bytes, str]:
    """Of `keys` those that the table `file` holds, each with its split."""
    with pq.ParquetFile(file) as rows:
        held: dict[bytes, str] = {}
        for batch in rows.iter_batches(ROWS_AT_ONCE):
            some = batch.filter(pc.is_in(batch["id"], pa.array(keys, SCHEMA.field("id").type)))
            held |= dict(zip(some["id"].to_pylist(), some["split"].to_pylist(), strict=True))
    return held
