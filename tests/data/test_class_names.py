"""Classes of a data set found among a network's, by name; ImageNet's names against published indices."""

import pytest

from cdnv2_jax.data.class_names import describe_match, imagenet_classes, labels_in_network, labels_to_evaluate, readable
from cdnv2_jax.errors import UserError

WORDS = tuple(imagenet_classes().values())
IDS = tuple(imagenet_classes())

# (names of the data set, names of the network, its logits, labels)
MATCHES = {
    "the same": (["a", "b"], ["a", "b"], 2, [0, 1]),
    "another order": (["b", "c", "a"], ["a", "b", "c"], 3, [1, 2, 0]),
    "some": (["c"], ["a", "b", "c"], 3, [2]),
    "unknown": (["a", "d"], ["a", "b", "c"], 3, [0, None]),
    "a name that two classes share": (["a", "b"], ["a", "a", "b"], 3, [None, 2]),
    "a network without names": (["a", "b"], [], 2, [0, 1]),
    "a network without names, of other classes": (["a", "b"], [], 3, [None, None]),
    "images with numbers only": (["0", "1"], ["a", "b"], 2, [0, 1]),
    "numbered, with a prefix": (["class_00", "class_01"], ["a", "b"], 2, [0, 1]),
    "numbers that are not the positions": (["1", "0"], ["0", "1"], 2, [1, 0]),
    "nothing": ([], ["a"], 1, []),
    # Indices published with ImageNet, and in the lists of ImageNet-A and -R.
    "WordNet ids": (["n01498041", "n15075141", "n01443537"], WORDS, 1000, [6, 999, 1]),
    "words": (["tench, Tinca tinca", "Tench", "great_white_shark"], IDS, 1000, [0, 0, 2]),
    "crane, a bird and a machine": (["n02012849", "n03126707", "crane"], WORDS, 1000, [134, 517, None]),
    "ImageNet's own": (WORDS, IDS, 1000, list(range(1000))),
}


@pytest.mark.parametrize("case", MATCHES)
def test_labels(case: str) -> None:
    data, network, classes, expected = MATCHES[case]
    assert labels_in_network(data, network, classes) == expected


REFUSED = [
    (["a", "d", "e"], ["a", "b"], 2, "does not know 2 of 3 classes of the images (d, e); its own are a, b"),
    (["a", "b"], [], 3, "2 classes of images, 3 of the network, and no names"),
    (["tench", "n01440764"], WORDS, 1000, "tench, tench are the same class"),
]


@pytest.mark.parametrize(("data", "network", "classes", "complaint"), REFUSED)
def test_refused(data: list[str], network: list[str], classes: int, complaint: str) -> None:
    with pytest.raises(UserError) as error:
        labels_to_evaluate(data, network, classes)
    assert complaint in str(error.value)


def test_description() -> None:
    def said(data: list[str], network: list[str]) -> str:
        return describe_match(data, network, labels_to_evaluate(data, network, len(network)), len(network))

    assert said(["a", "b"], ["a", "b"]) == ""
    assert "evaluated on 1 of the network's 2 classes" in said(["b"], ["a", "b"])
    assert "their order is another" in said(["b", "a"], ["a", "b"])
    assert "by position" in said(["0", "1"], ["a", "b"])


def test_readable() -> None:
    assert (readable("n01440764"), readable("my class")) == ("tench, Tinca tinca", "my class")
