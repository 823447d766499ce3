"""Which image comes when: batches of one orientation, pure functions of seed and epoch."""

from collections.abc import Iterator

import numpy as np

KEPT_EPOCHS = 4  # readers run ahead into the next epoch while others finish this one


def epoch_batches(groups: list[np.ndarray], batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """int64 [batches, batch_size]: the images of one epoch, each batch out of a single group.

    As mmdetection's group sampler: the images of every group are shuffled, the last batch of each is filled with
    random others of that group, and then the batches are shuffled. So every image comes at least once.

    Args:
      groups: the images of each orientation, positions in the source.
    """
    random = np.random.default_rng([seed, epoch])
    batches = []
    for group in groups:
        missing = -len(group) % batch_size
        order = [random.permutation(group), random.choice(group, missing)] if len(group) else []
        batches += [np.concatenate(order).reshape(-1, batch_size)] if order else []
    whole = np.concatenate(batches)
    return whole[random.permutation(len(whole))]


class OrientationOrder:
    """The endless stream of training images, in batches that are all landscape or all portrait.

    Attributes:
      steps_per_epoch: ⌈landscapes / batch_size⌉ + ⌈portraits / batch_size⌉.
    """

    def __init__(self, indices: np.ndarray, landscape: np.ndarray, batch_size: int, seed: int):
        """Takes positions in the source, in rising order, and whether each of them is landscape."""
        if not len(indices):
            raise ValueError("an order of no images")
        self._groups = [np.asarray(indices[landscape]), np.asarray(indices[~landscape])]
        self._batch_size, self._seed = batch_size, seed
        self._epochs: dict[int, np.ndarray] = {}
        self.steps_per_epoch = sum(-(-len(group) // batch_size) for group in self._groups)

    def index(self, position: int) -> int:
        """The image at `position` of the stream, counted over all hosts."""
        batch, within = divmod(position, self._batch_size)
        epoch, batch = divmod(batch, self.steps_per_epoch)
        return int(self._epoch(epoch)[batch, within])

    def from_index(self, index: int) -> Iterator[int]:
        """The image `index`, then all others of its orientation, each once."""
        group = next(group for group in self._groups if index in group)
        start = int(np.searchsorted(group, index))
        return (int(group[(start + step) % len(group)]) for step in range(len(group)))

    def _epoch(self, epoch: int) -> np.ndarray:
        made = self._epochs.get(epoch)
        if made is None:
            made = epoch_batches(self._groups, self._batch_size, self._seed, epoch)
            # Replaced, not changed: other threads may be reading it.
            self._epochs = dict([*self._epochs.items(), (epoch, made)][-KEPT_EPOCHS:])
        return made


def evaluation_order(landscape: np.ndarray, batch_size: int) -> np.ndarray:
    """int64 [batches · batch_size]: every image once, landscapes first, −1 where the end of either is filled up.

    Args:
      landscape: bool [n], of all images.
    """
    groups = [np.flatnonzero(landscape), np.flatnonzero(~landscape)]
    return np.concatenate([np.pad(group, (0, -len(group) % batch_size), constant_values=-1) for group in groups])
