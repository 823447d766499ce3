"""Tars of WebDataset, images and labels side by side: 000001.jpg, 000001.cls, read in place at any position.

The library webdataset reads such tars from front to back only. Random access takes an index, which is made here.
"""

import contextlib
import re
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cdnv2_jax.data.source import Sample, Source, Split, fingerprint
from cdnv2_jax.data.sources.files import Arrays, cached_arrays, progress_bar, read_from_folder
from cdnv2_jax.data.sources.held_out import share_of
from cdnv2_jax.data.sources.split_names import choose_split, group_files
from cdnv2_jax.data.sources.tar_members import TarFile, open_tar
from cdnv2_jax.data.sources.webdataset_index import index_tar, is_index, texts_of
from cdnv2_jax.data.storage import at_once, files_below, sizes_of
from cdnv2_jax.errors import UserError, shorten
from cdnv2_jax.paths import is_remote

LAYOUT = "put train-000000.tar … and val-000000.tar …, with KEY.jpg and KEY.cls in them, into DIRECTORY"
CLASS_NAMES = "classnames.txt"
MOST_NAMES = 1 << 24  # bytes in the file of class names
MOST_TARS = 100_000
MOST_OPEN = 256  # tars at a time: many systems limit a process to 1,024 files
NUMBER = re.compile(r"(.*?)(\d{3,})")


