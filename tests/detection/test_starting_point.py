"""A trained detector as the starting point of another: what is the same is taken over bit for bit, the rest is new."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cdnv2_jax.commands.checkpoint_settings import config_to_train
from cdnv2_jax.commands.read_config import read_with_origins
from cdnv2_jax.data.canvas import KEY as USAGE
from cdnv2_jax.detection.config import DetectionConfig, DetectorConfig
from cdnv2_jax.detection.starting_point import starting_detector
from cdnv2_jax.detectors.detector import PyramidDetector
from cdnv2_jax.detectors.faster_rcnn import FasterRCNN
from cdnv2_jax.detectors.retinanet import RetinaNet
from cdnv2_jax.detectors.settings import Kind
from cdnv2_jax.errors import UserError
from cdnv2_jax.weights.checkpoint import flat_arrays, save_detector
from tests.commands.shell import REPOSITORY
from tests.export.detectors import CLASSES, PREPARATION, detector

KINDS: tuple[Kind, ...] = ("retinanet", "faster_rcnn")
CLASS_LAYERS = {"retinanet": ("head/classes/",), "faster_rcnn": ("roi_head/classes/", "roi_head/boxes/")}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with both kinds of detectors on the same backbone, of discs, squares and stars."""
    directory = tmp_path_factory.mktemp("detectors")
    for kind in KINDS:
        save_detector(directory / kind, detector(kind), CLASSES, metadata={USAGE: PREPARATION.to_json()})
    return directory


def _started(checkpoint: Path, kind: Kind, names: tuple[str, ...], **settings: Any) -> tuple[PyramidDetector, str]:
    own = dataclasses.asdict(detector(kind).settings)
    kept = {key: value for key, value in own.items() if key not in ("kind", "num_classes")}
    wanted = {"backbone": "cdnv2_a", "num_classes": len(names), "settings": kept | settings}
    model = DetectorConfig(detector=kind, checkpoint=str(checkpoint), **wanted)
    return starting_detector(model, names, seed=5)


def _arrays(model: nnx.Module, *without: str) -> dict[str, np.ndarray]:
    found = flat_arrays(nnx.state(model))
    return {name: np.asarray(array) for name, array in found.items() if not name.startswith(without or ("-",))}


def _assert_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert list(ours) == list(theirs)
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def _class_outputs(model: PyramidDetector) -> list[np.ndarray]:
    """Of the head on random features: what has an axis of classes, with that axis last."""
    if isinstance(model, RetinaNet):
        maps = {8: jax.random.normal(jax.random.key(0), (1, 2, 3, 8))}
        (logits,), _ = model.head(maps, {8: jnp.ones((1, 2, 3, 1), bool)})
        return [np.asarray(logits)]
    assert isinstance(model, FasterRCNN)
    logits, deltas = model.roi_head(jax.random.normal(jax.random.key(0), (1, 2, 7, 7, 8)))
    return [np.asarray(logits)[..., :-1], np.moveaxis(np.asarray(deltas), -2, -1), np.asarray(logits)[..., -1:]]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_classes(kind: Kind, saved: Path) -> None:
    started, remark = _started(saved / kind, kind, ("disc", "square", "star"))
    _assert_same(_arrays(started), _arrays(detector(kind)))
    assert remark == f"config.model.checkpoint {saved / kind}: backbone, pyramid and heads are taken"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", [("star", "disc", "square"), ("square",)])
def test_known_classes_in_another_order(kind: Kind, names: tuple[str, ...], saved: Path) -> None:
    """The head gives for each class what it gave for the class of that name, and for the background what it gave."""
    started, remark = _started(saved / kind, kind, names)
    _assert_same(_arrays(started, *CLASS_LAYERS[kind]), _arrays(detector(kind), *CLASS_LAYERS[kind]))
    labels = [CLASSES.names.index(name) for name in names]
    ours, theirs = _class_outputs(started), _class_outputs(detector(kind))
    for wanted, found in zip(theirs[:2], ours[:2], strict=True):
        np.testing.assert_allclose(found, wanted[..., labels], atol=1e-5)
    np.testing.assert_allclose(ours[-1], theirs[-1] if kind == "faster_rcnn" else ours[-1], atol=1e-5)
    assert f"the class head's {len(names)} outputs are those of the checkpoint's 3, by name" in remark


