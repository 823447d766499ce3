"""Tiny data sets of Hugging Face, written by the library itself."""

import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ["cat", "dog", "emu"]
LABELS = {"train": [0, 1, 2, 0, 1, 2, 0, 1], "validation": [2, 0, 2]}


def png(split: str, index: int) -> bytes:
    """An encoded image, another for each position."""
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), 20 * index + len(split), np.uint8)).save(stream, "png")
    return stream.getvalue()


def make_set(split: str, **columns: Any) -> Any:
    """A `datasets.Dataset` of `image`, `label` and other columns, (feature, values) each."""
    datasets = importlib.import_module("datasets")
    rows = len(LABELS[split])
    images = [{"bytes": png(split, index), "path": f"{index}.png"} for index in range(rows)]
    made = {
        "image": (datasets.Image(), images),
        "label": (datasets.ClassLabel(names=NAMES), LABELS[split]),
        **columns,
    }
    features = datasets.Features({name: feature for name, (feature, _) in made.items()})
    return datasets.Dataset.from_dict({name: values for name, (_, values) in made.items()}, features=features)


def write_saved(directory: Path) -> Path:
    """A DatasetDict of both splits, and a third one."""
    datasets = importlib.import_module("datasets")
    splits = {split: make_set(split) for split in LABELS}
    datasets.DatasetDict({**splits, "extra": splits["train"]}).save_to_disk(str(directory))
    return directory


def write_parquet(directory: Path) -> Path:
    """The files of a repository on the hub."""
    (directory / "data").mkdir(parents=True)
    for split in LABELS:
        whole = make_set(split)
        for number in range(2):
            path = directory / "data" / f"{split}-{number:05d}-of-00002.parquet"
            whole.shard(2, number, contiguous=True).to_parquet(str(path))
    return directory
