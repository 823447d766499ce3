"""Checkpoints of a run: the latest few of its whole state, and the best network so far."""

import contextlib
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cdnv2_jax.bounded_reading import read_json, refuse_irregular_tree
from cdnv2_jax.devices import Devices, fetch, is_first_process
from cdnv2_jax.errors import RunFailure, UserError, cut, one_line, shorten
from cdnv2_jax.paths import is_remote
from cdnv2_jax.training.step import TrainState
from cdnv2_jax.weights.checkpoint import DESCRIPTION, is_checkpoint, read_description
from cdnv2_jax.weights.checksums import checksum, is_unsealed, seal_fault, sealed
from cdnv2_jax.weights.stored_arrays import read_stored

STATE = "state"  # the directory of its arrays
ARRAYS = "arrays"
"""Key of the arrays' dtypes, shapes and checksums in a description."""

SPARE_BYTES = 16 * 2**20  # for what is stored besides the arrays, and for the run's other files


class RunCheckpoints:
    """The checkpoints under `directory`, written atomically and in the background by Orbax.

    Each holds the train state (parameters, BN statistics, masks, optimizer, EMA, step) and a JSON description, sealed
    and with every array's dtype, shape and checksum. The position in the data and all random numbers follow from the
    step and the config's seed. Use as a context manager: leaving it waits until everything is written.
    """

    def __init__(self, directory: Path, keep: int):
        import orbax.checkpoint as ocp

        try:
            refuse_irregular_tree(directory)
        except ValueError as error:
            raise UserError(
                f"{directory} cannot be read ({error}): remove it, or start over with --overwrite"
            ) from error
        self._ocp = ocp
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(os.fspath(directory.absolute()), options=options)
        self.directory = directory

    def __enter__(self) -> "RunCheckpoints":
        return self

    def __exit__(self, kind: type | None, *exception) -> None:
        # When one of several processes has failed, the others cannot finish a checkpoint.
        if kind is not None and jax.process_count() > 1:
            return
        with write_errors(self.directory):
            try:
                self._manager.wait_until_finished()
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
        if is_first_process():  # which alone writes the description
            self.check_room(state)
            summaries = {name: _summary(fetch(array)) for name, array in enumerate_leaves(state)}
            description = sealed({**description, ARRAYS: summaries})
        args = self._ocp.args.Composite(
            **{STATE: self._ocp.args.StandardSave(dict(enumerate_leaves(state)))},
            description=self._ocp.args.JsonSave(description),
        )
        with write_errors(self.directory):
            self._manager.save(step, args=args)

    def check_room(self, state: TrainState) -> None:
        """Raise UserError if the disk has no room for a state, rather than fail halfway through writing."""
        if is_remote(self.directory):
            return
        needed = SPARE_BYTES + sum(array.nbytes for array in jax.tree.leaves(state))
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise UserError(
                f"{self.directory}: a checkpoint needs {needed / 2**20:,.1f} MiB, spare included, and the disk has "
                f"{free / 2**20:,.1f}; the ones before it are intact: make room and start the same command again"
            )

    def wait(self) -> None:
        """Wait until everything is on disk; UserError as for `save`."""
        with write_errors(self.directory):
            self._manager.wait_until_finished()

    def restore(self, like: TrainState, devices: Devices, step: int | None = None) -> tuple[TrainState, dict[str, Any]]:
        """Restore a state and verify every bit of it; return (state, description).

        Args:
          like: state with the expected structure, shapes and dtypes.
          devices: devices to place the state on, whichever devices it was saved from.
          step: which checkpoint; None for the newest.

        Raises:
          UserError: the checkpoint is damaged, or the state does not match `like`.
        """
        step = self.latest_step if step is None else step
        description = self._description(step)
        old = is_unsealed(description)
        if not old:
            self._refuse_misfit(step, description[ARRAYS], like)
        targets = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in enumerate_leaves(like)}
        try:
            arrays = read_stored(self.directory / str(step) / STATE, targets)
        except ValueError as error:
            if old:
                raise UserError(
                    f"{self.directory}: step {step} does not fit this config or is damaged ({error}): "
                    f"{self._way_out(step)}"
                ) from error
            raise self._damaged(step, f"its arrays cannot be read: {cut(str(error), 120)}") from error
        summaries = {} if old else {name: _summary(array) for name, array in arrays.items()}
        if changed := [name for name, summary in summaries.items() if summary != description[ARRAYS][name]]:
            raise self._damaged(step, f"the checksums of {shorten(changed, most=3)} differ")
        return devices.replicate(jax.tree.unflatten(jax.tree.structure(like), list(arrays.values()))), description

    def remove_after(self, step: int) -> list[int]:
        """Remove the checkpoints of later steps and return their steps."""
        later = [other for other in self._manager.all_steps() if other > step]
        for other in later:
            self._manager.delete(other)
        return sorted(later)

    def _description(self, step: int | None) -> dict[str, Any]:
        try:
            description = read_json(self.directory / str(step) / DESCRIPTION)
        except ValueError as error:
            raise self._damaged(step, f"its description cannot be read: {cut(str(error), 120)}") from error
        if fault := seal_fault(description):
            raise self._damaged(step, fault)
        needed = {"broken_images", "devices"} | (set() if is_unsealed(description) else {ARRAYS})
        if lacking := needed - description.keys():
            raise self._damaged(step, f"its description lacks {shorten(sorted(lacking))}")
        return description

    def _refuse_misfit(self, step: int | None, stored: Mapping[str, Any], like: TrainState) -> None:
        expected = {name: _kind(array) for name, array in enumerate_leaves(like)}
        found = {name: summary[:2] for name, summary in stored.items()}
        if differing := [name for name in expected | found if expected.get(name) != found.get(name)]:
            raise UserError(
                f"{self.directory}: step {step} does not fit this config ({shorten(differing, most=3)} differ): give "
                f"the config that the run was started with, or add --overwrite to start over"
            )

    def _damaged(self, step: int | None, what: str) -> UserError:
        return UserError(f"{self.directory}: step {step} is damaged ({what}): {self._way_out(step)}")

    def _way_out(self, step: int | None) -> str:
        earlier = [other for other in self._manager.all_steps() if step is not None and other < step]
        if not earlier:
            return "there is no earlier one, so add --overwrite to start over"
        return f"add --from-step {max(earlier)} to resume from the one before it, which removes the later ones"


