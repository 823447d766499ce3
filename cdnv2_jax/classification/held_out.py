"""The held-out images of an experiment."""

import jax
import numpy as np

from cdnv2_jax.classification.config import ClassificationConfig
from cdnv2_jax.classification.data import evaluation_row, normalisation_of, source_of
from cdnv2_jax.data.pipeline import BrokenImages, HostBatch, host_batches
from cdnv2_jax.devices import Devices
from cdnv2_jax.evaluation import Evaluation, evaluate
from cdnv2_jax.models.families import AnyNetwork


class HeldOut:
    """What a network is evaluated on, every image once.

    Attributes:
      source: the images. broken: those of them that cannot be read; they are left out, as many as the config allows.
    """

    def __init__(self, config: ClassificationConfig, devices: Devices):
        self._config, self._devices = config, devices
        self.source = source_of(config, "val")
        self._row = evaluation_row(config, self.source, devices)
        self.broken = BrokenImages(self.source, config.data.max_broken_images)

    def evaluate(self, model: AnyNetwork) -> Evaluation:
        """Figures of a network in evaluation mode, the same on every process.

        Raises:
          UserError: more images than `config.data.max_broken_images` cannot be read.
        """
        data = self._config.data
        count = -(-len(self.source) // self._row.share.batch_size)
        with host_batches(self._row, 0, count, data.workers) as batches:
            checked = (self._checked(next(batches)) for _ in range(count))
            return evaluate(model, checked, normalisation_of(data), self._devices)

    def example_images(self) -> np.ndarray:
        """This process's part of the first batch, normalised: float32 [b, size, size, 3]."""
        with host_batches(self._row, 0, 1, 0) as batches:
            images = next(batches)["image"]
        return np.asarray(normalisation_of(self._config.data)(jax.numpy.asarray(images)))

    def _checked(self, batch: HostBatch) -> HostBatch:
        self.broken.check(batch)
        return batch
