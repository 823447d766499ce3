"""ImageNet's validation images in a single folder, with their labels in another file."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cdnv2_jax.data.sources.class_folders import Skipped, scan_folder
from cdnv2_jax.data.sources.files import read_from_folder
from cdnv2_jax.data.sources.image_files import ImageFolderSource
from cdnv2_jax.data.sources.imagenet_tars import DEVKIT, META, MOST_BYTES, TRUTH, parse_devkit, read_devkit
from cdnv2_jax.data.sources.split_names import NAMES
from cdnv2_jax.data.storage import names_in
from cdnv2_jax.errors import UserError, shorten

IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})(\.jpe?g)?", re.IGNORECASE)
WNID = re.compile(r"n\d{8}")
CLASSES, IMAGES = 1000, 50_000
FOLDERS = NAMES["val"]
DEVKIT_FOLDER = "ILSVRC2012_devkit_t12"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
TEXTS = ("LOC_val_solution.csv", "imagenet_2012_validation_synset_labels.txt", "val.txt", "val_labels.txt")
LAYOUT = f"put {DEVKIT}, {GROUND_TRUTH} with meta.mat, {', '.join(TEXTS[:-1])} or {TEXTS[-1]} into DIRECTORY"


def find_flat(directory: Path) -> Path | None:
    """Return the folder of files called ILSVRC2012_val_NUMBER.JPEG, DIRECTORY/val or DIRECTORY itself, or None."""
    folders = [directory / name for name in names_in(directory) if name.lower() in FOLDERS]
    folders = sorted((path for path in folders if path.is_dir()), key=lambda path: FOLDERS.index(path.name.lower()))
    return next((folder for folder in (*folders, directory) if any(map(IMAGE.fullmatch, names_in(folder)))), None)


def read_flat(folder: Path, directory: Path, known: Sequence[str] | None) -> ImageFolderSource:
    """Open the images of `folder` with the labels that lie in DIRECTORY or beside the images.

    Args:
      folder: folder of the images.
      directory: first place of the labels.
      known: class names of the training images, if there are any.

    Raises:
      UserError: there are no labels, or they do not match the images or the training classes.
    """
    skipped = Skipped()
    images, _ = scan_folder(folder, "", folder.name, skipped)
    numbered = sorted((int(match[1]), *image) for image in images if (match := IMAGE.fullmatch(image[0])))
    for name in sorted({name for name, _ in images} - {name for _, name, _ in numbered}):
        skipped.add("other images", f"{folder.name}/{name}")
    if not numbered:
        raise UserError(f"{folder} holds no image that can be read ({'; '.join(skipped.remarks())}): fill it")
    file, classes, truth = _labels(folder, directory, known, len(numbered))
    if missing := [name for number, name, _ in numbered if number not in truth]:
        raise UserError(f"{file} has no label for {shorten(missing, 3)}: it must have one for every image in {folder}")
    remarks = [f"labels from {file.name}", *skipped.remarks()]
    if len(truth) != len(numbered):
        remarks.append(f"{len(numbered):,} of {len(truth):,} labelled images are there")
    labels = np.array([truth[number] for number, _, _ in numbered])
    names, sizes = [name.encode() for _, name, _ in numbered], np.array([size for _, _, size in numbered])
    return ImageFolderSource(folder, classes, [""] * len(classes), labels, names, sizes, remarks)


def _labels(
    folder: Path, directory: Path, known: Sequence[str] | None, count: int
) -> tuple[Path, Sequence[str], dict[int, int]]:
    """Return the file of labels, the class names, and image number → label."""
    for place in dict.fromkeys((directory, folder)):
        if found := _read_devkit_in(place):
            file, classes, labels = found
            if known is not None and list(known) != classes:
                raise UserError(f"{file} has other classes than the training images: use the folders of ImageNet")
            return file, classes, labels
        for name in TEXTS:
            if (file := place / name).is_file():
                return file, *_resolve(file, _read_text(file, count), known)
    raise UserError(f"{folder} has images of all classes and no labels: {LAYOUT}, or sort them into folders of classes")


def _read_devkit_in(place: Path) -> tuple[Path, list[str], dict[int, int]] | None:
    """Read the devkit, packed or not; the ground truth has ids that only its meta.mat explains."""
    if (file := place / DEVKIT).is_file():
        classes, truth = read_devkit(file)
        return file, classes, dict(enumerate(truth.tolist(), 1))
    for meta, truth in ((f"{DEVKIT_FOLDER}/{META}", f"{DEVKIT_FOLDER}/{TRUTH}"), ("meta.mat", GROUND_TRUTH)):
        if (place / truth).is_file() and (place / meta).is_file():
            files = read_from_folder(place, {meta: MOST_BYTES, truth: MOST_BYTES})
            classes, labels = parse_devkit(files[meta], files[truth], str(place / truth))
            return place / truth, classes, dict(enumerate(labels.tolist(), 1))
    return None


def _read_text(file: Path, count: int) -> dict[int, str]:
    """Return image number → the label's text, of lines "NAME LABEL …", or "LABEL" for all images or for `count`."""
    text = read_from_folder(file.parent, {file.name: MOST_BYTES})[file.name].decode("utf-8-sig", "replace")
    lines = [re.split(r"[\s,]+", line.strip()) for line in text.splitlines() if line.strip()]
    if file.suffix == ".csv" and lines and lines[0][0] == "ImageId":
        del lines[0]
    named = bool(lines) and len(lines[0]) > 1
    if not named and len(lines) not in (count, IMAGES):
        raise UserError(f"{file} has {len(lines)} lines for {count} images: it must have one for each, or all {IMAGES}")
    labels: dict[int, str] = {}
    for position, fields in enumerate(lines, 1):
        image = IMAGE.fullmatch(fields[0].rpartition("/")[2])
        if (len(fields) > 1) != named or bool(image) != named:
            raise UserError(f"{file}, line {position}: {' '.join(fields)[:60]!r} is no label, nor a name and its label")
        number = int(image[1]) if image else position
        label = fields[1 if named else 0]
        if labels.setdefault(number, label) != label:
            raise UserError(f"{file} has two labels for {fields[0]}: remove one of them")
    return labels


def _resolve(file: Path, texts: dict[int, str], known: Sequence[str] | None) -> tuple[Sequence[str], dict[int, int]]:
    """Return the class names and image number → label; texts are WordNet ids, or positions in their sorted list."""
    if all(WNID.fullmatch(text) for text in texts.values()):
        classes = list(known) if known is not None else sorted(set(texts.values()))
        positions = {wnid: label for label, wnid in enumerate(classes)}
        if unknown := sorted(set(texts.values()) - set(positions)):
            raise UserError(f"{file} has classes without training images: {shorten(unknown)}: use the same in both")
        return classes, {number: positions[text] for number, text in texts.items()}
    classes = known if known is not None else [str(label) for label in range(CLASSES)]
    if not all(text.isascii() and text.isdecimal() and len(text) < 10 for text in texts.values()):
        raise UserError(f"{file} has labels that are neither WordNet ids (n01440764) nor numbers: {LAYOUT}")
    labels = {number: int(text) for number, text in texts.items()}
    if max(labels.values(), default=0) >= len(classes):
        raise UserError(
            f"{file} has labels up to {max(labels.values())}, for {len(classes)} classes numbered from 0 in the order "
            f"of WordNet ids: {LAYOUT}"
        )
    return classes, labels
