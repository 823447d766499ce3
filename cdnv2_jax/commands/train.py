"""`main.py train`."""

import dataclasses
import errno
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from cdnv2_jax.commands.processes import keep_freed_memory
from cdnv2_jax.commands.read_config import make_task, read_config
from cdnv2_jax.devices import Devices, is_first_process
from cdnv2_jax.errors import UserError, one_line, shorten
from cdnv2_jax.files import remove
from cdnv2_jax.training.config import RunConfig
from cdnv2_jax.training.experiment import Task
from cdnv2_jax.training.loop import BEST, CHECKPOINTS, PROFILE, Profile, Training
from cdnv2_jax.training.parse_config import flat_fields
from cdnv2_jax.training.records import CONFIG_FILE, EVENTS, METRICS_FILE, REPORT_FILE, SUMMARY_FILE
from cdnv2_jax.training.stopping import Stopped

RESULTS = (CHECKPOINTS, BEST, SUMMARY_FILE, METRICS_FILE, EVENTS, PROFILE, REPORT_FILE)
"""What every run leaves; its task leaves more."""
BOOKKEEPING = (
    *("data.workers", "data.eval_batch_size", "data.directory", "data.max_broken_images", "log_every_steps"),
    *("eval_every_epochs", "checkpoint_every_epochs", "keep_checkpoints"),
)
"""Fields that may change between two parts of a run without changing its result."""


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclasses.dataclass(frozen=True)
class Workdir:
    """How a run may use its work directory.

    Attributes:
      path: of the directory.
      overwrite: start anew, whatever run it holds. resume: go on, and refuse to start where nothing is to go on with.
      accept_changes: go on although the config has changed.
    """

    path: Path
    overwrite: bool = False
    resume: bool = False
    accept_changes: bool = False


def train(spec: str, overrides: Sequence[str], workdir: Workdir, *, profile: tuple[int, int] = (0, 0)) -> None:
    """Trains as the config says, or goes on with the interrupted run that the work directory holds."""
    keep_freed_memory()
    config = read_config(spec, overrides)
    devices = Devices.all()
    task = make_task(config, devices)
    console = Console(quiet=not is_first_process(), soft_wrap=True)
    training = Training(task, workdir.path, console, Profile(workdir.path, *profile))
    if is_first_process():
        claim_workdir(workdir, config, (*RESULTS, *task.results))
    devices.wait_for_all("work directory")
    if not (workdir.path / CONFIG_FILE).is_file():
        raise UserError(f"--workdir {workdir.path} is not the same directory for all processes: give a shared one")
    console.print(_greeting(task, workdir.path))
    try:
        state = training.run()
        live = training.live_model(state) if config.ema_decay else None
        task.finish(training.final_model(state), live, workdir.path, console)
    except Stopped as stopped:
        console.print(str(stopped))
        return
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise UserError(
            f"--workdir {workdir.path}: {error.strerror}; checkpoints are intact: make room and start the same command "
            f"again"
        ) from error
    console.print(f"summary: {workdir.path / SUMMARY_FILE}, plots: {workdir.path}/*.png")


def _greeting(task: Task, workdir: Path) -> str:
    config = task.config
    rate = config.optimizer.scaled_to(config.data.batch_size).learning_rate
    return (
        f"{task.title}, {task.total_steps:,} × {config.data.batch_size} images on {task.devices}, "
        f"learning rate {rate:g}, {task.stages} condensation stages → {workdir}"
    )


def claim_workdir(workdir: Workdir, config: RunConfig, results: Sequence[str]) -> None:
    """Makes the directory ready for this config's run; refuses one that holds something else or a finished run.

    Starting anew removes the `results` of the run before.
    """
    ours = json.loads(json.dumps(dataclasses.asdict(config)))
    path, config_file = workdir.path, workdir.path / CONFIG_FILE
    if ":" in path.parts[0]:
        raise UserError(f"--workdir {path} looks like a bucket's address: mount the bucket and give the directory")
    try:
        if workdir.resume and not config_file.is_file():
            raise UserError(f"--resume: --workdir {path} holds no run to go on with")
        if not workdir.overwrite and config_file.is_file():
            _refuse_foreign(workdir, ours, _read_object(config_file))
        elif path.is_dir() and any(path.iterdir()) and not config_file.is_file():
            raise UserError(f"--workdir {path} holds files that are no run's: give an empty or a new directory")
        path.mkdir(parents=True, exist_ok=True)
        if workdir.overwrite:
            for name in results:
                remove(path / name)
        config_file.write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--workdir {path} cannot be used: {error}") from error


def _read_object(file: Path) -> dict:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no text at all
        raise UserError(
            f"--workdir {file.parent}: {file.name} is damaged ({one_line(error)}): give another, or --overwrite"
        ) from error
    if not isinstance(found, dict):
        raise UserError(
            f"--workdir {file.parent}: {file.name} is damaged (it holds no object): give another, or --overwrite"
        )
    return found


def _refuse_foreign(workdir: Workdir, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    old, new = flat_fields(theirs), flat_fields(ours)
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key) and key not in BOOKKEEPING]
    if changed and not workdir.accept_changes:
        raise UserError(
            f"--workdir {workdir.path} holds a run of another config ({shorten(changed)} differ): give another "
            f"directory, --overwrite to start anew, or --accept-changes to go on with the new values"
        )
    if (workdir.path / SUMMARY_FILE).exists():
        raise UserError(f"--workdir {workdir.path} holds this run, finished: give another directory, or --overwrite")
