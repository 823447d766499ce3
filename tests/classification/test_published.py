"""Which published figures a network may be compared with: those of its own data, and of just its architecture."""

import pytest

from cdnv2_jax.data.class_names import imagenet_classes
from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.report.published import data_set_of_published, published_data_set


@pytest.mark.parametrize(
    ("source", "classes", "data_set"),
    [
        ("image_folder", list(imagenet_classes()), "imagenet"),
        ("imagenet_tars", list(imagenet_classes()), "imagenet"),
        ("tfds", list(imagenet_classes().values()), "imagenet"),
        ("image_folder", [f"{label:03}" for label in range(1000)], "imagenet"),
        ("image_folder", list(imagenet_classes())[::-1], "imagenet"),
        # A thousand classes of one's own, and a part of ImageNet.
        ("image_folder", [f"flower {label:03}" for label in range(1, 1001)], None),
        ("image_folder", list(imagenet_classes())[:200], None),
        ("image_folder", ["cat", "dog"], None),
        ("cifar10", list("abcdefghij"), "cifar10"),
        ("cifar100", [f"c{label}" for label in range(100)], "cifar100"),
        ("digits", list("0123456789"), None),
        ("synthetic", [f"pattern {label}" for label in range(1000)], None),
    ],
)
def test_data(source: str, classes: list[str], data_set: str | None) -> None:
    assert published_data_set(source, classes) == data_set


@pytest.mark.parametrize(
    ("name", "classes", "changes", "data_set"),
    [
        ("cdnv2_a", None, {}, "imagenet"),
        ("cdnv2_a", 999, {}, None),
        ("condensenet_86", 10, {}, "cifar10"),
        ("condensenet_86", 100, {}, "cifar100"),
        ("condensenet_50", 100, {}, None),  # published on CIFAR-10 alone
        ("condensenet_50", 10, {"stages": (1, 1, 1)}, None),
        ("mobilenet_v2_x1_0", None, {}, "imagenet"),
    ],
)
def test_networks(name: str, classes: int | None, changes: dict[str, tuple[int, ...]], data_set: str | None) -> None:
    assert data_set_of_published(name, architecture_of(name, classes, changes)) == data_set


def test_a_name_of_one_s_own() -> None:
    assert data_set_of_published("mine", architecture_of("cdnv2_a")) is None
