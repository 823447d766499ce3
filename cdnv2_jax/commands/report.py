"""`main.py report`."""

from pathlib import Path

from cdnv2_jax.errors import UserError
from cdnv2_jax.report.plots import plot_run
from cdnv2_jax.training.progress import METRICS_FILE, read_metrics


def report(workdir: Path) -> None:
    """Draws a run's plots into its directory."""
    if not (workdir / METRICS_FILE).is_file():
        raise UserError(f"--workdir {workdir} holds no run: there is no {METRICS_FILE} in it")
    try:
        paths = plot_run(read_metrics(workdir), workdir)
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{workdir / METRICS_FILE} cannot be drawn: {error}") from error
    print("\n".join(str(path) for path in paths))
