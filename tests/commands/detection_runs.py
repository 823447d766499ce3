"""Runs of the smallest detectors there are, on drawn shapes."""

from tests.commands.shell import REPOSITORY

SHAPES = f"{REPOSITORY}/configs/shapes.py"

TINY_DETECTOR = (
    "--config.data.directory=drawn",
    "--config.data.short_side=64",
    "--config.data.long_side=64",
    "--config.data.batch_size=4",
)
"""Both orientations on one canvas, 64 × 64: half as much to compile. Two steps to an epoch of eight images or more."""


def config_of(detector: str) -> tuple[str, ...]:
    """The arguments of any verb that say which config."""
    return ("--config", f"{SHAPES}:{detector},cdnv2_a,smoke", *TINY_DETECTOR)


def train(detector: str, workdir: str, *more: str) -> tuple[str, ...]:
    """The arguments of `main.py` for a run."""
    return ("train", *config_of(detector), "--workdir", workdir, *more)
