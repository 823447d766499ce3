"""`main.py train` from a trained network: masked ones are pruned on, condensed ones stay as they are."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from cdnv2_jax import load, save
from cdnv2_jax.classification.config import ClassificationConfig, preparation_of
from cdnv2_jax.commands.checkpoint_settings import config_to_train
from cdnv2_jax.commands.read_config import read_with_origins
from cdnv2_jax.data.preparation import ImagePreparation
from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.weights.checkpoint import flat_arrays
from cdnv2_jax.weights.metadata import USAGE_KEY, Usage
from tests.commands.runs import records_of, summary_of
from tests.commands.shell import DIGITS, REPOSITORY, TINY, Shell
from tests.weights.networks import network
from tests.weights.official_files import converted_file, training_file, twin_in_form
from tests.weights.official_files import save as save_official

TRAIN = ("main.py", "train", "--config", DIGITS, *TINY, "--workdir", "run")
TINY_SIZES = {"stages": (1,), "growth": (8,), "groups": 4, "condensation_factor": 4, "squeeze_excite_from": 2}
"""The network that the digits' config with `TINY` describes."""


def _from(path: str) -> str:
    return f"--config.model.checkpoint={path}"


def _arrays(path: Path) -> dict[str, np.ndarray]:
    return {name: np.asarray(array) for name, array in flat_arrays(nnx.state(load(path))).items()}


def _assert_trained_condensed(workdir: Path) -> None:
    """A run of a condensed network: no stages, no masks, nothing to compare with."""
    summary = summary_of(workdir)
    assert "masked" not in summary and "stages_passed" not in summary and "max_logit_difference" not in summary
    costs = {"multiply_adds", "flops", "params", "bytes_on_disk", "ms_per_image"}
    assert {"accuracy", "top5", "loss", *costs} == summary["condensed"].keys()
    assert not (workdir / "masked").exists()
    for name in ("condensed", "best"):
        assert load(workdir / name).form.condensed
        assert not [array for array in _arrays(workdir / name) if "mask" in array]
    assert records_of(workdir, "stage") == []
    assert len(records_of(workdir, "train")) == 2


def test_condensed(shell: Shell) -> None:
    """Which channels go where is settled; what is done with them is trained."""
    save("network", network("condensed"))
    printed = shell.succeeds(*TRAIN, _from("network"))
    assert "train: 1,437 images of 10 classes, digits\nheld out: 360 images of 10 classes, digits\n" in printed
    assert "the classifier is re-initialised: 10 classes, the checkpoint has 3" in printed
    assert "→ best/" in printed
    assert "condensation stages: none" in printed
    _assert_trained_condensed(Path("run"))
    before, after = _arrays(Path("network")), _arrays(Path("run/condensed"))
    whole = [name for name, array in before.items() if array.dtype.kind in "iu" and array.ndim]
    assert whole  # the indices
    for name in whole:
        np.testing.assert_array_equal(after[name], before[name])
    weights = [name for name in before if name.endswith("kernel") and "classifier" not in name]
    assert all(not np.array_equal(after[name], before[name]) for name in weights)
    assert after["classifier/kernel"].shape[1] == 10 != before["classifier/kernel"].shape[1]
    # It can be evaluated like any other, and condensing it again is refused.
    shell.succeeds("main.py", "eval", "--config", DIGITS, *TINY, "--checkpoint", "run/condensed")
    condensing = ("main.py", "condense", "--checkpoint", "run/condensed", "--output", "again")
    assert "is condensed already" in shell.refuses(*condensing)


def test_partly_pruned(shell: Shell) -> None:
    """The rest of its weights goes during the run; what is gone stays gone."""
    save("network", network("partly pruned"))
    shell.succeeds(*TRAIN, _from("network"))
    assert summary_of(Path("run"))["stages_passed"] == 3
    first = records_of(Path("run"), "train")[0]
    assert (first["stage"], first["sparsity"]) == (1, pytest.approx(0.25))
    before, after = _arrays(Path("network")), _arrays(Path("run/masked"))
    masks = [name for name in before if name.endswith("mask")]
    assert masks
    for name in masks:
        assert (after[name] <= before[name]).all()
        assert after[name].mean() == 0.25


