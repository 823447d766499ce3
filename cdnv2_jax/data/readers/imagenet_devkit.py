"""ILSVRC2012_devkit_t12.tar.gz: the classes of ImageNet and which of them each validation image shows."""

import io
import re
import tarfile
import zlib
from pathlib import Path

import numpy as np

from cdnv2_jax.errors import UserError, one_line

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
META, TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
MOST_BYTES = 64 << 20  # of each of the two; the real ones have less than 1 MiB


def read_devkit(path: Path) -> tuple[list[str], np.ndarray]:
    """WordNet ids of all classes, sorted, and the class of every validation image: int32 [n], positions in them.

    The ids are those of the synsets that have no children; the ground truth gives a synset's ILSVRC2012_ID for each
    image, as torchvision reads it too.

    Raises:
      UserError: damaged, or not the devkit's contents.
    """
    files = _members(path)
    try:
        classes, labels = _classes(files[META])
        truth = [labels[int(line)] for line in files[TRUTH].split()]
    except Exception as error:  # SciPy raises errors of many kinds over a malformed file
        raise UserError(f"{path} is not what it should be ({one_line(error)}): download it again") from error
    return classes, np.array(truth, np.int32)


def _members(path: Path) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = re.sub(r"^[^/]+/(?=data/)", "", member.name.removeprefix("./"))
                if name in (META, TRUTH) and member.isreg() and member.size <= MOST_BYTES:
                    opened = archive.extractfile(member)
                    found[name] = opened.read() if opened else b""
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}): download it again") from error
    if missing := {META, TRUTH} - set(found):
        raise UserError(f"{path} lacks {', '.join(sorted(missing))}: download it again")
    return found


def _classes(meta: bytes) -> tuple[list[str], dict[int, int]]:
    """Sorted WordNet ids, and ILSVRC2012_ID → position among them."""
    from scipy.io import loadmat

    synsets = np.atleast_1d(loadmat(io.BytesIO(meta), squeeze_me=True, variable_names=["synsets"])["synsets"])
    ids = {str(row["WNID"]): int(row["ILSVRC2012_ID"]) for row in synsets if int(row["num_children"]) == 0}
    classes = sorted(ids)
    return classes, {ids[wnid]: label for label, wnid in enumerate(classes)}
