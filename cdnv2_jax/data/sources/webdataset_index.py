"""The samples in a tar of WebDataset: where each image is, and the text of its label."""

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from cdnv2_jax.bounded_reading import parse_json
from cdnv2_jax.data.decode import EXTENSIONS
from cdnv2_jax.data.sources.files import Arrays
from cdnv2_jax.data.sources.tar_members import Member, TarFile
from cdnv2_jax.errors import UserError

KEY = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)")
"""As the library webdataset splits a name: the key ends at the first dot after the last slash."""
LABELS = ("cls", "cls.txt", "json", "txt")  # endings of the files with a label, in the order in which they are tried
FIELDS = ("label", "cls", "class")  # of a JSON object, likewise
MOST_BYTES = 1 << 16  # of a file with a label; a longer one is not
LONGEST_LABEL = 200
TEXTS = ("keys", "labels")


class Entry(NamedTuple):
    """An image with a label.

    Attributes:
      key: name of the sample.
      label: the text of its label.
      offset: position of the image in the tar, in bytes.
      size: size of the image, in bytes.
    """

    key: str
    label: str
    offset: int
    size: int


def index_tar(tar: TarFile) -> Arrays:
    """Return offset and size of every image, and keys and labels as bytes with their ends; `skipped` counts the rest.

    The files of a sample need not be neighbours.

    Raises:
      UserError: the tar is damaged, or a file is in it twice.
    """
    samples: dict[str, dict[str, Member]] = {}
    labels: dict[tuple[str, str], str] = {}
    for member in tar.members():
        if match := KEY.fullmatch(member.name):
            key, ending = match[1], match[2].lower()
            files = samples.setdefault(key, {})
            if files.setdefault(ending, member) is not member:
                raise UserError(f"{tar.path} has {member.name!r} twice: pack it again")
            # Read now, because a tar in a bucket is read from front to back.
            if ending in LABELS and (label := _label(tar, member, ending)):
                labels[key, ending] = label
    entries = list(_entries(samples, labels))
    images = sum(_image(files) is not None for files in samples.values())
    arrays: dict[str, np.ndarray] = {
        "offsets": np.array([entry.offset for entry in entries], np.int64),
        "sizes": np.array([entry.size for entry in entries], np.int64),
        "skipped": np.array([len(samples) - images, images - len(entries)], np.int64),
    }
    for name, texts in (("keys", [entry.key for entry in entries]), ("labels", [entry.label for entry in entries])):
        encoded = [text.encode("utf-8", "replace") for text in texts]
        arrays[name] = np.frombuffer(b"".join(encoded), np.uint8)
        arrays[f"{name}_ends"] = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return arrays


def _entries(samples: Mapping[str, Mapping[str, Member]], labels: Mapping[tuple[str, str], str]) -> Iterator[Entry]:
    for key, files in samples.items():
        image, label = _image(files), next((labels[key, ending] for ending in LABELS if (key, ending) in labels), None)
        if image is not None and image.size and label is not None:
            yield Entry(key, label, image.offset, image.size)


def _image(files: Mapping[str, Member]) -> Member | None:
    return next((files[ending[1:]] for ending in EXTENSIONS if ending[1:] in files), None)


def _label(tar: TarFile, member: Member, ending: str) -> str | None:
    """Return the label that a file holds, if any."""
    if member.size > MOST_BYTES:
        return None
    text = tar.read(member.offset, member.size).decode("utf-8-sig", "replace").strip()
    label = _from_json(text) if ending == "json" else text
    return label if label and len(label) <= LONGEST_LABEL else None


def _from_json(text: str) -> str | None:
    try:
        content: Any = parse_json(text)
    except ValueError:
        return None
    if isinstance(content, dict):
        content = next((content[field] for field in FIELDS if field in content), None)
    return str(content).strip() if isinstance(content, int | str) and not isinstance(content, bool) else None


def is_index(found: Arrays, tar: TarFile) -> bool:
    """Whether cached arrays have the form of an index, with all positions inside the tar."""
    names = {"offsets", "sizes", "skipped", *TEXTS, *(f"{name}_ends" for name in TEXTS)}
    if not names <= set(found) or any(found[name].ndim != 1 for name in names):
        return False
    if any(found[name].dtype != (np.uint8 if name in TEXTS else np.int64) for name in names):
        return False
    offsets, sizes = found["offsets"], found["sizes"]
    if len(sizes) != len(offsets) or len(found["skipped"]) != 2:
        return False
    if any(not _are_ends(found[f"{name}_ends"], len(offsets), len(found[name])) for name in TEXTS):
        return False
    return bool(np.all((offsets >= 512) & (sizes > 0) & (sizes <= tar.size() - offsets)))


def _are_ends(ends: np.ndarray, count: int, size: int) -> bool:
    return len(ends) == count + 1 and ends[0] == 0 and ends[-1] == size and bool(np.all(np.diff(ends) >= 0))


def texts_of(found: Arrays, name: str) -> list[bytes]:
    """Return the keys or the labels of an index."""
    whole, ends = found[name].tobytes(), found[f"{name}_ends"].tolist()
    return [whole[start:end] for start, end in itertools.pairwise(ends)]
