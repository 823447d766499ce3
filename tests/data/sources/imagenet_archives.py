"""Tiny archives in the structure of ILSVRC 2012's."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.io import savemat

SYNSETS = {
    # ILSVRC2012_ID: (WordNet id, children); the ids of leaves are not in the order of their WordNet ids.
    1: ("n02119789", []),
    2: ("n01440764", []),
    3: ("n02100735", []),
    4: ("n00001740", [5, 3]),
    5: ("n02075296", [1, 2]),
}
CLASSES = ["n01440764", "n02100735", "n02119789"]
TRUTH = [1, 3, 2, 2]
LABELS = [2, 1, 0, 0]
"""Of the four validation images, positions in CLASSES."""

JPEG = b"\xff\xd8\xff"  # how such files begin; nothing here looks further
FISH, SETTER, SECOND_SETTER = JPEG + b"t" * 509, JPEG + b"setter", JPEG + b"!" * 510
FOX, SECOND_FOX = JPEG + b"fox", JPEG + b"another fox" * 100
TRAIN = {
    "n02119789": {"n02119789_7.JPEG": FOX, "n02119789_11.JPEG": SECOND_FOX},
    "n01440764": {"n01440764_1.JPEG": FISH},
    "n02100735": {"n02100735_3.JPEG": SETTER, "n02100735_4.JPEG": SECOND_SETTER, "README": b"no image"},
}
TRAIN_IMAGES = [
    (0, "n01440764_1.JPEG", FISH),
    (1, "n02100735_3.JPEG", SETTER),
    (1, "n02100735_4.JPEG", SECOND_SETTER),
    (2, "n02119789_7.JPEG", FOX),
    (2, "n02119789_11.JPEG", SECOND_FOX),
]
VAL = {f"ILSVRC2012_val_{number:08d}.JPEG": JPEG + f"image {number}".encode() * 50 for number in (3, 1, 4, 2)}


def tar_bytes(files: Mapping[str, bytes], mode: str = "w", form: int = tarfile.USTAR_FORMAT) -> bytes:
    """An archive of these files."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=form) as archive:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def meta_mat() -> bytes:
    """meta.mat: a column of structs, as MATLAB wrote it for the devkit."""
    kinds = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children")]
    synsets = np.zeros((len(SYNSETS), 1), [*kinds, ("wordnet_height", object), ("num_train_images", object)])
    for row, (number, (wnid, children)) in enumerate(SYNSETS.items()):
        values = (number, wnid, f"word {number}", "what it is", len(children), children or [], 1, 1300)
        synsets[row, 0] = tuple(np.array(value, np.float64) if isinstance(value, list) else value for value in values)
    stream = io.BytesIO()
    savemat(stream, {"synsets": synsets})
    return stream.getvalue()


def write_devkit(directory: Path, truth: bytes = b"".join(b"%d\n" % number for number in TRUTH)) -> Path:
    """ILSVRC2012_devkit_t12.tar.gz."""
    path = directory / "ILSVRC2012_devkit_t12.tar.gz"
    folder = "ILSVRC2012_devkit_t12"
    files = {f"{folder}/readme.txt": b"", f"{folder}/data/meta.mat": meta_mat()}
    files[f"{folder}/data/ILSVRC2012_validation_ground_truth.txt"] = truth
    path.write_bytes(tar_bytes(files, "w:gz"))
    return path


def write_archives(directory: Path) -> Path:
    """All three."""
    train = {f"{wnid}.tar": tar_bytes(files) for wnid, files in TRAIN.items()}
    (directory / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(train))
    (directory / "ILSVRC2012_img_val.tar").write_bytes(tar_bytes(VAL))
    write_devkit(directory)
    return directory
