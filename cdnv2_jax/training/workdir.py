"""A run's work directory: the names of its files, and checks before a run writes to it."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cdnv2_jax.bounded_reading import read_json
from cdnv2_jax.errors import UserError, one_line, shorten
from cdnv2_jax.files import leftovers, locked, remove, tidy, write_text
from cdnv2_jax.report.learning import PLOTS
from cdnv2_jax.schema import flat_fields
from cdnv2_jax.training.config import RunConfig
from cdnv2_jax.weights.checkpoint import is_checkpoint

CONFIG_FILE = "config.json"
DATA_FILE = "data.json"
LOCK_FILE = "lock"
METRICS_FILE = "metrics.jsonl"
SUMMARY_FILE = "summary.json"
REPORT_FILE = "report.html"
EVENTS = "tensorboard"
PROFILE = "profile"
CHECKPOINTS = "checkpoints"
BEST = "best"
NETWORKS = ("masked", "condensed", "plain")
TO_USE = ("condensed", BEST, "masked", "plain")
TO_CONDENSE = ("masked", BEST)
TO_SHOW = ("masked", "condensed", "plain", BEST)
"""A run's networks in order of preference: to predict with; to condense; to draw, where masked and condensed have the
same connections."""
PER_CLASS_FILE, PREDICTIONS_FILE = "per_class.csv", "predictions.csv"
EXAMPLES, DETECTIONS, PRECISION_FILE = "detections.png", "detections.json", "precision.json"

RESULTS = (
    *(DATA_FILE, CHECKPOINTS, BEST, SUMMARY_FILE, METRICS_FILE, EVENTS, PROFILE, REPORT_FILE, *NETWORKS, *PLOTS),
    *(PER_CLASS_FILE, PREDICTIONS_FILE, EXAMPLES, DETECTIONS, PRECISION_FILE),
)
"""Everything that runs of any kind write besides `config.json`; `--overwrite` removes it."""

BOOKKEEPING = (
    *("data.workers", "data.eval_batch_size", "data.directory", "data.max_broken_images", "data.max_megapixels"),
    *("data.train_annotations", "data.val_annotations", "log_every_steps", "eval_every_epochs"),
    *("checkpoint_every_epochs", "keep_checkpoints"),
)
"""Fields that may change when a run is resumed, because they do not affect its result."""

EARLIER = {
    "data.exif_orientation": False,
    "data.max_megapixels": 89,
    "data.eval_crop": "auto",
    "data.resize": 0,
    "data.held_out_fraction": 0.0,
    "data.train_annotations": "",
    "data.val_annotations": "",
    "data.empty_images": "drop",
    "model.precision": "default",
}
"""Fields that the `config.json` of an older run lacks, and what those runs did."""


def network_of_run(path: Path, preferred: Sequence[str]) -> Path:
    """Return the directory of the preferred network that a run has written so far; other paths as they are.

    Args:
      path: the directory of a run, or any other path.
      preferred: names of networks, such as `TO_USE`.

    Raises:
      UserError: it is a run's directory without any of these networks, or a run's checkpoint to resume from.
    """
    if any(folder.name == CHECKPOINTS and _is_run(folder.parent) for folder in (path, path.parent)):
        raise UserError(f"{path} holds the state of training, to resume from: give the run's directory or a network")
    if not _is_run(path) or is_checkpoint(path):
        return path
    present = [name for name in (*NETWORKS, BEST) if is_checkpoint(path / name)]
    found = next((path / name for name in preferred if name in present), None)
    if found is None:
        wanted, only = " or ".join(preferred), f" (only {shorten(present)})" if present else ""
        raise UserError(
            f"{path} is the directory of a run without network {wanted} so far{only}: finish the run, or give another "
            f"checkpoint"
        )
    return found


def _is_run(path: Path) -> bool:
    return path.is_dir() and any((path / name).is_file() for name in (CONFIG_FILE, METRICS_FILE))


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Where a run writes, and how to treat what is already there.

    Attributes:
      path: the directory.
      overwrite: start over, even if the directory holds a run.
      resume: only resume; refuse to start if there is nothing to resume.
      accept_changes: resume although the config or the data have changed.
      from_step: resume from the checkpoint of this step and remove the later ones; None for the newest.
    """

    path: Path
    overwrite: bool = False
    resume: bool = False
    accept_changes: bool = False
    from_step: int | None = None

    @contextlib.contextmanager
    def claimed(self, config: RunConfig, data: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        """Prepare the directory for a run of this config, and keep other runs out of it during a `with` block.

        Creates it, or removes old results with `overwrite`, and what killed runs left half written. Yields what the
        user should know about the lock, if anything.

        Args:
          config: settings of the run.
          data: what tells its data from others, by split; see `Experiment.data_facts`.

        Raises:
          UserError: it cannot be written to, is in use by another run, or holds a finished run, another config's or
            other data's run, or other files.
        """
        text = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
        path = self.path
        with contextlib.ExitStack() as stack:
            try:
                self._refuse(text, data)
                path.mkdir(parents=True, exist_ok=True)
                note = stack.enter_context(locked(path / LOCK_FILE, f"--workdir {path}"))
                self._refuse(text, data)  # what the process that held the lock may have written
                if self.overwrite:
                    for name in RESULTS:
                        remove(path / name)
                for name in (CONFIG_FILE, *RESULTS):
                    tidy(path / name)
                write_text(path / CONFIG_FILE, text)
                write_text(path / DATA_FILE, json.dumps(data, indent=2) + "\n")
            except OSError as error:
                raise UserError(f"--workdir {path} cannot be used: {error}") from error
            yield note

    def _refuse(self, text: str, data: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise UserError unless a run with `text` as its config may be started or resumed in the directory."""
        path, config_file = self.path, self.path / CONFIG_FILE
        if self.resume and not config_file.is_file():
            raise UserError(f"--resume: --workdir {path} holds no run to resume")
        if self.from_step is not None:
            self._refuse_missing_step()
        if not config_file.is_file():
            ours = {LOCK_FILE, *leftovers(config_file)}
            if path.is_dir() and any(entry.name not in ours for entry in path.iterdir()):
                raise UserError(f"--workdir {path} holds files that are not a run's: give an empty or new directory")
        elif not self.overwrite and not self._is_cut_off(text):
            self._refuse_other_run(json.loads(text))
            self.refuse_other_data(data)

    def _is_cut_off(self, text: str) -> bool:
        """Return whether there is only the first part of this config, as earlier versions left on a full disk."""
        if {entry.name for entry in self.path.iterdir()} - {LOCK_FILE} != {CONFIG_FILE}:
            return False
        found = (self.path / CONFIG_FILE).read_bytes()
        return text.encode().startswith(found) and len(found) < len(text)

    def _refuse_missing_step(self) -> None:
        """Raise UserError if the directory holds no checkpoint of `from_step`, or is to be overwritten."""
        if self.overwrite:
            raise UserError("--from-step resumes a run and --overwrite starts over: give one of them")
        folder = self.path / CHECKPOINTS
        steps = sorted(int(step.name) for step in folder.glob("*") if step.name.isdecimal())
        if self.from_step not in steps:
            there = f"there are {shorten(list(map(str, steps)))}" if steps else "there are none"
            raise UserError(f"--from-step {self.from_step}: {folder} holds no checkpoint of this step: {there}")

    def _refuse_other_run(self, ours: dict[str, Any]) -> None:
        """Raise UserError if the directory holds a finished run or one of another config."""
        new = flat_fields(ours)
        old = {key: EARLIER[key] for key in EARLIER.keys() & new} | flat_fields(self._read_json(CONFIG_FILE))
        changed = [key for key in {**old, **new} if old.get(key) != new.get(key) and key not in BOOKKEEPING]
        if changed and not self.accept_changes:
            raise UserError(
                f"--workdir {self.path} holds a run of another config ({shorten(changed)} differ): give another "
                f"directory, --overwrite to start over, or --accept-changes to resume with the new values"
            )
        if (self.path / SUMMARY_FILE).exists():
            raise UserError(f"--workdir {self.path} holds this finished run: give another directory, or --overwrite")

    def refuse_other_data(self, data: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise UserError if the run in the directory has other data than these, unless changes are accepted."""
        if self.accept_changes or not (self.path / DATA_FILE).is_file():
            return
        before = self._read_json(DATA_FILE)
        for split, now in data.items():
            if (old := before.get(split)) != now:
                count = old.get("images") if isinstance(old, dict) else None
                how = (
                    f"{count} before, {now['images']} now"
                    if count != now["images"]
                    else "names, sizes or labels differ"
                )
                raise UserError(
                    f"--workdir {self.path} holds a run on other images ({split}: {how}): restore them, or "
                    f"--accept-changes to resume with these"
                )

    def _read_json(self, name: str) -> dict[str, Any]:
        """Read a file of the run in the directory; UserError if it is damaged."""
        try:
            return read_json(self.path / name)
        except ValueError as error:
            raise UserError(
                f"--workdir {self.path}: {name} is damaged ({one_line(error)}): give another one, or --overwrite"
            ) from error
