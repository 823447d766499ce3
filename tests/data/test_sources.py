"""From the name of a source to its batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cdnv2_jax import UserError
from cdnv2_jax.data.digits import digits_as_images, split_indices
from cdnv2_jax.data.sources import SOURCES, check_source, held_out_batches, training_batches
from tests.data.image_files import colour, write_images


def _held_out(source: str, **changes: Any):
    settings: dict[str, Any] = {
        "directory": "",
        "image_size": 8,
        "batch_size": 100,
        "num_classes": 10,
        "interpolation": "bicubic",
    }
    return held_out_batches(source, **{**settings, **changes})


def test_training_digits_are_the_training_split() -> None:
    batches = training_batches("digits", image_size=8, batch_size=479, num_classes=10, seed=0, max_shift=0)
    images, labels = digits_as_images(8)
    train, _ = split_indices(labels)
    assert batches.steps_per_epoch == 3
    np.testing.assert_array_equal(batches.images, images[train])
    np.testing.assert_array_equal(batches.labels, labels[train])


def test_held_out_digits_are_the_test_split() -> None:
    images, labels = digits_as_images(8)
    _, test = split_indices(labels)
    batches = list(_held_out("digits"))
    np.testing.assert_array_equal(np.concatenate([images[real] for (images, _), real in batches]), images[test])
    np.testing.assert_array_equal(np.concatenate([labels[real] for (_, labels), real in batches]), labels[test])


def test_held_out_image_folder(tmp_path: Path) -> None:
    write_images(tmp_path, {"a": ["x.png"], "b": ["y.png"]})
    [((images, labels), real)] = _held_out("image_folder", directory=str(tmp_path), batch_size=3)
    assert images.shape == (3, 8, 8, 3)
    np.testing.assert_array_equal(labels[real], [0, 1])
    red = images[real][:, 0, 0, 0]
    assert (red[0] < red[1]) == (colour("x.png")[0] < colour("y.png")[0])


def test_unknown_source() -> None:
    with pytest.raises(UserError, match="no data source 'digit': did you mean 'digits'"):
        check_source("digit")
    with pytest.raises(UserError, match="no data source 'xyz'") as refusal:
        check_source("xyz")
    assert all(source in str(refusal.value) for source in SOURCES)


def test_image_folder_cannot_be_trained_on_yet() -> None:
    with pytest.raises(UserError, match="training so far reads 'digits' only"):
        training_batches("image_folder", image_size=8, batch_size=4, num_classes=10, seed=0, max_shift=0)


def test_mistakes_are_found_before_the_first_batch(tmp_path: Path) -> None:
    """Nothing needs to be computed for these to be told."""
    with pytest.raises(UserError, match="is no directory"):
        _held_out("image_folder", directory=str(tmp_path / "missing"))
    write_images(tmp_path, {name: ["x.png"] for name in "abc"})
    with pytest.raises(UserError, match="has 3 classes, the network tells 2 apart"):
        _held_out("image_folder", directory=str(tmp_path), num_classes=2)


@pytest.mark.parametrize("classes", [1, 9])
def test_too_few_classes_for_the_digits(classes: int) -> None:
    with pytest.raises(UserError, match=f"10 classes.* {classes} "):
        _held_out("digits", num_classes=classes)
