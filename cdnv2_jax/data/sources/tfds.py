"""Data sets of TensorFlow Datasets in array_record files, read without TensorFlow."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cdnv2_jax import bounded_reading
from cdnv2_jax.data.source import Sample, Source, Split, fingerprint
from cdnv2_jax.data.sources.tf_example import decode_example
from cdnv2_jax.data.storage import files_below, refuse_bucket, sizes_of
from cdnv2_jax.errors import UserError, one_line, shorten
from cdnv2_jax.paths import is_remote

LAYOUT = "let DIRECTORY be the folder with the dataset_info.json that tfds or `cdnv2 prepare` wrote"
SPLITS: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("validation", "val", "test")}
INFO, FEATURES = "dataset_info.json", "features.json"
FULL_SIZE = ("full_height", "full_width")  # of the image that a shrunk one is made from; 0 for whole ones
FILE_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"  # if dataset_info.json gives none
MOST_FILES, MOST_CLASSES = 100_000, 1_000_000  # of a split; named by a number alone

MOST_OPEN = 512  # open files per data set: many systems limit a process to 1,024
OPTIONS = "readahead_buffer_size:0,max_parallelism:0"  # for random access, as array_record's documentation advises
BUFFER_BYTES = 32 << 10


class ArrayRecords:
    """Records of a list of files, indexed across all of them; each file is opened at its first read.

    Attributes:
      files: the files, in order.
      in_bucket: whether they are in a bucket.
    """

    def __init__(self, files: Sequence[Path], lengths: Sequence[int]):
        """Use `lengths`, the number of records of each file, so that no file need be opened yet."""
        self.files, self._lengths = list(files), list(lengths)
        self.in_bucket = any(map(is_remote, files))
        self._ends = np.cumsum([0, *lengths])
        self._readers: dict[int, Any] = {}

    def __getstate__(self) -> tuple[list[Path], list[int]]:
        return self.files, self._lengths

    def __setstate__(self, state: tuple[list[Path], list[int]]) -> None:
        self.__init__(*state)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> bytes:
        """Return a record; raise UserError, naming the file, if it cannot be read."""
        index = range(len(self))[index]
        file = int(np.searchsorted(self._ends, index, side="right")) - 1
        try:
            return self._reader(file).read([index - int(self._ends[file])])[0]
        except RuntimeError as error:
            self._readers.pop(file, None)  # it would fail from now on
            if is_remote(self.files[file]):
                advice = "check your credentials and the network, or rebuild the data set"
                raise UserError(f"{self.files[file]} cannot be read ({one_line(error)}): {advice}") from error
            raise UserError(f"{self.files[file]} is damaged ({one_line(error)}): rebuild the data set") from error

    def fingerprint(self) -> str:
        """Return a hash of the files' names and sizes, and of their numbers of records."""
        sizes = np.array(sizes_of(self.files), np.int64)
        return fingerprint([file.name for file in self.files], sizes, np.array(self._lengths))

    def _reader(self, file: int) -> Any:
        from array_record.python.array_record_module import ArrayRecordReader

        reader = self._readers.get(file)
        if reader is None:
            path = self.files[file]
            if not is_remote(path) and not path.is_file():
                raise UserError(f"{path} is missing: rebuild the data set")
            reader = ArrayRecordReader(str(path), options=OPTIONS, file_reader_buffer_size=BUFFER_BYTES)
            # For a damaged file, reading gives a better error.
            if reader.ok() and reader.num_records() != self._lengths[file]:
                raise UserError(
                    f"{path} has {reader.num_records()} records, its dataset_info.json says {self._lengths[file]}: "
                    "rebuild the data set"
                )
            if len(self._readers) >= MOST_OPEN:
                self._readers = {}  # a reader still in use by another thread closes when that releases it
            self._readers[file] = reader
        return reader


class TfdsSource(Source[Sample]):
    """Encoded images and labels from tf.train.Examples.

    Attributes:
      class_names: names of all classes, from the labels.txt file.
    """

    def __init__(self, records: ArrayRecords, class_names: Sequence[str], image: str, label: str, where: str):
        """Take the names of the features `image` and `label`, and `where`, the data set and split in messages."""
        self.class_names = list(class_names)
        self._records, self._image, self._label, self._where = records, image, label, where
        self.in_bucket = records.in_bucket

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Sample:
        """Return a sample; raise UserError if the record cannot be read or lacks an image or its label."""
        name = f"{self._where} image {index}"
        record = self._records[index]
        try:
            example = decode_example(record)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{name} is damaged ({one_line(error)}): rebuild the data set") from error
        image, label = example.get(self._image), example.get(self._label)
        if not isinstance(image, bytes) or not isinstance(label, int):
            raise UserError(f"{name} has no {self._image!r} and {self._label!r}: rebuild the data set")
        if not 0 <= label < len(self.class_names):
            raise UserError(f"{name} has label {label} of {len(self.class_names)} classes: rebuild the data set")
        height, width = (example.get(side, 0) for side in FULL_SIZE)
        if not (isinstance(height, int) and isinstance(width, int) and min(height, width) >= 0):
            raise UserError(f"{name} has a {FULL_SIZE[0]} or {FULL_SIZE[1]} that cannot be: rebuild the data set")
        file = example.get("file_name")
        if isinstance(file, bytes):
            name = f"{name} ({file.decode('utf-8', 'replace')})"
        return Sample(image, label, name, (height, width) if height and width else None)

    def fingerprint(self) -> str:
        """Return a hash of the classes and of the files."""
        return fingerprint(self.class_names, self._records.fingerprint())


