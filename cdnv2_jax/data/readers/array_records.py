"""Records of a list of array_record files, found by their position in all of them together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cdnv2_jax.errors import UserError, one_line

MOST_OPEN = 512  # of a data set's files: many systems let a process open 1,024 files and no more
OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # for random access, as array_record's documentation advises
BUFFER_BYTES = 32 << 10


class ArrayRecords:
    """Record i as bytes; files are opened when first read, and anew after unpickling."""

    def __init__(self, files: Sequence[Path], lengths: Sequence[int]):
        """Takes each file's number of records, so that none need be opened yet."""
        self._files, self._lengths = list(files), list(lengths)
        self._ends = np.cumsum([0, *lengths])
        self._readers: dict[int, Any] = {}

    def __getstate__(self) -> tuple[list[Path], list[int]]:
        return self._files, self._lengths

    def __setstate__(self, state: tuple[list[Path], list[int]]) -> None:
        self.__init__(*state)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> bytes:
        """UserError, naming the file, when it cannot be read."""
        index = range(len(self))[index]
        file = int(np.searchsorted(self._ends, index, side="right")) - 1
        try:
            return self._reader(file).read([index - int(self._ends[file])])[0]
        except RuntimeError as error:
            raise UserError(f"{self._files[file]} is damaged ({one_line(error)}): make the data set anew") from error

    def _reader(self, file: int) -> Any:
        from array_record.python.array_record_module import ArrayRecordReader

        reader = self._readers.get(file)
        if reader is None:
            path = self._files[file]
            if not path.is_file():
                raise UserError(f"{path} is missing: make the data set anew")
            reader = ArrayRecordReader(str(path), options=OPTIONS, file_reader_buffer_size=BUFFER_BYTES)
            # A damaged file says why when it is read.
            if reader.ok() and reader.num_records() != self._lengths[file]:
                raise UserError(
                    f"{path} has {reader.num_records()} records, its dataset_info.json says {self._lengths[file]}: "
                    "make the data set anew"
                )
            if len(self._readers) >= MOST_OPEN:
                self._readers = {}  # readers that another thread still uses close when it lets go of them
            self._readers[file] = reader
        return reader
