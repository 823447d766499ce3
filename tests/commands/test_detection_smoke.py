"""The smoke variants of the detection configs, and of plain networks: trained for a step, evaluated, written down."""

import math
import sys

import pytest

from cdnv2_jax import load
from cdnv2_jax.report.published import PUBLISHED
from cdnv2_jax.weights.checkpoint import load_detector
from tests.commands.runs import records_of, summary_of
from tests.commands.shell import REPOSITORY, Shell

PAIRS = [(detector, backbone) for detector, backbones in PUBLISHED.items() for backbone in backbones]


@pytest.mark.soak  # each is a detector of its own to compile: half a minute, five minutes for all of them
@pytest.mark.parametrize(("detector", "backbone"), PAIRS)
def test_coco(detector: str, backbone: str, shell: Shell) -> None:
    config = f"{REPOSITORY}/configs/coco.py:{detector},{backbone},smoke"
    small = ("--config.data.directory=drawn", "--config.data.short_side=64", "--config.data.long_side=64")
    shell.succeeds("main.py", "train", "--config", config, *small, "--workdir", "run")
    workdir = shell.directory / "run"
    forms = ["masked", "condensed"] if backbone.startswith("cdnv2") else ["plain"]
    summary = summary_of(workdir)
    assert [form for form in summary if form in ("masked", "condensed", "plain")] == forms
    for form in forms:
        found, classes = load_detector(workdir / form)
        assert (found.settings.kind, found.backbone.name) == (detector, backbone)
        assert found.backbone.form_name == form and len(classes.names) == 5
    assert all(math.isfinite(record["loss"]) for record in records_of(workdir, "train"))


def test_without_pycocotools(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missed before the first step, not after the first epoch."""
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    config = ("--config", "shapes:retinanet,cdnv2_a,smoke")
    assert "pip install 'cdnv2-jax[detection]'" in shell.refuses("main.py", "train", *config, "--workdir", "run")


@pytest.mark.soak  # a network to compile, for training and for evaluation: a minute
def test_plain_classifier(shell: Shell) -> None:
    """There is nothing to prune and nothing to condense: one network, from training to evaluation."""
    config = ("--config", f"{REPOSITORY}/configs/finetune.py:shufflenet_v2_x0_5,smoke")
    shell.succeeds("main.py", "train", *config, "--workdir", "run")
    workdir = shell.directory / "run"
    assert load(workdir / "plain").name == "shufflenet_v2_x0_5"
    assert list(summary_of(workdir)) == ["weights", "plain", "EMA", "live"]
    printed = shell.succeeds("main.py", "eval", *config, "--checkpoint", "run/plain")
    assert "shufflenet_v2_x0_5 (plain), 8 images" in printed
    assert "nothing to condense" in shell.refuses("main.py", "condense", "--checkpoint", "run/plain", "--output", "x")
