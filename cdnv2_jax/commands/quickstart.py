"""The verb `quickstart`: train on the digits, write the report and pictures to predict, and say what to type next."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from PIL import Image

from cdnv2_jax.commands.report import report
from cdnv2_jax.commands.train import train
from cdnv2_jax.data.sources.generated import read_digits
from cdnv2_jax.files import replacing
from cdnv2_jax.terminal import say
from cdnv2_jax.training.workdir import REPORT_FILE, Workdir

CONFIG = "digits"
SIDE = 16  # pixels, as the network of the config sees digits
PICTURES = "pictures"
SHOWN = 7


def quickstart(workdir: Path, *, program: str, overwrite: bool = False) -> None:
    """Train as the config `digits` says and report; write a held-out picture of each digit, `pictures/7.png`.

    Args:
      workdir: directory of the run.
      program: how to start this program, for the commands that are printed.
      overwrite: start over, even if the directory holds a run.
    """
    train(CONFIG, [], Workdir(workdir, overwrite))
    report(workdir)
    write_pictures(workdir / PICTURES)
    network, picture = (shlex.quote(str(workdir / name)) for name in ("condensed", f"{PICTURES}/{SHOWN}.png"))
    say(
        f"Done: open {workdir / REPORT_FILE} in a browser. What to type next:",
        *activation(),
        f"    {program} predict --checkpoint {network} {picture}",
        f"    {program} config    # lists the other configs",
    )


def write_pictures(folder: Path) -> None:
    """Write the first held-out picture of every digit as `0.png` … `9.png`."""
    digits = read_digits("val", SIDE)
    first = {int(label): image for image, label in zip(digits.images[::-1], digits.labels[::-1], strict=True)}
    for label, pixels in sorted(first.items()):
        with replacing(folder / f"{label}.png") as scratch:
            Image.fromarray(pixels).save(scratch)


def activation() -> list[str]:
    """Return the line that brings this virtual environment's commands into the shell, if they are not there."""
    commands = Path(sys.prefix) / "bin"
    found, script = shutil.which("cdnv2"), commands / "activate"
    if not script.is_file() or (found is not None and Path(found).resolve().parent == commands.resolve()):
        return []
    path = os.path.relpath(script) if script.is_relative_to(Path.cwd()) else str(script)
    return [f"    source {shlex.quote(path)}"]
