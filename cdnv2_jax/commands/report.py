"""`main.py report`."""

import json
from pathlib import Path

from cdnv2_jax.commands.tasks import config_class
from cdnv2_jax.detection.config import DetectionConfig
from cdnv2_jax.detection.data.open import open_source
from cdnv2_jax.detection.finish import DETECTIONS, EXAMPLES
from cdnv2_jax.detection.pictures import write_examples
from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.report.plots import plot_run
from cdnv2_jax.training.parse_config import parse_config
from cdnv2_jax.training.progress import CONFIG_FILE, METRICS_FILE, read_metrics


def report(workdir: Path) -> None:
    """Draws a run's plots into its directory and, of a detector that has been judged, what it found."""
    if not (workdir / METRICS_FILE).is_file():
        raise UserError(f"--workdir {workdir} holds no run: there is no {METRICS_FILE} in it")
    try:
        paths = plot_run(read_metrics(workdir), workdir)
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{workdir / METRICS_FILE} cannot be drawn: {one_line(error)}") from error
    if (workdir / DETECTIONS).is_file():
        paths.append(_examples(workdir))
    print("\n".join(str(path) for path in paths))


def _examples(workdir: Path) -> Path:
    """Some of the held-out images with the detections that the run left."""
    try:
        values = json.loads((workdir / CONFIG_FILE).read_text(encoding="utf-8"))
        config = parse_config(values, config_class(values))
        results = json.loads((workdir / DETECTIONS).read_text(encoding="utf-8"))
        if not isinstance(config, DetectionConfig):
            raise ValueError(f"{CONFIG_FILE} is for {config.task}")
        data = config.data
        source = open_source(data.source, directory=data.directory, split="val", shapes=data.shapes_images)
        write_examples(workdir / EXAMPLES, source, results)
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{workdir / DETECTIONS} cannot be drawn: {one_line(error)}") from error
    return workdir / EXAMPLES