@pytest.mark.parametrize("kind", KINDS)
def test_other_classes(kind: Kind, saved: Path) -> None:
    """All that knows classes has initial values: RetinaNet's bias is log(0.01 / 0.99), every other one zero."""
    started, remark = _started(saved / kind, kind, ("disc", "owl", "fox", "elk"))
    _assert_same(_arrays(started, *CLASS_LAYERS[kind]), _arrays(detector(kind), *CLASS_LAYERS[kind]))
    assert "the class head is re-initialised: the checkpoint does not know owl, fox, elk" in remark
    new = {name: array for name, array in _arrays(started).items() if name.startswith(CLASS_LAYERS[kind])}
    bias = math.log(0.01 / 0.99) if kind == "retinanet" else 0
    for name, array in new.items():
        if name.endswith("bias"):
            np.testing.assert_allclose(array, bias, rtol=1e-6)
        else:
            assert 0 < array.std() < 0.15
    outputs = {name: array.shape[-1] for name, array in new.items()}
    expected = {"head/classes": 3 * 4, "roi_head/classes": 4 + 1, "roi_head/boxes": 4 * 4}
    assert outputs == {name: expected[name.rsplit("/", 1)[0]] for name in outputs}


def test_another_kind(saved: Path) -> None:
    started, remark = _started(saved / "retinanet", "faster_rcnn", ("disc", "square", "star"))
    _assert_same(_arrays(started.backbone), _arrays(detector("retinanet").backbone))
    assert remark.endswith("retinanet holds a retinanet: only its backbone is taken")


@pytest.mark.parametrize(
    "kind, changes, complaint",
    [
        ("retinanet", {"fpn_channels": 16}, "do not fit config.model.settings.fpn_channels 16 instead of 8: leave"),
        ("retinanet", {"anchor_ratios": (1.0,)}, r"anchor_ratios \(1.0,\) instead of \(0.5, 1.0, 2.0\)"),
        (
            "faster_rcnn",
            {"roi_size": 5, "anchor_scale": 3.0},
            "do not fit config.model.settings.roi_size 5 instead of 7:",
        ),
    ],
)
def test_other_shapes(kind: Kind, changes: dict[str, Any], complaint: str, saved: Path) -> None:
    with pytest.raises(UserError, match=complaint):
        _started(saved / kind, kind, ("disc",), **changes)


def test_settings_and_preprocessing_are_those_of_the_checkpoint(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What gives the weights their meaning; how to train is the config's, and what a flag says."""
    monkeypatch.chdir(tmp_path)
    flags = [f"--config.model.checkpoint={saved / 'retinanet'}", "--config.data.long_side=128"]
    config, origins = read_with_origins(f"{REPOSITORY}/configs/shapes.py:retinanet,cdnv2_a", flags)
    started, lines = config_to_train(config, origins)
    assert isinstance(started, DetectionConfig) and isinstance(config, DetectionConfig)
    ours, own = started.model.detector_settings, detector("retinanet").settings
    for key in ("fpn_channels", "head_convs", "anchor_scale", "octave_scales"):
        assert getattr(ours, key) == getattr(own, key) != getattr(config.model.detector_settings, key), key
    assert (ours.norm, ours.frozen_stages, ours.score_threshold) == ("trained", 0, 0.05)
    assert started.data.preparation == dataclasses.replace(PREPARATION, long_side=128)
    assert "fpn_channels 8 (checkpoint) instead of 64 (config file)" in lines
    assert not [line for line in lines if line.startswith(("hidden", "roi_"))]  # RetinaNet has none
    assert "long_side 128 (command line) instead of 96 (checkpoint)" in lines
    # So do those of a run's network.
    Path("run").mkdir()
    Path("run/config.json").write_text("{}")
    Path("run/best").symlink_to(saved / "retinanet")
    config, origins = read_with_origins(
        f"{REPOSITORY}/configs/shapes.py:retinanet,cdnv2_a", ["--config.model.checkpoint=run"]
    )
    of_run, lines = config_to_train(config, origins)
    assert isinstance(of_run, DetectionConfig) and of_run.model.detector_settings == ours
    assert (lines[0], of_run.model.checkpoint) == ("config.model.checkpoint run: best/ is taken", "run/best")
    # Another kind has nothing but the images in common.
    config, origins = read_with_origins(f"{REPOSITORY}/configs/shapes.py:faster_rcnn,cdnv2_a", flags[:1])
    started, lines = config_to_train(config, origins)
    assert started.model == config.model and not [line for line in lines if "fpn" in line]
