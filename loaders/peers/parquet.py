"""``parquet``: one Parquet file a split, written and read by pyarrow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.errors import StoreCorrupt
from loaders.codec import Buffer, Pixels
from loaders.lazy import lazy
from loaders.mapping import check_bounds, gather
from loaders.order import Draws, Indices
from loaders.store import Labels, Reader, Sample, Sizes, Store

_GROUP_BYTES = 1 << 20
"""Of pictures in a row group, the least that can be read: small groups waste less of a shuffled read."""
_GROUP_ROWS = 4096


class ParquetStore(Store):
    """``<split>.parquet``: columns ``image`` (binary; of fixed size where all payloads are equally long), ``label`` (int64),
    ``height`` and ``width`` (int32). Not compressed, no dictionaries: pictures gain by neither.
    """

    name = "parquet"
    paths: ClassVar[tuple[str, ...]] = ("table", "groups")

    def file(self, split: str) -> Path:
        """The Parquet file of a split."""
        return self.root / f"{split}.parquet"

    @property
    def schema(self) -> Any:
        """The columns."""
        length = self.content.record_bytes
        image = pa.binary() if length is None else pa.binary(length)
        return pa.schema([("image", image), ("label", pa.int64()), ("height", pa.int32()), ("width", pa.int32())])

    def write(self, split: str, samples: Iterator[Sample]) -> None:
        schema = self.schema
        with (
            self.file(split).open("wb") as file,
            pq.ParquetWriter(file, schema, compression="none", use_dictionary=False, write_statistics=False) as writer,
        ):
            rows: list[Sample] = []
            held = 0
            for sample in samples:
                rows.append(sample)
                held += len(sample.payload)
                if held >= _GROUP_BYTES or len(rows) == _GROUP_ROWS:
                    _write_group(writer, schema, rows)
                    rows, held = [], 0
            if rows:
                _write_group(writer, schema, rows)
            writer.close()
            file.flush()
            os.fsync(file.fileno())

    def reader(self, split: str) -> Reader[Any]:
        """The split as an Arrow table in RAM, where it takes less than half of the free memory; else by row group."""
        if self.path == "groups":
            return GroupReader(self, split)
        try:
            size = self.file(split).stat().st_size  # not compressed, so nearly that of the table
        except OSError as error:
            raise StoreCorrupt(self.root, f"{split}.parquet can't be opened ({error})") from None
        if size < psutil.virtual_memory().available // 2:
            return TableReader(self, split)
        self.refuse_path("table", "the table would take more than half of the free memory")
        return GroupReader(self, split)

    def open(self, split: str) -> pq.ParquetFile:
        """The Parquet file of a split, mapped.

        Raises:
            StoreCorrupt: it is missing, cut short, or no Parquet file.
        """
        try:
            return pq.ParquetFile(self.file(split), memory_map=True)
        except (OSError, pa.ArrowException) as error:
            raise StoreCorrupt(self.root, f"{split}.parquet can't be opened ({error})") from None


def _write_group(writer: pq.ParquetWriter, schema: Any, rows: Sequence[Sample]) -> None:
    columns = [[bytes(row.payload) for row in rows], *([getattr(row, name) for row in rows] for name in schema.names[1:])]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    writer.write_table(pa.table(arrays, schema=schema), row_group_size=len(rows))


class _ParquetColumns(Reader[Any]):
    """Labels and sizes: the file's own columns, read at the first use."""

    store: ParquetStore

    def _columns(self, *names: str) -> list[Any]:
        with self.store.open(self.split) as file:
            try:
                table = file.read(columns=list(names))
            except (OSError, pa.ArrowException) as error:
                raise StoreCorrupt(self.store.root, f"{self.split}.parquet can't be read ({error})") from None
        if len(table) != len(self):
            raise StoreCorrupt(self.store.root, f"{self.split}.parquet holds {len(table)} rows where {len(self)} belong")
        return [table.column(name).to_numpy() for name in names]

    @lazy
    def labels(self) -> Labels:
        labels: Labels = self._columns("label")[0]
        return labels

    @lazy
    def sizes(self) -> Sizes:
        return np.stack(self._columns("height", "width"), axis=1)


class TableReader(_ParquetColumns):
    """Decodes the column of pictures once, into RAM: Parquet's pages can't be mapped as they are."""

    def _open(self) -> Any:
        with self.store.open(self.split) as file:
            try:
                column = file.read(columns=["image"]).column("image")
            except (OSError, pa.ArrowException) as error:
                raise StoreCorrupt(self.store.root, f"{self.split}.parquet can't be read ({error})") from None
        if len(column) != len(self):
            raise StoreCorrupt(self.store.root, f"{self.split}.parquet holds {len(column)} rows where {len(self)} belong")
        length = self.content.record_bytes
        if length is None:
            return column
        return np.frombuffer(column.combine_chunks().buffers()[1], np.uint8).reshape(len(self), length)

    @property
    def path_taken(self) -> str:
        return "pyarrow table in RAM"

    def payloads(self, indices: Indices) -> Sequence[Buffer]:
        check_bounds(indices, len(self))
        if self.content.record_bytes is not None:
            return [self.handle[index] for index in indices]
        return [memoryview(self.handle[int(index)].as_buffer()) for index in indices]

    def read(self, indices: Indices, out: Pixels, draws: Draws) -> None:
        if self.content.record_bytes is not None:
            gather(self.handle, indices, out)
        else:
            super().read(indices, out, draws)


class GroupReader(_ParquetColumns):
    """Reads the row groups that a batch touches: memory for a batch only, but most of what is read is thrown away."""

    def _open(self) -> tuple[pq.ParquetFile, Indices]:
        file = self.store.open(self.split)
        rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        return file, np.cumsum([0, *rows])

    def _close(self, handle: tuple[pq.ParquetFile, Indices]) -> None:
        handle[0].close()

    @property
    def path_taken(self) -> str:
        return "pyarrow row groups"

    def payloads(self, indices: Indices) -> Sequence[Buffer]:
        check_bounds(indices, len(self))
        file, starts = self.handle
        group = np.searchsorted(starts, indices, side="right") - 1
        wanted, place = np.unique(group, return_inverse=True)
        try:
            column = file.read_row_groups(wanted.tolist(), columns=["image"], use_threads=False).column("image")
        except (OSError, pa.ArrowException) as error:
            raise StoreCorrupt(self.store.root, f"{self.split}.parquet can't be read ({error})") from error
        before = np.cumsum([0, *(starts[wanted + 1] - starts[wanted])])
        rows = before[place] + indices - starts[group]
        return [memoryview(column[int(row)].as_buffer()) for row in rows]
