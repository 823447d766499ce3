"""Names of classes: ImageNet's, and the classes of a data set found among those of a network."""

import functools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources

from cdnv2_jax.errors import UserError, shorten


@functools.cache
def imagenet_classes() -> Mapping[str, str]:
    """Return ImageNet's 1,000 classes in the order of their labels: WordNet id → the words of its synset, as in
    {"n01440764": "tench, Tinca tinca", …}. Some words are shared: two classes are called "crane"."""
    text = resources.files("cdnv2_jax.data").joinpath("imagenet_classes.tsv").read_text(encoding="utf-8")
    return dict(line.split("\t") for line in text.splitlines() if not line.startswith("#"))


def readable(name: str) -> str:
    """Return the words for a WordNet id of ImageNet, and any other name as it is."""
    return imagenet_classes().get(name, name)


def listed(names: Iterable[str]) -> str:
    """Join the first few names with commas, ImageNet's by their first word; count the rest."""
    return shorten([readable(name).partition(",")[0] for name in names], most=5)


def labels_in_network(data: Sequence[str], network: Sequence[str], num_classes: int) -> list[int | None]:
    """Return, for each class of a data set, its label in the network; None for a class that the network lacks.

    Names are compared as they are, then as ImageNet's: a WordNet id, its words and the first of them mean the same
    class. If either side has no real names (see `matched_by_position`), labels are positions, provided that both have
    the same number of classes.

    Args:
      data: the data set's names in the order of its labels.
      network: the network's names in the order of its logits; empty if unknown.
      num_classes: number of logits.
    """
    if matched_by_position(data, network):
        return [label if len(data) == num_classes else None for label in range(len(data))]
    if list(data) == list(network):
        return list(range(len(data)))
    exact, meant = _by_name(network), _by_name(_meanings(network))
    return [exact.get(name, meant.get(meaning)) for name, meaning in zip(data, _meanings(data), strict=True)]


def matched_by_position(data: Sequence[str], network: Sequence[str]) -> bool:
    """Return whether names cannot match classes: one side has none, or only its own positions ("0", "class 1", …)
    that the other lacks."""
    known = bool(data) and set(data) <= set(network)
    return not known and (_only_positions(data) or _only_positions(network))


def labels_to_evaluate(data: Sequence[str], network: Sequence[str], num_classes: int) -> list[int]:
    """Return what `labels_in_network` does; UserError unless the network has every class of the data set once."""
    if matched_by_position(data, network) and len(data) != num_classes:
        raise UserError(
            f"{len(data)} classes of images, {num_classes} of the network, and no names to match them by: evaluate it "
            f"on images of its own classes"
        )
    found = labels_in_network(data, network, num_classes)
    if unknown := [name for name, label in zip(data, found, strict=True) if label is None]:
        raise UserError(
            f"the network does not know {len(unknown)} of {len(data)} classes of the images ({listed(unknown)}); its "
            f"own are {listed(network)}: rename or remove these"
        )
    labels = [label for label in found if label is not None]
    counts = Counter(labels)
    if twice := [name for name, label in zip(data, labels, strict=True) if counts[label] > 1]:
        raise UserError(f"{listed(twice)} are the same class of the network: merge them")
    return labels


def describe_match(data: Sequence[str], network: Sequence[str], labels: Sequence[int], num_classes: int) -> str:
    """Say how classes were matched if that is not evident; "" if the classes are the network's own, in its order."""
    if matched_by_position(data, network):
        return "classes matched by position: there are no names to match them by"
    if len(data) < num_classes:
        return (
            f"evaluated on {len(data)} of the network's {num_classes:,} classes, and only their logits compete: "
            f"{listed(data)}"
        )
    return "" if list(labels) == list(range(num_classes)) else "classes matched by name: their order is another one"


def _only_positions(names: Sequence[str]) -> bool:
    found = [re.fullmatch(r"(\D*)(\d+)", name) for name in names]
    numbered = {(match[1], int(match[2]) - label) for label, match in enumerate(found) if match}
    return not names or (all(found) and len(numbered) == 1 and next(iter(numbered))[1] == 0)


def _by_name(names: Iterable[str]) -> dict[str, int]:
    """Return the positions of the names that occur once."""
    names = list(names)
    counts = Counter(names)
    return {name: position for position, name in enumerate(names) if counts[name] == 1}


def _meanings(names: Sequence[str]) -> Sequence[str]:
    """Return the WordNet id of the class of ImageNet that each name means; the name itself if it means none."""
    classes = imagenet_classes()
    if list(names) == list(classes.values()):
        return list(classes)
    return [_synsets().get(_plain(name), name) for name in names]


@functools.cache
def _synsets() -> Mapping[str, str]:
    """Return every unambiguous name of an ImageNet class, its words or the first of them → its WordNet id."""
    classes = imagenet_classes()
    found: dict[str, str] = {}
    for spelling in (lambda words: words.partition(",")[0], lambda words: words):
        names = [_plain(spelling(words)) for words in classes.values()]
        found |= {name: list(classes)[position] for name, position in _by_name(names).items()}
    return found


def _plain(name: str) -> str:
    return name.replace("_", " ").casefold()
