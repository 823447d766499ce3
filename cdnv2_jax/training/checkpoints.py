"""Checkpoints of a run in progress: the whole training state, the newest few of them."""

from pathlib import Path

import jax
import numpy as np

from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.training.state import TrainState


class RunCheckpoints:
    """The checkpoints under `directory`, written in the background and atomically by Orbax.

    Use as a context manager: leaving it waits for what is still being written.
    """

    def __init__(self, directory: Path, keep: int):
        import orbax.checkpoint as ocp

        self._ocp = ocp
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)
        self.directory = directory

    def __enter__(self) -> "RunCheckpoints":
        return self

    def __exit__(self, *exception) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """Steps done in the newest checkpoint; None when there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState) -> None:
        """Saves the state after `step` updates; returns once the arrays are copied, the writing goes on."""
        arrays = dict(enumerate_leaves(state))
        self._manager.save(step, args=self._ocp.args.Composite(state=self._ocp.args.StandardSave(arrays)))

    def restore(self, like: TrainState) -> TrainState:
        """The newest state; `like` gives structure, shapes and dtypes. UserError when they do not fit."""
        targets = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in enumerate_leaves(like)}
        try:
            args = self._ocp.args.Composite(state=self._ocp.args.StandardRestore(targets))
            restored = self._manager.restore(self.latest_step, args=args)["state"]
        except Exception as error:  # whatever a damaged or foreign checkpoint trips in Orbax
            step = self.latest_step
            raise UserError(f"{self.directory}: step {step} does not fit this config ({one_line(error)})") from error
        leaves = [jax.numpy.asarray(np.asarray(restored[name])) for name, _ in enumerate_leaves(like)]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)


def enumerate_leaves(state: TrainState) -> list[tuple[str, jax.Array]]:
    """(path, array) of every array in the state, in a fixed order."""
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]
