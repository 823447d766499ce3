"""The held-out share: its size in every class, and what it depends on."""

import hashlib

import numpy as np
import pytest

from cdnv2_jax import UserError
from cdnv2_jax.data.sources.held_out import held_out, share_of


@pytest.mark.parametrize(
    ("count", "fraction", "expected"),
    [
        *((1, fraction, 0) for fraction in (0.01, 0.5, 0.9)),
        *((2, fraction, 1) for fraction in (0.01, 0.5, 0.9)),
        *((3, 0.01, 1), (3, 0.5, 2), (3, 0.9, 2)),
        *((10, 0.1, 1), (10, 0.25, 3), (10, 0.9, 9), (14, 0.1, 1), (15, 0.1, 2), (1300, 0.1, 130)),
    ],
)
def test_how_many(count: int, fraction: float, expected: int) -> None:
    """Half is rounded up; at least one on each side."""
    labels, names = np.repeat([0, 5], [count, 2]), [b"%d" % number for number in range(count + 2)]
    assert held_out(labels, names, fraction)[:count].sum() == expected
    assert held_out(labels, names, fraction)[count:].sum() == 1


def test_which() -> None:
    """A fixed choice, which neither the order nor another class changes, and an added image hardly."""
    names = [f"cat/{number}.jpg".encode() for number in range(20)]
    expected = sorted(names, key=lambda name: hashlib.sha256(name).hexdigest())[:4]
    random = np.random.default_rng(0)
    for order in (np.arange(20), random.permutation(20), random.permutation(20)):
        shuffled = [names[index] for index in order]
        chosen = held_out(np.zeros(20, int), shuffled, 0.2)
        assert sorted(name for name, out in zip(shuffled, chosen, strict=True) if out) == sorted(expected)
    with_dogs = held_out(np.repeat([3, 1], 20), names + [b"dog/" + name for name in names], 0.2)
    assert {name for name, out in zip(names, with_dogs, strict=False) if out} == set(expected)
    more = held_out(np.zeros(21, int), [*names, b"cat/new.jpg"], 0.2)
    assert len(set(expected) - {name for name, out in zip(names, more, strict=False) if out}) <= 1
    renamed = held_out(np.zeros(20, int), [b"x" + name for name in names], 0.2)
    assert {name for name, out in zip(names, renamed, strict=True) if out} != set(expected)


def test_nothing_to_hold_out() -> None:
    with pytest.raises(UserError, match="photos has a single image in every class"):
        share_of("train", np.arange(3), [b"1", b"2", b"3"], 0.5, "photos")
