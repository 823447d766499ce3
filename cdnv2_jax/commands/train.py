"""`main.py train`."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cdnv2_jax.commands.config_flag import read_config
from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.files import remove
from cdnv2_jax.training.config import TrainConfig
from cdnv2_jax.training.finish import SUMMARY_FILE, finish
from cdnv2_jax.training.loop import Run
from cdnv2_jax.training.progress import METRICS_FILE

CONFIG_FILE = "config.json"
RESULTS = ("checkpoints", "masked", "condensed", SUMMARY_FILE, METRICS_FILE, "learning_curves.png", "sparsity.png")


def train(spec: str, overrides: Sequence[str], workdir: Path, *, overwrite: bool) -> None:
    """Trains as the config says, or goes on with the interrupted run that `workdir` holds."""
    config = read_config(spec, overrides)
    run = Run(config)
    claim_workdir(workdir, config, overwrite=overwrite)
    console = Console()
    console.print(f"{config.model.name}, {run.total_steps:,} steps, {run.stages} condensation stages → {workdir}")
    state = run.train(workdir, console)
    finish(run.final_model(state), config, workdir, console)
    console.print(f"summary: {workdir / SUMMARY_FILE}, plots: {workdir}/*.png")


def claim_workdir(workdir: Path, config: TrainConfig, *, overwrite: bool) -> None:
    """Makes `workdir` ready for this config's run; refuses one that holds something else or a finished run."""
    ours = json.loads(json.dumps(dataclasses.asdict(config)))
    config_file = workdir / CONFIG_FILE
    try:
        if not overwrite and config_file.is_file():
            _refuse_foreign(workdir, ours, _read_object(config_file))
        elif workdir.is_dir() and any(workdir.iterdir()) and not config_file.is_file():
            raise UserError(f"--workdir {workdir} holds files that are no run's: give an empty or a new directory")
        workdir.mkdir(parents=True, exist_ok=True)
        if overwrite:
            for name in RESULTS:
                remove(workdir / name)
        config_file.write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--workdir {workdir} cannot be used: {error}") from error


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


def _refuse_foreign(workdir: Path, ours: dict, theirs: dict) -> None:
    if changed := [key for key in ours if ours[key] != theirs.get(key)]:
        raise UserError(
            f"--workdir {workdir} holds a run of another config ({', '.join(changed)} differ): "
            f"give another directory, or --overwrite to start anew"
        )
    if (workdir / SUMMARY_FILE).exists():
        raise UserError(f"--workdir {workdir} holds this run, finished: give another directory, or --overwrite")