class WebDatasetSource(Source[Sample]):
    """Images at known positions in several tars.

    Attributes:
      class_names: names of the classes.
      remarks: what was skipped or decided.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        places: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        keys: Sequence[bytes],
        remarks: Sequence[str] = (),
    ):
        """Create a source.

        Args:
          paths: the tars.
          places: number of the tar, byte position and size of each image, int64 [n, 3].
          labels: integers [n].
          class_names: names of the classes.
          keys: name of each sample; only for the fingerprint.
          remarks: what was skipped or decided.
        """
        self.class_names, self.remarks = list(class_names), list(remarks)
        self._paths, self._places, self._labels = list(paths), places, labels
        self.in_bucket = is_remote(paths[0])
        self._tars: dict[int, TarFile] = {}
        names = [path.name for path in paths]
        self._fingerprint = fingerprint(self.class_names, names, places, labels, b"\n".join(keys))

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Sample:
        """Return a sample; raise UserError if the tar cannot be read."""
        number, offset, size = map(int, self._places[index])
        tar = self._tars.get(number)
        if tar is None:
            if len(self._tars) >= MOST_OPEN:
                self._tars = {}  # a tar that another thread still reads closes after that
            tar = self._tars[number] = open_tar(self._paths[number])
        name, image = tar.member(offset, size)
        return Sample(image, int(self._labels[index]), f"{tar.path}/{name}")

    def fingerprint(self) -> str:
        return self._fingerprint


def read_webdataset(directory: Path, split: Split, held_out_fraction: float = 0.0) -> WebDatasetSource:
    """Open a split; the positions of the images in each tar are indexed once and cached (see `cached_arrays`).

    Args:
      directory: folder of the tars, whose names, or folders, name the split.
      split: the split.
      held_out_fraction: share to hold out of every class if there are no held-out tars; 0 for none.

    Raises:
      UserError: there are no tars, or one is damaged, or labels are missing or of unknown classes.
    """
    tars = [path for levels in (0, 1) for path in files_below(directory, levels, ".tar") if path.name[0] != "."]
    if not tars and files_below(directory, 0, ".tar.gz"):
        raise UserError(f"{directory} holds compressed tars, which have no random access: gunzip them")
    if not tars:
        raise UserError(f"{directory} holds no tars: {LAYOUT}")
    groups = group_files(tars, directory)
    chosen = choose_split(groups, split, held_out_fraction, directory, "tars", LAYOUT)
    paths = groups[chosen.name]
    indices = _indices(paths)
    texts = [text for index in indices for text in texts_of(index, "labels")]
    if not texts:
        raise UserError(f"{paths[0].parent} has tars without any image with a label: {LAYOUT}")
    class_names = _class_names(directory, texts, groups[chosen.training] if chosen.training and split == "val" else [])
    labels = _labels(texts, class_names, paths[0].parent)
    keys = [
        b"%s/%s" % (path.name.encode(), key)
        for path, index in zip(paths, indices, strict=True)
        for key in texts_of(index, "keys")
    ]
    numbers = np.repeat(np.arange(len(paths)), [len(index["offsets"]) for index in indices])
    places = np.stack(
        [numbers, *(np.concatenate([index[name] for index in indices]) for name in ("offsets", "sizes"))], 1
    )
    remarks = [*chosen.remarks, *_remarks(paths, indices)]
    if chosen.fraction:
        share, shares = share_of(split, labels, keys, chosen.fraction, str(directory))
        places, labels, keys, remarks = places[share], labels[share], [keys[row] for row in share], [*shares, *remarks]
    return WebDatasetSource(paths, places, labels, class_names, keys, remarks)


def _indices(paths: Sequence[Path]) -> list[Arrays]:
    """Return the index of every tar, with a progress bar if any has to be made."""
    with contextlib.ExitStack() as stack:
        starting = threading.Lock()
        advance = None

        def build(tar: TarFile) -> Arrays:
            nonlocal advance
            with starting:
                if advance is None:
                    title = f"indexing {len(paths)} tars in {paths[0].parent.name} (once)"
                    advance = stack.enter_context(progress_bar(title, sum(size or 0 for size in sizes_of(paths))))
            made = index_tar(tar.from_front_to_back())
            advance(tar.size())
            return made

        def indexed(path: Path) -> Arrays:
            tar = open_tar(path)
            return cached_arrays(path, lambda: build(tar), lambda arrays: is_index(arrays, tar))

        return list(at_once(indexed, paths, in_bucket=any(map(is_remote, paths))))


def _class_names(directory: Path, texts: Sequence[bytes], training: Sequence[Path]) -> list[str]:
    """Return the lines of classnames.txt, or what the labels of the training images say."""
    if (directory / CLASS_NAMES).is_file():
        text = read_from_folder(directory, {CLASS_NAMES: MOST_NAMES})[CLASS_NAMES].decode("utf-8-sig", "replace")
        return [line.strip() for line in text.splitlines() if line.strip()]
    known = {text for index in _indices(training) for text in texts_of(index, "labels")} or set(texts)
    if all(_is_number(text) for text in known):
        return [str(label) for label in range(max(map(int, known)) + 1)]
    return sorted(text.decode() for text in known)


def _labels(texts: Sequence[bytes], class_names: Sequence[str], where: Path) -> np.ndarray:
    """Return the class of each text, a number or a name; raise UserError for unknown ones."""
    numbers = all(_is_number(text) for text in set(texts))
    known = {name.encode(): label for label, name in enumerate(class_names)}
    if numbers:
        known = {text: int(text) for text in set(texts) if int(text) < len(class_names)}
    if unknown := sorted({text.decode() for text in set(texts) if text not in known}):
        raise UserError(
            f"{where} has labels that are no class of the {len(class_names)}: {shorten(unknown, 3)}: list all class "
            f"names in DIRECTORY/{CLASS_NAMES}, or correct the labels"
        )
    return np.array([known[text] for text in texts], np.int32)


def _is_number(text: bytes) -> bool:
    return text.isdigit() and len(text) < 7


def _remarks(paths: Sequence[Path], indices: Sequence[Arrays]) -> list[str]:
    """Name samples that are skipped, and tars that are missing between others."""
    without_image, without_label = sum((index["skipped"] for index in indices), np.zeros(2, np.int64)).tolist()
    remarks = []
    if without_image:
        remarks.append(f"samples skipped that have no image: {without_image:,}")
    if without_label:
        remarks.append(f"images skipped that are empty or have no label: {without_label:,}")
    numbered = [match for path in paths if (match := NUMBER.match(path.name))]
    present = {match[0] for match in numbered}
    for start in sorted({(match[1], len(match[2])) for match in numbered}):
        numbers = [int(match[2]) for match in numbered if (match[1], len(match[2])) == start]
        if max(numbers) - min(numbers) > MOST_TARS:
            continue  # dates, or the like
        names = [f"{start[0]}{number:0{start[1]}d}" for number in range(min(numbers), max(numbers))]
        if missing := [name for name in names if name not in present]:
            remarks.append(f"tars that seem to be missing: {shorten(missing, 3)}")
    return remarks
