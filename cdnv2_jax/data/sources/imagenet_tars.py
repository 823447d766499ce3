"""ImageNet (ILSVRC2012) from the original archives: images are read in place, nothing is unpacked."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from cdnv2_jax.data.source import Sample, Source, Split, fingerprint
from cdnv2_jax.data.sources.files import Arrays, cached_arrays, progress_bar, read_from_archive
from cdnv2_jax.data.sources.mat_structs import read_structs
from cdnv2_jax.data.sources.tar_members import Member, TarFile, open_tar
from cdnv2_jax.data.storage import at_once
from cdnv2_jax.errors import UserError, one_line, shorten
from cdnv2_jax.paths import is_remote

TRAIN, VAL, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
LAYOUT = f"put {TRAIN}, {VAL} and {DEVKIT} into DIRECTORY"
IMAGES = (".jpeg", ".jpg")
META, TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"  # in the devkit
LONGEST_CLASS = 255  # letters; the names of all are stored as wide as the longest
MOST_BYTES = 64 << 20  # limit for each of the two; the real ones have less than 1 MiB


class TarSource(Source[Sample]):
    """Images at known positions in a tar.

    Attributes:
      class_names: WordNet ids, sorted.
    """

    def __init__(self, tar: TarFile, class_names: Sequence[str], offsets: np.ndarray, sizes: np.ndarray, labels):
        """Create a source from byte positions and sizes, int64 [n], and labels, int32 [n]."""
        self.class_names = list(class_names)
        self._tar, self._offsets, self._sizes, self._labels = tar, offsets, sizes, labels
        self.in_bucket = is_remote(tar.path)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Sample:
        """Return a sample; raise UserError if the tar cannot be read."""
        name, image = self._tar.member(int(self._offsets[index]), int(self._sizes[index]))
        return Sample(image, int(self._labels[index]), f"{self._tar.path}/{name}")

    def fingerprint(self) -> str:
        """Return a hash of the classes, the labels, and the images' places in the tar."""
        return fingerprint(self._tar.path.name, self.class_names, self._labels, self._offsets, self._sizes)


def read_imagenet_tars(directory: Path, split: Split) -> TarSource:
    """Open a split; the positions of its images in the tar are indexed once and cached (see `cached_arrays`).

    Raises:
      UserError: an archive is missing, damaged, or does not match the others.
    """
    needed = [TRAIN] if split == "train" else [VAL, DEVKIT]
    if missing := [name for name in needed if not (directory / name).is_file()]:
        raise UserError(f"{directory} lacks {shorten(missing)}: {LAYOUT}")
    return _train(directory) if split == "train" else _val(directory)


def _train(directory: Path) -> TarSource:
    tar = open_tar(directory / TRAIN)
    arrays = cached_arrays(tar.path, lambda: _index_classes(tar), lambda found: _is_index(found, tar, "classes"))
    classes = [str(name) for name in arrays["classes"]]
    if (directory / DEVKIT).is_file():
        known, _ = read_devkit(directory / DEVKIT)
        if known != classes:
            odd = shorten(sorted(set(known) ^ set(classes)))
            raise UserError(f"{tar.path} and {DEVKIT} differ in the classes {odd}: download them again")
    return TarSource(tar, classes, arrays["offsets"], arrays["sizes"], arrays["labels"])


def _val(directory: Path) -> TarSource:
    tar = open_tar(directory / VAL)
    classes, truth = read_devkit(directory / DEVKIT)
    arrays = cached_arrays(tar.path, lambda: _index_images(tar), lambda found: _is_index(found, tar, "numbers"))
    numbers = arrays["numbers"]
    if not np.array_equal(numbers, np.arange(1, len(truth) + 1)):
        raise UserError(
            f"{tar.path} has {len(numbers)} images, {DEVKIT} the classes of {len(truth)}: download both again"
        )
    return TarSource(tar, classes, arrays["offsets"], arrays["sizes"], truth)


def read_devkit(path: Path) -> tuple[list[str], np.ndarray]:
    """Read the devkit: the classes, and the class of each validation image.

    Classes are the synsets without children. The ground truth is the ILSVRC2012_ID of a synset for each image, as in
    torchvision.

    Returns:
      The sorted WordNet ids, and each image's index in them, int32 [n].

    Raises:
      UserError: the devkit is damaged, or has other contents.
    """
    files = read_from_archive(path, {META: MOST_BYTES, TRUTH: MOST_BYTES})
    return parse_devkit(files[META], files[TRUTH], str(path))


