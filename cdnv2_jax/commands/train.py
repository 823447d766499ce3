"""The verb `train`: train a network as a config describes, or resume a run."""

import contextlib
import errno
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from cdnv2_jax.commands.checkpoint_settings import config_to_train
from cdnv2_jax.commands.processes import keep_freed_memory, stopping_remark
from cdnv2_jax.commands.read_config import make_experiment, read_with_origins
from cdnv2_jax.data.source import Picture, Source
from cdnv2_jax.devices import Devices, is_first_process
from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.files import NO_ROOM
from cdnv2_jax.paths import as_path, is_remote
from cdnv2_jax.terminal import Terminal
from cdnv2_jax.training.loop import Profile, Training
from cdnv2_jax.training.workdir import CONFIG_FILE, SUMMARY_FILE, Workdir
from cdnv2_jax.weights.checkpoint import refuse_path

NO_LONGER_WRITABLE = (*NO_ROOM, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)


def train(
    spec: str,
    overrides: Sequence[str],
    workdir: Workdir,
    *,
    profile: tuple[int, int] = (0, 0),
    program: str = "",
) -> None:
    """Train as the config describes, or resume the interrupted run in the work directory.

    Args:
      spec, overrides: see `read_config`.
      workdir: where to write.
      profile: the first step to trace, and the one after the last.
      program: how this program is started, for the commands to type next that are printed at the end; "" for none.
    """
    keep_freed_memory()
    _refuse_other_buckets(workdir.path)
    refuse_path(workdir.path)
    config, origins = read_with_origins(spec, overrides)
    devices = Devices.all()
    config, lines = config_to_train(config, origins)
    path = workdir.path
    experiment = make_experiment(config, devices)
    experiment.prepare_training()
    console = Terminal()
    data = experiment.data_facts()
    with workdir.claimed(config, data) if is_first_process() else contextlib.nullcontext("") as note:
        devices.wait_for_all("work directory")
        if not (path / CONFIG_FILE).is_file():
            raise UserError(f"--workdir {path} is not the same directory for all processes: give a shared one")
        workdir.refuse_other_data(data)  # another process may have other files
        console.print(f"{experiment.title} on {experiment.devices} → {path}")
        notes = filter(None, [note, stopping_remark(os.environ)])
        for line in (*experiment.data_lines(), *lines, *experiment.remarks, *notes):
            console.print(line)
        training = Training(experiment, path, console, Profile(path, *profile), from_step=workdir.from_step)
        with _telling_of_workdir(path):
            experiment.finish(training.run(), path, console)
        console.print(f"summary: {path / SUMMARY_FILE}, plots: {path}/*.png")
        if program:
            for line in _next_commands(path, program, _example_of(experiment.held_out)):
                console.print(line)


def _refuse_other_buckets(path: Path) -> None:
    if is_remote(path) and path.scheme != "gs":
        raise UserError(f"--workdir {path}: Orbax writes the checkpoints of a run to a disk or to gs:// only: give one")


@contextlib.contextmanager
def _telling_of_workdir(path: Path) -> Iterator[None]:
    """Turn what goes wrong when a run cannot write to its work directory any more into a UserError."""
    try:
        yield
    except (OSError, UserError) as error:
        if is_remote(path):  # whose errors say all
            raise
        if not (path / CONFIG_FILE).is_file():
            raise UserError(
                f"--workdir {path} was removed while the run was writing to it: put it back and start the same command "
                f"again, or give a new directory"
            ) from error
        inside = isinstance(error, OSError) and str(error.filename).startswith(str(path))
        if not isinstance(error, OSError) or not (inside or error.errno in NO_LONGER_WRITABLE):
            raise
        raise UserError(
            f"--workdir {path} cannot be written any more ({one_line(error)}): make room or make it writable, and "
            f"start the same command again"
        ) from error


def _next_commands(workdir: Path, program: str, image: str) -> tuple[str, str]:
    """Return what to type after a run: what uses its network, and what shows the run."""
    run = shlex.quote(str(workdir))
    return f"next: {program} predict --checkpoint {run} {image}", f"      {program} report --workdir {run}"


def _example_of(source: Source[Picture]) -> str:
    """Return the path of the first image, quoted for a shell, or IMAGE if it is not a file of its own."""
    try:
        name = source[0].name
        path = as_path(name)
    except UserError:
        return "IMAGE"
    return shlex.quote(name) if os.path.isfile(name) or (is_remote(path) and path.is_file()) else "IMAGE"
