"""Data sets of Hugging Face on disk: what `save_to_disk` wrote, or Parquet files. Nothing is downloaded or executed."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cdnv2_jax.bounded_reading import read_json, refuse_irregular_tree
from cdnv2_jax.data.source import Sample, Source, Split, fingerprint
from cdnv2_jax.data.sources.held_out import share_of
from cdnv2_jax.data.sources.split_names import UNSPLIT, choose, choose_split, group_files
from cdnv2_jax.data.storage import refuse_bucket
from cdnv2_jax.errors import UserError, import_optional, one_line, shorten

LAYOUT = (
    "let DIRECTORY be what save_to_disk wrote, or hold train-*.parquet and validation-*.parquet, or data/ with them"
)
LABELS = ("label", "labels", "fine_label")  # preferred among several columns of classes
SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.parquet")


class _Part(NamedTuple):
    """A split on disk.

    Attributes:
      files: its files.
      open: function that returns its `datasets.Dataset`.
      features: function that returns the `datasets.Features`, without reading rows.
    """

    files: Sequence[Path]
    open: Callable[[], Any]
    features: Callable[[], Mapping[str, Any]]


class HuggingFaceSource(Source[Sample]):
    """Rows of a `datasets.Dataset` with an image and a class; an image is read on access.

    Attributes:
      class_names: names of the classes, as the column's feature says.
      remarks: what was decided.
    """

    def __init__(
        self,
        rows: Any,
        image: str,
        labels: np.ndarray,
        class_names: Sequence[str],
        chosen: np.ndarray,
        files: Sequence[Path],
        where: str,
        remarks: Sequence[str] = (),
    ):
        """Create a source of some rows.

        Args:
          rows: the `datasets.Dataset`.
          image: its column of encoded images, not decoded.
          labels: class of every row, integers [n].
          class_names: names of the classes.
          chosen: positions of the rows to use.
          files: the files of the rows, for the fingerprint.
          where: data set and split in messages.
          remarks: what was decided.
        """
        self.class_names, self.remarks = list(class_names), list(remarks)
        self._rows, self._image, self._labels, self._chosen, self._where = rows, image, labels, chosen, where
        self._files = [(file.name, file.stat().st_size) for file in files]

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Sample:
        """Return a sample; raise UserError if the row has no image of its own."""
        row = int(self._chosen[index])
        name = f"{self._where} row {row}"
        image = self._rows[row][self._image]
        if not isinstance(image, Mapping) or not isinstance(image.get("bytes"), bytes):
            raise UserError(f"{name} holds no image, at most the name of a file: save the data set with its images")
        path = image.get("path")
        return Sample(image["bytes"], int(self._labels[row]), f"{name} ({path})" if path else name)

    def fingerprint(self) -> str:
        """Return a hash of the classes, labels and rows, and of the files' names and sizes."""
        names, sizes = [name for name, _ in self._files], np.array([size for _, size in self._files])
        return fingerprint(self.class_names, self._labels, self._chosen, names, sizes)


def read_huggingface(directory: Path, split: Split, held_out_fraction: float = 0.0) -> HuggingFaceSource:
    """Open a split of a data set on disk with the library `datasets`, which keeps a copy of Parquet files in its cache.

    Args:
      directory: a saved Dataset or DatasetDict, or a folder of Parquet files.
      split: the split.
      held_out_fraction: share to hold out of every class if there is no held-out split; 0 for none.

    Raises:
      UserError: there is no data set, no such split, or not one column of images and one of classes.
    """
    refuse_bucket(directory, "data sets of Hugging Face")
    try:
        refuse_irregular_tree(directory)
    except ValueError as error:
        raise UserError(f"{directory} cannot be read: {error}") from error
    parts = _parts(directory)
    chosen = choose_split(parts, split, held_out_fraction, directory, "split", LAYOUT)
    part, where = parts[chosen.name], f"{directory} {chosen.name}".strip()
    with _understood(where):
        features = part.features()
        image, label = _column(features, "Image", (), where), _column(features, "ClassLabel", LABELS, where)
        names = features[label].names
        if chosen.training and parts[chosen.training].features()[label].names != names:
            raise UserError(
                f"{directory} has other classes in {chosen.training} than in {chosen.name}: save both alike"
            )
        rows = part.open().select_columns([image, label])
        rows = rows.cast_column(image, import_optional("datasets", "huggingface").Image(decode=False))
        labels = rows.data.column(label).to_numpy()
    if not len(labels) or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(names):
        raise UserError(
            f"{where} has rows without one of its {len(names)} classes in {label!r}, or no rows: remove them"
        )
    share, remarks = np.arange(len(labels)), chosen.remarks
    if chosen.fraction:
        keys = [b"%d" % row for row in range(len(labels))]
        share, shares = share_of(split, labels, keys, chosen.fraction, where)
        remarks = [*shares, *remarks]
    return HuggingFaceSource(rows, image, labels, names, share, part.files, where, remarks)