def read_tfds(directory: Path, split: Split) -> TfdsSource:
    """Open the split "train" or, held out, the first that exists of "validation", "val", "test".

    Args:
      directory: folder of dataset_info.json, or up to three levels above it: …/imagenet2012/5.1.0, …/imagenet2012.
      split: the split.

    Raises:
      UserError: no data set or more than one, another file format, no such split, or missing files.
    """
    found = find_data_set(directory)
    info, features = read_json(found / INFO), read_json(found / FEATURES)
    with understood(found, LAYOUT):
        image, label, classes = _features(info, features)
        names = read_class_names(found / f"{label}.labels.txt", classes)
        records, where = open_split(found, info, split)
    return TfdsSource(records, names, image, label, where)


@contextlib.contextmanager
def understood(found: Path, layout: str) -> Iterator[None]:
    """Convert errors that malformed metadata of the data set in `found` raises inside to a UserError."""
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{found} has metadata that cannot be understood ({one_line(error)}): {layout}") from error


def find_data_set(directory: Path) -> Path:
    """Return the folder of dataset_info.json, up to three levels below `directory`; UserError unless there is one."""
    for levels in range(4):
        found = sorted(path.parent for path in files_below(directory, levels, INFO) if path.name == INFO)
        if len(found) > 1:
            raise UserError(f"{directory} holds several data sets, choose one: {shorten(list(map(str, found)))}")
        if found:
            return found[0]
    raise UserError(f"{directory} holds no {INFO}: {LAYOUT}")


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file; raise UserError if the file is missing or holds no object."""
    try:
        return bounded_reading.read_json(path)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}): {LAYOUT}") from error


def _features(info: Mapping[str, Any], features: Mapping[str, Any]) -> tuple[str, str, int]:
    """Return the names of the image and label features, preferably the supervised ones, and the number of classes."""
    kinds = features["featuresDict"]["features"]
    items = info.get("supervisedKeys", {}).get("tuple", {}).get("items", [])
    supervised = [item.get("featureKey") for item in items]
    chosen = []
    for kind in ("image", "classLabel"):
        having = [name for name, feature in kinds.items() if kind in feature]
        preferred = [name for name in having if name in supervised] or having
        if len(preferred) != 1:
            raise UserError(f"{info['name']} has {len(preferred)} features {kind!r}, a classification set has one")
        chosen.append(preferred[0])
    image, label = chosen
    return image, label, int(kinds[label]["classLabel"]["numClasses"])


def read_class_names(path: Path, classes: int) -> list[str]:
    """Return the lines of a labels.txt, or numbers without the file; raise UserError unless there are `classes`."""
    if not 0 < classes <= MOST_CLASSES:
        raise UserError(f"{path.parent / FEATURES} says that there are {classes} classes: rebuild the data set")
    if not path.exists():
        return [str(label) for label in range(classes)]
    try:
        names = [line.strip() for line in bounded_reading.read_text(path).split("\n") if line.strip()]
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}): rebuild the data set") from error
    if len(names) != classes:
        raise UserError(f"{path} names {len(names)} classes, {FEATURES} says {classes}: rebuild the data set")
    return names


def open_split(found: Path, info: Mapping[str, Any], split: Split) -> tuple[ArrayRecords, str]:
    """Return the records of a split, and its name in messages; raise UserError if it has no records."""
    if info.get("fileFormat") != "array_record":
        raise UserError(f"{found} is in {info.get('fileFormat')} files: rebuild it with file_format='array_record'")
    splits = {entry["name"]: entry for entry in info["splits"]}
    chosen = next((name for name in SPLITS[split] if name in splits), None)
    if chosen is None:
        raise UserError(f"{found} has no split {SPLITS[split]}, only {shorten(sorted(splits))}")
    lengths = [int(length) for length in splits[chosen].get("shardLengths", [])]
    if not lengths or min(lengths) < 0 or not sum(lengths):
        raise UserError(f"{found} has no records in its split {chosen!r}: rebuild the data set")
    if len(lengths) > MOST_FILES:
        raise UserError(f"{found} has {len(lengths):,} files in its split {chosen!r}, more than {MOST_FILES:,}")
    template = splits[chosen].get("filepathTemplate") or FILE_TEMPLATE
    if is_remote(found) and found.scheme != "gs":
        refuse_bucket(found, "array_record files outside gs://")
    files = []
    for number in range(len(lengths)):
        index, of = f"{number:05d}", f"{len(lengths):05d}"
        parts = {
            "DATASET": info["name"],
            "SPLIT": chosen,
            "FILEFORMAT": "array_record",
            "SHARD_INDEX": index,
            "NUM_SHARDS": of,
            "SHARD_X_OF_Y": f"{index}-of-{of}",
        }
        name = re.sub(r"\{(\w+)\}", lambda match, parts=parts: parts[match[1]], template)
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{found} names a file outside of it, {name!r}: do not trust the data set")
        files.append(found / name)
    if missing := [file.name for file, size in zip(files, sizes_of(files), strict=True) if size is None]:
        raise UserError(f"{found} lacks {shorten(missing, 2)}: rebuild the data set")
    return ArrayRecords(files, lengths), f"{found} {chosen}"
