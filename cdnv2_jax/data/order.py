"""Which sample comes when: pure functions of seed and position, whatever the number of hosts and workers."""

import dataclasses
from functools import lru_cache

import numpy as np


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of every batch that one of several hosts reads.

    Attributes:
      batch_size: of the whole batch. host: number of this host; hosts: how many there are, which divides batch_size.
    """

    batch_size: int
    host: int = 0
    hosts: int = 1

    def __post_init__(self):
        if self.batch_size % self.hosts or not 0 <= self.host < self.hosts:
            raise ValueError(f"host {self.host} of {self.hosts} cannot share batches of {self.batch_size}")

    @property
    def rows(self) -> int:
        """Rows of each batch that this host reads."""
        return self.batch_size // self.hosts

    def position(self, row: int) -> int:
        """Position in the stream of all samples of this host's `row`, counted over all its batches.

        A host has neighbouring rows, so that the batches of all hosts, put one after the other, are the whole batch.
        """
        batch, within = divmod(row, self.rows)
        return batch * self.batch_size + self.host * self.rows + within


def shuffled_index(position: int, length: int, seed: int) -> int:
    """The sample at `position` of an endless stream: every `length` positions hold every sample once, newly shuffled.

    Batches may span two such passes, so that no sample is ever left out to make the numbers fit.
    """
    epoch, within = divmod(position, length)
    return int(_shuffled(length, seed, epoch)[within])


@lru_cache(maxsize=4)  # a batch may span two epochs, and readers run ahead
def _shuffled(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(length)


def sample_random(seed: int, position: int) -> np.random.Generator:
    """The random numbers of the sample at `position` of the stream, its own whoever reads it."""
    return np.random.Generator(np.random.Philox(key=[seed, position]))
