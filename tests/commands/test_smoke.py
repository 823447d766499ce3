"""The smoke variant of every config file: a single step, then pruned, condensed, measured and written down."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from cdnv2_jax import load
from cdnv2_jax.commands.read_config import read_config
from cdnv2_jax.networks.zoo import architecture_of
from tests.commands.runs import records_of, summary_of
from tests.commands.shell import REPOSITORY, Shell

V2 = ("cdnv2_a", "cdnv2_b", "cdnv2_c")
V1 = ("condensenet_imagenet_74_c4", "condensenet_imagenet_74_c8")
CIFAR = (
    *("condensenet_50", "condensenet_74", "condensenet_86", "condensenet_98", "condensenet_110", "condensenet_122"),
    *("condensenet_182", "cdnv2_cifar_110", "cdnv2_cifar_146"),
)
FOUR = (V1[0], *(model for model in CIFAR if model.startswith("condensenet")))
CONDENSATION = {**dict.fromkeys((*V2, *V1, *CIFAR), 8), **dict.fromkeys(FOUR, 4), "cdnv2_b": 6}
"""Model → its condensation factor."""

TRAINED = (
    *(f"imagenet.py:{model},smoke" for model in V2 + V1),
    "finetune.py:cdnv2_a,smoke",
    *("cifar.py:condensenet_50,cifar10,smoke", "cifar.py:condensenet_182,cifar100,smoke"),
    "cifar.py:cdnv2_cifar_110,cifar10,smoke",
)
QUICK = ("cifar.py:cdnv2_cifar_110,cifar10,smoke",)
LONG = (
    *(f"imagenet.py:{model},smoke" for model in ("cdnv2_b", "cdnv2_c", *V1)),
    "finetune.py:cdnv2_a,smoke",  # tests/commands/test_finetune.py has more of its kind
    *("cifar.py:condensenet_50,cifar10,smoke", "cifar.py:condensenet_182,cifar100,smoke"),
)
SAME = {
    **{f"cifar.py:condensenet_{n},cifar10,smoke": TRAINED[6] for n in (74, 86, 98, 110, 122)},
    "cifar.py:cdnv2_cifar_146,cifar10,smoke": TRAINED[8],
}
"""Config → one that is the same but for the model's name, as networks that differ in depth alone shrink to one."""


def _specs() -> list[Any]:
    # Each is a network of its own to compile, for training and twice for evaluation: minutes for all of them.
    marks = {
        spec: [] if spec in QUICK else [pytest.mark.soak if spec in LONG else pytest.mark.slow] for spec in TRAINED
    }
    return [pytest.param(spec, marks=marks[spec]) for spec in TRAINED]


@pytest.mark.parametrize("spec", SAME)
def test_same_step_as_another(spec: str) -> None:
    ours, theirs = (read_config(f"{REPOSITORY}/configs/{one}", []) for one in (spec, SAME[spec]))
    assert dataclasses.replace(ours, model=theirs.model) == theirs
    networks = [architecture_of(one.model.name, one.model.num_classes, one.model.overrides) for one in (ours, theirs)]
    assert networks[0] == networks[1]


@pytest.mark.parametrize("spec", _specs())
def test_smoke(spec: str, shell: Shell) -> None:
    shell.succeeds("main.py", "train", "--config", f"{REPOSITORY}/configs/{spec}", "--workdir", "run")
    workdir = shell.directory / "run"
    masked, condensed, summary = load(workdir / "masked"), load(workdir / "condensed"), summary_of(workdir)

    model = spec.partition(":")[2].split(",")[0]
    factor = CONDENSATION[model]
    assert masked.name == condensed.name == model
    assert summary["stages_passed"] == factor - 1
    assert all(np.asarray(conv.mask[...]).mean() == 1 / factor for conv in masked.masked_convs())
    assert condensed.form.condensed

    # After a single small step a network still guesses: its loss is near the logarithm of the number of classes.
    guessing = math.log(masked.architecture.num_classes)
    (trained,) = records_of(workdir, "train")
    assert trained["loss"] == pytest.approx(guessing, rel=0.15)
    precise = "imagenet" not in spec.split(":")[0]  # there the computation is in bfloat16
    for form in ("masked", "condensed"):
        assert summary[form]["loss"] == pytest.approx(guessing, rel=0.15)
        assert summary[form]["accuracy"] * 8 in range(9)
        figures = ("multiply_adds", "flops", "params", "bytes_on_disk", "ms_per_image")
        assert min(summary[form][figure] for figure in figures) > 0
    assert summary["max_logit_difference"] < (1e-5 if precise else 0.05)
    assert ("live" in summary) == (("imagenet_74" not in model and "cifar" not in spec) or "finetune" in spec)