def _parts(directory: Path) -> dict[str, _Part]:
    """Return the splits in a directory; without names of splits, a single UNSPLIT."""
    if (directory / "state.json").is_file():
        return {UNSPLIT: _saved(directory)}
    if saved := sorted(path.parent for path in directory.glob("*/state.json")):
        parts = {path.name: _saved(path) for path in saved}
    else:
        files = [*directory.glob("*.parquet"), *directory.glob("*/*.parquet")]
        folders = {
            file.parent
            for file in files
            if not choose([file.parent.name], "train") and not choose([file.parent.name], "val")
        }
        if len(folders) > 1:
            raise UserError(f"{directory} holds several data sets, choose one: {shorten(sorted(map(str, folders)))}")
        parts = {name: _parquet(group) for name, group in group_files(files, directory).items()}
    if not parts:
        raise UserError(f"{directory} holds no data set of Hugging Face: {LAYOUT}")
    if choose(parts, "train") or choose(parts, "val") or UNSPLIT in parts:
        return parts
    if len(parts) > 1:
        raise UserError(f"{directory} has splits of unknown names, {shorten(sorted(parts))}: {LAYOUT}")
    return {UNSPLIT: next(iter(parts.values()))}


def _saved(folder: Path) -> _Part:
    def load() -> Any:
        for name in ("state.json", "dataset_info.json"):
            read_json(folder / name)  # the library reads them without limits
        return import_optional("datasets", "huggingface").load_from_disk(str(folder))

    return _Part(sorted(folder.glob("*.arrow")), load, lambda: load().features)


def _parquet(files: Sequence[Path]) -> _Part:
    """Return a split of Parquet files; raise UserError if some of its shards are missing."""
    shards = [shard for file in files if (shard := SHARD.fullmatch(file.name))]
    present = {file.name for file in files}
    for name, total in sorted({(shard[1], shard[3]) for shard in shards}):
        expected = [f"{name}-{number:05d}-of-{total}.parquet" for number in range(int(total))]
        if missing := [file for file in expected if file not in present]:
            raise UserError(f"{files[0].parent} lacks {shorten(missing, 2)}: download it again")
    datasets = partial(import_optional, "datasets", "huggingface")

    def features() -> Any:
        schema = import_optional("pyarrow.parquet", "huggingface").read_schema(files[0])
        return datasets().Features.from_arrow_schema(schema)

    return _Part(files, lambda: datasets().Dataset.from_parquet([str(file) for file in files]), features)


def _column(features: Mapping[str, Any], kind: str, preferred: Sequence[str], where: str) -> str:
    """Return the only column of a kind, or the first of the preferred ones."""
    found = [name for name, feature in features.items() if type(feature).__name__ == kind]
    chosen = found if len(found) == 1 else [name for name in preferred if name in found][:1]
    if not chosen:
        kinds = shorten([f"{name}: {type(feature).__name__}" for name, feature in features.items()])
        raise UserError(f"{where} needs a column {kind}, has {len(found)} ({kinds}): convert one with cast_column")
    return chosen[0]


@contextlib.contextmanager
def _understood(where: str) -> Iterator[None]:
    """Convert errors of the library for a damaged data set to a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of `datasets`, PyArrow, JSON, the file system
        raise UserError(f"{where} cannot be read by the library datasets ({one_line(error)}): save it again") from error
