"""`main.py report`."""

from pathlib import Path

from cdnv2_jax.errors import UserError, one_line
from cdnv2_jax.report.plots import plot_run
from cdnv2_jax.training.progress import METRICS_FILE, read_metrics


def report(workdir: Path) -> None:
    """Draws a run's plots into its directory."""
    if not (workdir / METRICS_FILE).is_file():
        raise UserError(f"--workdir {workdir} holds no run: there is no {METRICS_FILE} in it")
    try:
        paths = plot_run(read_metrics(workdir), workdir)
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{workdir / METRICS_FILE} cannot be drawn: {one_line(error)}") from error
    print("\n".join(str(path) for path in paths))
