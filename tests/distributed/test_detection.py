"""A detector on many devices: proposals, samples and losses are those of the whole batch, however it is split."""

from pathlib import Path

import numpy as np
import pytest

from tests.commands.detection_runs import config_of
from tests.commands.runs import records_of
from tests.distributed.runs import finished

# Two runs, each a process that starts JAX and compiles a detector: a minute.
pytestmark = pytest.mark.slow

MORE = ("--config.model.dtype=float64", "--config.data.batch_size=8", "--config.epochs=3")
"""In float64, as training multiplies rounding errors."""


def test_eight_devices(tmp_path: Path) -> None:
    """Every loss of every step, sampling and pruning among them."""
    directory = f"--config.data.directory={tmp_path / 'drawn'}"
    run = (*config_of("faster_rcnn"), *MORE, directory)
    one, eight = (finished(tmp_path / f"on_{count}", devices=count, run=run) for count in (1, 8))
    ours, theirs = (records_of(workdir, "train") for workdir in (eight, one))
    assert len(theirs) >= 3
    for name in ("loss", "rpn_class_loss", "rpn_box_loss", "class_loss", "box_loss"):
        np.testing.assert_allclose([r[name] for r in ours], [r[name] for r in theirs], rtol=1e-5, err_msg=name)
    figures = [{k: v for k, v in records_of(w, "eval")[-1].items() if k.startswith("A")} for w in (eight, one)]
    assert figures[0] == pytest.approx(figures[1], abs=1e-3)
