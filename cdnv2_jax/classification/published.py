"""Which published figures a classifier may be compared with."""

from cdnv2_jax.models.families import AnyArchitecture
from cdnv2_jax.models.registry import MODELS

NAMES = {"imagenet": "ImageNet", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
CLASSES = {"imagenet": 1000, "cifar10": 10, "cifar100": 100}


def published_data_set(source: str, num_classes: int) -> str | None:
    """The data set, of `NAMES`, whose published figures are comparable with those on a source; None for none.

    Any image folder may be ImageNet; that of another data set has another number of classes.
    """
    if source in ("digits", "synthetic"):
        return None
    data_set = source if source in ("cifar10", "cifar100") else "imagenet"
    return data_set if CLASSES[data_set] == num_classes else None


def data_set_of_published(name: str, architecture: AnyArchitecture) -> str | None:
    """The data set that a published network, of just this architecture, was measured on; None for any other network."""
    entry = MODELS.get(name)
    if entry is None or entry.published is None:
        return None
    for data_set in entry.published.top1_error:
        if architecture == entry.architecture.override({"num_classes": CLASSES[data_set]}):
            return data_set
    return None
