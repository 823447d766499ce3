"""The random choice of anchors: its counts, and that every anchor has the same chance."""

import jax
import jax.numpy as jnp
import numpy as np

from cdnv2_jax.detectors.ops.assignment import IGNORED, NEGATIVE, Sample, sample
from tests.tables import table

KEY = jax.random.key(0)

compiled = jax.jit(sample, static_argnames=("size", "positive_share"))


def checked(drawn: Sample, assigned: np.ndarray, size: int, positive_share: float) -> None:
    """The counts, the order of slots, no anchor twice, each of the kind that its slot says."""
    indices, positive, valid = map(np.asarray, (drawn.indices, drawn.positive, drawn.valid))
    positives = min((assigned >= 0).sum(), int(size * positive_share))
    negatives = min((assigned == NEGATIVE).sum(), size - positives)
    np.testing.assert_array_equal(positive, np.arange(size) < positives)
    np.testing.assert_array_equal(valid, np.arange(size) < positives + negatives)
    assert (assigned[indices[positive]] >= 0).all()
    assert (assigned[indices[valid & ~positive]] == NEGATIVE).all()
    assert len(set(indices[valid].tolist())) == positives + negatives
    assert (indices[~valid] == 0).all()


@table(
    "positives, negatives, ignored",
    [
        (0, 40, 0),
        (0, 3, 5),
        (2, 40, 5),
        (4, 4, 4),
        (30, 40, 1),
        (30, 3, 0),
        (30, 0, 3),
        (1, 1, 0),
        (0, 0, 4),
        (1, 0, 0),
    ],
)
@table("size, share", [(16, 0.5), (16, 0.25), (7, 0.5), (8, 0.0), (8, 1.0)])
def test_counts(positives: int, negatives: int, ignored: int, size: int, share: float) -> None:
    """More and fewer of either than slots; fewer anchors than slots."""
    anchors = positives + negatives + ignored
    ignored += -anchors % 75 if anchors > 5 else -anchors % 5
    assigned = np.array([3] * positives + [NEGATIVE] * negatives + [IGNORED] * ignored, np.int32)
    np.random.default_rng(6).shuffle(assigned)
    checked(compiled(assigned, KEY, size=size, positive_share=share), assigned, size, share)


def test_counts_of_many() -> None:
    rng = np.random.default_rng(7)
    chances = rng.dirichlet([1, 1, 1], 1000)
    assigned = np.array([rng.choice([IGNORED, NEGATIVE, 0], 50, p=p) for p in chances], np.int32)
    assigned = np.where(assigned >= 0, rng.integers(0, 9, assigned.shape), assigned).astype(np.int32)
    many = jax.jit(jax.vmap(lambda one, key: sample(one, key, size=20, positive_share=0.25)))
    drawn = many(assigned, jax.random.split(KEY, 1000))
    assert drawn.indices.dtype == jnp.int32
    for case in range(1000):
        checked(jax.tree.map(lambda leaf, case=case: np.asarray(leaf)[case], drawn), assigned[case], 20, 0.25)


def test_every_anchor_has_the_same_chance() -> None:
    """Counts over 6000 draws within five standard deviations of the binomial; pairs as independent as they can be."""
    draws, size = 6000, 12
    assigned = np.array(([0] * 2 + [NEGATIVE] * 3 + [IGNORED]) * 6, np.int32)
    many = jax.jit(jax.vmap(lambda key: sample(jnp.asarray(assigned), key, size=size, positive_share=0.5).indices))
    chosen = np.asarray(many(jax.random.split(KEY, draws)))
    counts = np.bincount(chosen.ravel(), minlength=len(assigned))
    assert (counts[assigned == IGNORED] == 0).all()
    for kind, there in ((0, 12), (NEGATIVE, 18)):
        chance = 6 / there
        deviation = np.sqrt(draws * chance * (1 - chance))
        assert (abs(counts[assigned == kind] - draws * chance) < 5 * deviation).all()
    first, second = np.flatnonzero(assigned == 0)[:2]
    together = ((chosen == first).any(-1) & (chosen == second).any(-1)).sum()
    chance = 6 * 5 / (12 * 11)
    assert abs(together - draws * chance) < 5 * np.sqrt(draws * chance * (1 - chance))


def test_order_within_a_kind_is_random() -> None:
    """The first slot is any of the positives alike."""
    assigned = jnp.zeros(5, jnp.int32)
    many = jax.jit(jax.vmap(lambda key: sample(assigned, key, size=2, positive_share=1.0).indices[0]))
    counts = np.bincount(many(jax.random.split(KEY, 2000)), minlength=5)
    assert (abs(counts - 400) < 5 * np.sqrt(400 * 0.8)).all()


def test_the_key_decides() -> None:
    assigned = jnp.asarray([0, NEGATIVE] * 100)
    one, again, other = (
        compiled(assigned, jax.random.key(seed), size=20, positive_share=0.5).indices for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert (np.asarray(one) != np.asarray(other)).sum() > 10
