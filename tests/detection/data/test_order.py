"""Batches of one orientation: complete, reproducible, the same for any number of hosts."""

import numpy as np
import pytest

from cdnv2_jax.data.batches import Share
from cdnv2_jax.detection.data.batches import OrientationOrder, epoch_batches, evaluation_order

LANDSCAPE = np.array([i % 3 != 0 for i in range(25)])  # 16 of 25
INDICES = np.array([i for i in range(25) if i not in (4, 9)])  # 15 landscapes, 8 portraits


def _order(batch_size: int = 4, seed: int = 0) -> OrientationOrder:
    return OrientationOrder(INDICES, LANDSCAPE[INDICES], batch_size, seed)


def _epoch(order: OrientationOrder, epoch: int, batch_size: int = 4) -> np.ndarray:
    positions = range(epoch * order.steps_per_epoch * batch_size, (epoch + 1) * order.steps_per_epoch * batch_size)
    return np.array([order.index(position) for position in positions]).reshape(-1, batch_size)


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 23), (4, 4 + 2), (5, 3 + 2), (8, 2 + 1), (40, 2)])
def test_an_epoch_holds_every_image_in_batches_of_one_orientation(batch_size: int, steps: int) -> None:
    order = _order(batch_size)
    assert order.steps_per_epoch == steps
    for epoch in range(3):
        batches = _epoch(order, epoch, batch_size)
        assert set(batches.ravel()) == set(INDICES.tolist())
        for batch in batches:
            assert len(set(LANDSCAPE[batch])) == 1
        # What fills up the last batch of each orientation is all that there is twice.
        counts = np.bincount(batches.ravel())
        assert counts[INDICES].sum() - len(INDICES) == steps * batch_size - len(INDICES)


def test_another_order_in_every_epoch_and_for_every_seed() -> None:
    orders = [_epoch(_order(seed=seed), epoch).ravel().tolist() for seed in (0, 1) for epoch in (0, 1, 2)]
    assert len({tuple(order) for order in orders}) == 6
    assert orders[1] == _epoch(_order(seed=0), 1).ravel().tolist()


def test_the_order_of_orientations_is_shuffled_too() -> None:
    patterns = {tuple(LANDSCAPE[_epoch(_order(), epoch)[:, 0]]) for epoch in range(10)}
    assert len(patterns) > 3


def test_positions_in_any_order_and_far_ahead() -> None:
    """As threads and a resumed run ask for them."""
    order, positions = _order(), np.random.default_rng(0).integers(0, 24 * 20, 300).tolist()
    assert [order.index(p) for p in positions] == [_order().index(p) for p in positions]


def test_hosts_read_parts_of_the_same_batches() -> None:
    order = _order(batch_size=6)
    for batch in range(12):
        whole = [order.index(position) for position in range(6 * batch, 6 * batch + 6)]
        shares = [Share(6, host, 3) for host in range(3)]
        parts = [order.index(share.position(batch * share.rows + row)) for share in shares for row in range(share.rows)]
        assert parts == whole


@pytest.mark.parametrize("landscape", [True, False])
def test_one_orientation_alone(landscape: bool) -> None:
    order = OrientationOrder(np.arange(5), np.full(5, landscape), 2, 0)
    assert order.steps_per_epoch == 3
    assert set(_epoch(order, 0, 2).ravel()) == set(range(5))


def test_what_fills_up_is_drawn_from_the_same_orientation() -> None:
    """A single portrait fills its whole batch."""
    (portrait,) = [batch for batch in epoch_batches([np.arange(8), np.array([8])], 4, 0, 0) if 8 in batch]
    assert portrait.tolist() == [8, 8, 8, 8]


def test_those_that_may_take_the_place_of_another() -> None:
    portraits = [0, 3, 6, 12, 15, 18, 21, 24]
    assert list(_order().from_index(15)) == [15, 18, 21, 24, 0, 3, 6, 12]
    landscapes = [i for i in range(25) if i % 3 and i != 4]
    assert list(_order().from_index(1)) == landscapes
    assert set(portraits) | set(landscapes) == set(INDICES.tolist())


def test_no_images() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        OrientationOrder(np.zeros(0, np.int64), np.zeros(0, bool), 2, 0)


@pytest.mark.parametrize(
    ("landscape", "batch_size", "expected"),
    [
        ([1, 0, 1, 1, 0], 2, [0, 2, 3, -1, 1, 4]),
        ([0, 0, 0], 2, [0, 1, 2, -1]),
        ([1, 1], 2, [0, 1]),
        ([0, 1], 3, [1, -1, -1, 0, -1, -1]),
    ],
)
def test_evaluation(landscape: list[int], batch_size: int, expected: list[int]) -> None:
    assert evaluation_order(np.array(landscape, bool), batch_size).tolist() == expected
