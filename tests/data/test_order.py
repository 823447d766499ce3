"""Which sample comes when, by hand and by counting."""

import numpy as np
import pytest

from cdnv2_jax.data.batches import Share, sample_random, shuffled_index


@pytest.mark.parametrize(
    ("share", "positions"),
    [
        (Share(4), [0, 1, 2, 3, 4, 5]),
        (Share(4, 0, 2), [0, 1, 4, 5, 8, 9]),
        (Share(4, 1, 2), [2, 3, 6, 7, 10, 11]),
        (Share(3, 2, 3), [2, 5, 8, 11, 14, 17]),
    ],
)
def test_rows_of_a_host(share: Share, positions: list[int]) -> None:
    assert [share.position(row) for row in range(6)] == positions


@pytest.mark.parametrize(("host", "hosts"), [(0, 3), (2, 2), (-1, 2)])
def test_what_cannot_be_shared(host: int, hosts: int) -> None:
    with pytest.raises(ValueError, match="cannot share batches of 4"):
        Share(4, host, hosts)


def test_every_pass_holds_every_sample_once_in_another_order() -> None:
    passes = [[shuffled_index(position, 10, seed=3) for position in range(10 * e, 10 * e + 10)] for e in range(6)]
    assert all(sorted(order) == list(range(10)) for order in passes)
    assert len({tuple(order) for order in passes}) == 6


def test_the_order_depends_on_the_seed_alone() -> None:
    orders = [[shuffled_index(position, 50, seed) for position in range(50)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_random_numbers_of_a_position_are_its_own() -> None:
    drawn = {
        (seed, position): tuple(sample_random(seed, position).random(3)) for seed in range(3) for position in range(40)
    }
    assert len(set(drawn.values())) == 120
    np.testing.assert_array_equal(sample_random(2, 17).random(3), drawn[2, 17])
