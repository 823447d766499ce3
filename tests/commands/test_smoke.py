"""The smoke variant of every config file: a single step, then pruned, condensed, measured and written down."""

import math
from typing import Any

import numpy as np
import pytest

from cdnv2_jax import load
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

QUICK = {
    "cifar.py:condensenet_50,cifar10,smoke",
    "cifar.py:cdnv2_cifar_110,cifar10,smoke",
}


def _specs() -> list[Any]:
    specs = [f"{file}.py:{model},smoke" for file in ("imagenet", "finetune") for model in V2 + V1]
    specs += [f"cifar.py:{model},cifar10,smoke" for model in CIFAR]
    specs += [f"cifar.py:{model},cifar100,smoke" for model in ("condensenet_86", "condensenet_182", "cdnv2_cifar_146")]
    # Each is a network of its own to compile, for training and twice for evaluation: minutes for all of them.
    return [pytest.param(spec, marks=[] if spec in QUICK else [pytest.mark.slow]) for spec in specs]


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
        assert min(summary[form][figure] for figure in ("flops", "params", "ms_per_image")) > 0
    assert summary["max_logit_difference"] < (1e-5 if precise else 0.05)
    assert ("live" in summary) == (("imagenet_74" not in model and "cifar" not in spec) or "finetune" in spec)
