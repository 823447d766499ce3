"""The files of a run's directory that a report is made of; those that are not there yet are done without."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cdnv2_jax.checkpoint.arrays import is_checkpoint
from cdnv2_jax.commands.report_network import read_network
from cdnv2_jax.commands.tasks import config_class
from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.models.families import AnyNetwork
from cdnv2_jax.report.plots import Record
from cdnv2_jax.training.config import RunConfig
from cdnv2_jax.training.loop import BEST
from cdnv2_jax.training.parse_config import parse_config
from cdnv2_jax.training.progress import CONFIG_FILE, METRICS_FILE, SUMMARY_FILE, read_metrics

NETWORKS = ("masked", "condensed", "plain", BEST)
"""Where a run's network may be, the one to look at first; masked and condensed have the same connections."""

FORMS = ("condensed", "masked", "plain")
"""Whose figures are the run's, the first that there is."""


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """What a run has left so far.

    Attributes:
      workdir: its directory. records: of its metrics. summary: empty before its end.
      values, config: of its config, as they stand in the file and checked; empty and None without one.
      network: the trained one (of a detector the backbone) or the best so far; None if there is none yet.
    """

    workdir: Path
    records: list[Record]
    summary: Mapping[str, Any]
    values: Mapping[str, Any]
    config: RunConfig | None
    network: AnyNetwork | None

    def own_figure(self, name: str) -> float | None:
        """A figure of the summary's; None before there is any."""
        with telling_of_damage(self.workdir / SUMMARY_FILE):
            return next((float(self.summary[form][name]) for form in FORMS if form in self.summary), None)


def read_run(workdir: Path) -> RunFiles:
    """Reads them; UserError when there is no run, or a file is damaged."""
    if not (workdir / METRICS_FILE).is_file():
        raise UserError(f"--workdir {workdir} holds no run: there is no {METRICS_FILE} in it")
    with telling_of_damage(workdir / METRICS_FILE):
        records = read_metrics(workdir)
    values, config = _read_object(workdir / CONFIG_FILE), None
    if values:
        with telling_of_damage(workdir / CONFIG_FILE):
            config = parse_config(values, config_class(values))
            config.check()
    network = next((read_network(workdir / name) for name in NETWORKS if is_checkpoint(workdir / name)), None)
    return RunFiles(workdir, records, _read_object(workdir / SUMMARY_FILE), values, config, network)


def _read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty without the file."""
    if not file.is_file():
        return {}
    with telling_of_damage(file):
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
    return found


@contextmanager
def telling_of_damage(file: Path) -> Iterator[None]:
    """A UserError that names the file for whatever its contents trip."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise UserError(f"{file} cannot be drawn: {one_line(error)}") from error
