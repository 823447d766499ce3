"""Classes of a detector and of the images that it is evaluated on: matched by hand, or refused with their names."""

from collections.abc import Sequence

import numpy as np
import pytest

from cdnv2_jax import UserError
from cdnv2_jax.detection.classes import match_checkpoint, match_held_out
from cdnv2_jax.detection.data.annotations import AnnotationArrays, DetectionSource, Id
from cdnv2_jax.detectors.detector import Classes
from tests.tables import table

Pairs = Sequence[tuple[Id, str]]


class Images(DetectionSource):
    """One image with one box, of the given categories."""

    def __init__(self, categories: Pairs, boxes: int = 1):
        ids, names = zip(*categories, strict=True)
        none, flags = np.ones((boxes, 4)), np.zeros(boxes, bool)
        sizes, numbers = np.full((1, 2), 64, np.int32), np.zeros(boxes, int)
        arrays = AnnotationArrays(
            np.arange(1), sizes, np.array([0, boxes]), numbers, numbers, none, np.ones(boxes), flags, flags
        )
        super().__init__(arrays, names, ids)

    def encoded(self, index: int) -> tuple[bytes, str]:
        raise NotImplementedError


TRAIN = [(7, "red box"), (42, "green box"), (50, "blue box")]
LACKING = "{} of 3 classes are no category of the held-out images and not evaluated: "


@table(
    "val, ids, remarks",
    {
        "the same": (TRAIN, [7, 42, 50], []),
        "in another order": (TRAIN[::-1], [7, 42, 50], []),
        "ids as text": ([(str(number), name) for number, name in TRAIN], ["7", "42", "50"], []),
        "one of them": (TRAIN[1:2], [None, 42, None], [LACKING.format(2) + "'red box', 'blue box'"]),
    },
)
def test_held_out_images_of_a_run(val: Pairs, ids: list[Id | None], remarks: list[str]) -> None:
    assert match_held_out(Images(TRAIN), Images(val)) == (ids, remarks)


@table(
    "val, complaint",
    {
        "another id": (
            [(42, "green box"), (99, "red box")],
            r"99 'red box' only in val, 7 'red box', 50 'blue box' only in train",
        ),
        "another name": ([*TRAIN[:2], (50, "Blue box")], r"50 'Blue box' only in val, 50 'blue box' only in train"),
        "one more": ([*TRAIN, (1, "sky")], r"1 'sky' only in val: give both the same"),
        "many": ([(n, f"class {n}") for n in range(100, 120)], r"105 'class 105' and 14 more only in val"),
    },
)
def test_other_held_out_images_are_refused(val: Pairs, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as error:
        match_held_out(Images(TRAIN), Images(val))
    assert "\n" not in str(error.value) and "train and val have different categories" in str(error.value)


def test_nothing_to_evaluate_training_on() -> None:
    with pytest.raises(UserError, match=r"held-out images have no annotations.*config\.data\.val_annotations"):
        match_held_out(Images(TRAIN), Images(TRAIN, boxes=0))


CLASSES = Classes([name for _, name in TRAIN], [number for number, _ in TRAIN])


@table(
    "images, ids, remarks",
    {
        "the same": (TRAIN, [7, 42, 50], []),
        "other ids": ([(1, "blue box"), (2, "green box"), (3, "red box")], [3, 2, 1], []),
        "text as ids": ([("b", "blue box"), ("g", "green box"), ("r", "red box")], ["r", "g", "b"], []),
        "some of them": ([(7, "green box")], [None, 7, None], [LACKING.format(2) + "'red box', 'blue box'"]),
    },
)
def test_checkpoint_by_name(images: Pairs, ids: list[Id | None], remarks: list[str]) -> None:
    """Whatever the ids are: 7 was the red box, and is the green one."""
    assert match_checkpoint(CLASSES, Images(images), "it") == (ids, remarks)


def test_unknown_to_the_checkpoint() -> None:
    message = r"runs/a does not know 'sky' of the images' categories; it detects 'red box', 'green box', 'blue box':"
    with pytest.raises(UserError, match=message):
        match_checkpoint(CLASSES, Images([(7, "sky"), (42, "green box")]), "runs/a")
