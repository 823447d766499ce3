"""The held-out share of a data set that has no split of its own."""

import hashlib
from collections.abc import Sequence

import numpy as np

from cdnv2_jax.data.source import Split
from cdnv2_jax.errors import UserError


def held_out(labels: np.ndarray, names: Sequence[bytes], fraction: float) -> np.ndarray:
    """Choose the images to hold out of every class: those whose names have the smallest hashes.

    Depends only on each image's class and name, so neither order, nor place, nor other classes matter, and few images
    change sides when some are added. Of n images of a class, fraction · n are held out, rounded, but at least one on
    each side; a single image is for training.

    Args:
      labels: integers [n].
      names: name of every image, unique within its class.
      fraction: share to hold out, in (0, 1).

    Returns:
      bool [n].
    """
    hashes = np.array([hashlib.sha256(name).digest()[:8] for name in names], "S8").view(">u8")
    by_class = np.lexsort((hashes, labels))  # of equal labels, the smallest hash first
    ordered = labels[by_class]
    _, starts, counts = np.unique(ordered, return_index=True, return_counts=True)
    shares = np.clip(np.floor(fraction * counts + 0.5), 1, counts - 1).astype(np.int64)
    rank = np.arange(len(ordered)) - np.repeat(starts, counts)
    chosen = np.zeros(len(ordered), bool)
    chosen[by_class] = rank < np.repeat(shares, counts)
    return chosen


def share_of(
    split: Split, labels: np.ndarray, names: Sequence[bytes], fraction: float, where: str
) -> tuple[np.ndarray, list[str]]:
    """Return the indices of a split's share of a data set without its own split, and remarks on what is held out.

    Raises:
      UserError: no class has two images, so that none can be held out.
    """
    chosen = held_out(labels, names, fraction)
    if not chosen.any():
        raise UserError(
            f"{where} has a single image in every class, so that none can be held out: add images, or evaluate on all "
            f"with config.data.held_out_fraction=0"
        )
    remarks = [f"{chosen.sum():,} of {len(labels):,} images held out, {fraction:.3g} of every class"]
    if single := int((np.unique(labels, return_counts=True)[1] == 1).sum()):
        remarks.append(f"{single} {'class' if single == 1 else 'classes'} with a single image, for training only")
    return np.flatnonzero(chosen == (split == "val")), remarks
