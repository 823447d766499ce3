"""Checkpoints of a run: the latest few of its whole state, and the best network so far."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from cdnv2_jax.devices import Devices, is_first_process
from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.training.step import TrainState
from cdnv2_jax.weights.checkpoint import is_checkpoint, read_description

SPARE_BYTES = 16 * 2**20  # for what is stored besides the arrays, and for the run's other files


class RunCheckpoints:
    """The checkpoints under `directory`, written atomically and in the background by Orbax.

    Each holds the train state (parameters, BN statistics, masks, optimizer, EMA, step) and a JSON description. The
    position in the data and all random numbers follow from the step and the config's seed. Use as a context manager:
    leaving it waits until everything is written.
    """

    def __init__(self, directory: Path, keep: int):
        import orbax.checkpoint as ocp

        self._ocp = ocp
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)
        self.directory = directory

    def __enter__(self) -> "RunCheckpoints":
        return self

    def __exit__(self, kind: type | None, *exception) -> None:
        # When one of several processes has failed, the others cannot finish a checkpoint.
        if kind is not None and jax.process_count() > 1:
            return
        try:
            self.wait()
        finally:
            self._manager.close()

    @property
    def latest_step(self) -> int | None:
        """The step of the newest checkpoint; None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, description: dict[str, Any]) -> None:
        """Save the state after `step` updates; return once the arrays are copied, while writing continues.

        Raises:
          UserError: this checkpoint or the previous one could not be written; earlier ones are intact.
        """
        if step in self._manager.all_steps():
            return
        if is_first_process():
            self.check_room(state)
        args = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(dict(enumerate_leaves(state))),
            description=self._ocp.args.JsonSave(description),
        )
        with _write_errors(self.directory):
            self._manager.save(step, args=args)

    def check_room(self, state: TrainState) -> None:
        """Raise UserError if the disk has no room for a state, rather than fail halfway through writing."""
        needed = SPARE_BYTES + sum(array.nbytes for array in jax.tree.leaves(state))
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise UserError(
                f"{self.directory}: a checkpoint needs {needed / 2**20:,.1f} MiB, spare included, and the disk has "
                f"{free / 2**20:,.1f}; the ones before it are intact: make room and start the same command again"
            )

    def wait(self) -> None:
        """Wait until everything is on disk; UserError as for `save`."""
        with _write_errors(self.directory):
            self._manager.wait_until_finished()

    def restore(self, like: TrainState, devices: Devices) -> tuple[TrainState, dict[str, Any]]:
        """Restore the newest state; return (state, description).

        Args:
          like: state with the expected structure, shapes and dtypes; UserError if they do not match.
          devices: devices to place the state on, whichever devices it was saved from.
        """
        targets = {
            name: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=devices.everywhere)
            for name, a in enumerate_leaves(like)
        }
        try:
            args = self._ocp.args.Composite(
                state=self._ocp.args.StandardRestore(targets), description=self._ocp.args.JsonRestore()
            )
            restored = self._manager.restore(self.latest_step, args=args)
        except Exception as error:  # Orbax has no common error for damaged or mismatched checkpoints
            step = self.latest_step
            raise UserError(f"{self.directory}: step {step} does not fit this config ({one_line(error)})") from error
        leaves = [restored["state"][name] for name, _ in enumerate_leaves(like)]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), dict(restored["description"])


@contextlib.contextmanager
def _write_errors(directory: Path) -> Iterator[None]:
    """Turn Orbax's errors on writing into a UserError."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{directory}: a checkpoint cannot be written ({one_line(error)}); the ones before it are intact: make "
            f"room and start the same command again"
        ) from error


def enumerate_leaves(state: TrainState) -> list[tuple[str, jax.Array]]:
    """Return (path, array) of every array in the state, in a fixed order."""
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]


class BestNetwork:
    """The fully pruned network with the best held-out score of a run so far, as a checkpoint for every command."""

    def __init__(self, path: Path):
        self.path = path

    def offer(
        self, save: Callable[[Path, dict[str, Any]], None], *, step: int, stage: int, name: str, score: float
    ) -> bool:
        """Save a network if it is better than the one kept; return whether it was.

        A resumed run that repeats a step replaces its own network, and any network replaces one of an earlier stage.

        Args:
          save: called with a path and metadata.
          step: updates done.
          stage: condensation stages passed.
          name, score: the deciding metric and its value.
        """
        if not is_first_process():
            return False
        kept = read_description(self.path)["metadata"] if is_checkpoint(self.path) else None
        better = kept is None or kept["step"] >= step or kept.get("stage", 0) < stage or score > kept[name]
        if better:
            save(self.path, {"step": step, "stage": stage, name: score})
        return better