def parse_devkit(meta: bytes, truth: bytes, where: str) -> tuple[list[str], np.ndarray]:
    """Like `read_devkit`, from the contents of its two files; `where` is their place in messages."""
    try:
        classes, labels = _classes(meta)
        of_images = [labels[int(line)] for line in truth.split()]
    except (ValueError, KeyError, OverflowError) as error:
        raise UserError(f"{where} has invalid contents ({one_line(error)}): download it again") from error
    return classes, np.array(of_images, np.int32)


def _classes(meta: bytes) -> tuple[list[str], dict[int, int]]:
    """Return the sorted WordNet ids, and ILSVRC2012_ID → index in them."""
    ids: dict[str, int] = {}
    for row in read_structs(meta, "synsets", ("WNID", "ILSVRC2012_ID", "num_children")):
        wnid, number, children = row["WNID"], row["ILSVRC2012_ID"], row["num_children"]
        if not isinstance(wnid, str) or not isinstance(number, float) or not isinstance(children, float):
            raise ValueError(f"{META} has a synset without id or children")
        if children == 0:
            ids[wnid] = int(number)
    classes = sorted(ids)
    return classes, {ids[wnid]: label for label, wnid in enumerate(classes)}


def _index_classes(tar: TarFile) -> Arrays:
    """Index a tar of tars, WNID.tar: `classes`, sorted, and each image's offset, size and label, sorted by label."""
    size = tar.size()
    packed = {}
    for member in tar.members():
        if member.name.endswith(".tar"):
            wnid = PurePosixPath(member.name).stem
            if len(wnid) > LONGEST_CLASS:
                raise UserError(f"{tar.path} has a class tar of {len(wnid):,} letters: download it again")
            if wnid in packed:
                raise UserError(f"{tar.path} has the class {wnid!r} twice: download it again")
            packed[wnid] = member
    if not packed:
        raise UserError(f"{tar.path} holds no class tars: it must be the original, a tar of tars")
    found: list[tuple[int, int, int]] = []
    members = [packed[wnid] for wnid in sorted(packed)]
    with progress_bar(f"indexing {tar.path.name} (once)", size) as advance:
        indexed = at_once(lambda member: _images_in(tar, member), members, in_bucket=is_remote(tar.path))
        for label, images in enumerate(indexed):
            found += [(image.offset, image.size, label) for image in images]
            advance(members[label].size)
    offsets, sizes, labels = np.array(found, np.int64).T.copy()
    return {"classes": np.array(sorted(packed)), "offsets": offsets, "sizes": sizes, "labels": labels.astype(np.int32)}


def _images_in(tar: TarFile, packed: Member) -> list[Member]:
    """Return the images in the tar of a class; raise UserError if there are none."""
    inside = tar.from_front_to_back().members(packed.offset, packed.offset + packed.size)
    images = [image for image in inside if image.name.lower().endswith(IMAGES)]
    if not images:
        raise UserError(f"{tar.path}: {packed.name!r} holds no images: download it again")
    return images


def _index_images(tar: TarFile) -> Arrays:
    """Index a tar of images, …_NUMBER.JPEG: each image's offset, size and number, sorted by number."""
    found = [
        (int(number[1]), member.offset, member.size)
        for member in tar.from_front_to_back().members()
        if (number := re.search(r"_(\d{1,9})\.jpe?g$", member.name, re.IGNORECASE))
    ]
    numbers, offsets, sizes = np.array(sorted(found), np.int64).reshape(-1, 3).T.copy()
    return {"numbers": numbers, "offsets": offsets, "sizes": sizes}


def _is_index(found: Arrays, tar: TarFile, kind: str) -> bool:
    """Whether cached arrays have the form of an index with all positions inside the tar."""
    lists = ["offsets", "sizes", "numbers" if kind == "numbers" else "labels"]
    if not {kind, *lists} <= set(found):
        return False
    first = found["offsets"]
    if any(found[name].ndim != 1 or found[name].dtype.kind != "i" or len(found[name]) != len(first) for name in lists):
        return False
    inside = np.all((first >= 512) & (found["sizes"] >= 0) & (found["sizes"] <= tar.size() - first))
    if kind == "numbers" or not inside:
        return bool(inside)
    named = found["classes"].dtype.kind == "U" and found["classes"].ndim == 1
    return bool(named and np.all((found["labels"] >= 0) & (found["labels"] < len(found["classes"]))))