@contextlib.contextmanager
def write_errors(directory: Path) -> Iterator[None]:
    """Turn Orbax's errors on writing into a UserError."""
    try:
        yield
    except RunFailure:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        # Orbax drops what it had not begun, of which Python would warn after the message.
        warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
        remedy = "when the bucket answers," if is_remote(directory) else "make room and"
        raise UserError(
            f"{directory}: a checkpoint cannot be written ({one_line(error)}); the ones before it are intact: {remedy} "
            f"start the same command again"
        ) from error


def enumerate_leaves(state: TrainState) -> list[tuple[str, jax.Array]]:
    """Return (path, array) of every array in the state, in a fixed order."""
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]


def _kind(array: jax.Array | np.ndarray) -> list[Any]:
    return [str(array.dtype), list(array.shape)]


def _summary(array: np.ndarray) -> list[Any]:
    """Return [dtype, shape, CRC-32]."""
    return [*_kind(array), checksum(array)]


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
        try:
            kept = read_description(self.path)["metadata"] if is_checkpoint(self.path) else None
        except UserError as error:
            raise UserError(f"{error}; or remove it, and the run keeps the best network from here on") from error
        better = kept is None or kept["step"] >= step or kept.get("stage", 0) < stage or score > kept[name]
        if better:
            save(self.path, {"step": step, "stage": stage, name: score})
        return better