@pytest.mark.parametrize("form", ["masked", "converted"])
def test_official(form: str, shell: Shell) -> None:
    """Of ten classes, as many as there are digits: the classifier is kept and trained on."""
    architecture = architecture_of("cdnv2_cifar_110", 10, TINY_SIZES)
    twin = twin_in_form(architecture, "converted" if form == "converted" else 3)
    file = converted_file(twin) if form == "converted" else training_file(twin, ema=None, arch="cdnv2_cifar_110")
    save_official(Path("model.pth.tar"), file)
    # So small a rate leaves it as it is.
    shell.succeeds(
        *TRAIN, _from("model.pth.tar"), "--config.optimizer.learning_rate=1e-12", "--config.optimizer.warmup_epochs=0.0"
    )
    if form == "converted":
        _assert_trained_condensed(Path("run"))
    ours = _arrays(Path("run/condensed"))["classifier/kernel"]
    theirs = twin.state_dict()["classifier.weight"].numpy().T
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_stopped_and_resumed(shell: Shell) -> None:
    """The checkpoint it began with is looked at again, the run's own one is what counts."""
    save("network", network("condensed"))
    shell.succeeds(*TRAIN, _from("network"))
    Path("run/summary.json").unlink()  # as if it had been killed just before the end
    before = _arrays(Path("run/condensed"))
    assert "resuming after step 2" in shell.succeeds(*TRAIN, _from("network"))
    for name, array in _arrays(Path("run/condensed")).items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize(
    ("kind", "more", "complaint"),
    [
        (None, (), "network: no such file or directory"),
        ("a directory", (), "network is not a checkpoint of this project"),
        ("halved", (), "network holds a condensenet_50, but config.model.name is cdnv2_cifar_110"),
        ("halved", ("--config.model.name=condensenet_50",), "has a halved classifier, which cannot be replaced"),
        (
            "pruned",
            ("--config.model.num_classes=7",),
            "digits has 10 classes, the network 7: set config.model.num_classes",
        ),
        # Its architecture is its own, whatever the config's overrides say.
        ("dense", (), "8×8 image is too small"),
    ],
)
def test_refused(kind: str | None, more: tuple[str, ...], complaint: str, shell: Shell) -> None:
    if kind == "a directory":
        Path("network").mkdir()
    elif kind is not None:
        sizes = {"stages": (1,) * 5, "growth": (8,) * 5} if kind == "dense" else {}
        save("network", network(kind, **sizes))
    assert complaint in shell.refuses(*TRAIN, _from("network"), *more)


def test_own_preprocessing(tmp_path: Path) -> None:
    """Images are prepared as for the checkpoint, unless a flag says otherwise."""
    preparation = ImagePreparation(16, "centre", "bicubic", (0.2, 0.3, 0.4), (0.5, 0.6, 0.7), shorter_side=20)
    save(tmp_path / "network", network("pruned"), metadata={USAGE_KEY: Usage(preparation).to_json()})
    flags = [f"--config.model.checkpoint={tmp_path / 'network'}", "--config.data.resize=24"]
    config, origins = read_with_origins(DIGITS, flags)
    assert isinstance(config, ClassificationConfig)
    started, lines = config_to_train(config, origins)
    assert isinstance(started, ClassificationConfig)
    assert preparation_of(started) == dataclasses.replace(preparation, shorter_side=24)
    assert "data.resize 24 (command line) instead of 20 (checkpoint)" in lines
    assert any(line.startswith("data.mean (0.2, 0.3, 0.4) (checkpoint) instead of (0.5, ") for line in lines)
    # A detector takes over the statistics of the images.
    shapes, origins = read_with_origins(f"{REPOSITORY}/configs/shapes.py", flags[:1])
    started, lines = config_to_train(shapes, origins)
    assert (started.data.mean, started.data.std, len(lines)) == (preparation.mean, preparation.std, 2)
