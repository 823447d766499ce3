"""Networks for images that are not RGB: everything that networks do, and how RGB weights are adapted."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from cdnv2_jax import UserError, condense, count_flops, create_model, load, load_torch_checkpoint, save
from cdnv2_jax.commands.read_config import read_config
from cdnv2_jax.data.preparation import ImagePreparation
from cdnv2_jax.data.usage import Usage
from cdnv2_jax.detectors.build import build_detector
from cdnv2_jax.detectors.settings import DetectorSettings
from cdnv2_jax.export.classifier import FORMATS, export_classifier
from cdnv2_jax.networks.network import Network
from cdnv2_jax.weights.open import open_classifier, open_network
from cdnv2_jax.weights.starting_point import network_from
from cdnv2_jax.weights.torch_file import save_torch_checkpoint
from tests.weights.networks import assert_same_network, description, network, rewrite_description, used

SIZES: dict[str, Any] = {"stages": (1, 1), "growth": (8, 8), "groups": 4, "condensation_factor": 4}
PLAIN = {
    "shufflenet_v2_x0_5": {"stage_channels": (32, 64, 128), "stage_units": (1, 1, 1), "head_channels": 16},
    "mobilenet_v2_x1_0": {"channels": (8,) * 7, "repeats": (1,) * 7, "head_channels": 16},
}


def _stem(model: Network) -> np.ndarray:
    """The kernel that reads the images, [3, 3, channels, outputs]."""
    return np.asarray(getattr(model.stem, "conv", model.stem).kernel[...])  # pyright: ignore[reportAttributeAccessIssue]


def _adapted(kernel: np.ndarray, channels: int) -> np.ndarray:
    """As timm documents: the sum for one channel, else RGBRGB… scaled by 3 / channels."""
    if channels == 1:
        return kernel[:, :, :1] + kernel[:, :, 1:2] + kernel[:, :, 2:]
    return np.concatenate([kernel, kernel, kernel], axis=2)[:, :, :channels] * 3 / channels


@pytest.mark.parametrize("channels", [1, 3, 7])
def test_rgb_weights_are_adapted(channels: int, tmp_path: Path) -> None:
    """Nothing but the stem changes; in a directory of ours as in an official file."""
    rgb = network("partly pruned")
    save(tmp_path / "ours", used(rgb, Usage(ImagePreparation(16, "whole", "bilinear", (0.5,) * 3, (0.5,) * 3), "abc")))
    save_torch_checkpoint(tmp_path / "official.pth", rgb)
    ours = load(tmp_path / "ours", in_channels=channels)
    assert ours.usage is not None and ours.usage.class_names == ("a", "b", "c")
    official = load_torch_checkpoint(tmp_path / "official.pth", rgb.name, num_classes=3, in_channels=channels, **SIZES)
    for found in (ours, official):
        assert found.architecture == rgb.architecture.override({"in_channels": channels})
        np.testing.assert_allclose(_stem(found), _adapted(_stem(rgb), channels), rtol=1e-6)
        found.stem, found.architecture = rgb.stem, rgb.architecture  # pyright: ignore[reportAttributeAccessIssue]
        assert_same_network(found, rgb)


def test_a_fourth_channel_without_weight_changes_nothing() -> None:
    """The official code's function of the other three, then."""
    rgb, four = network("condensed"), nnx.clone(network("condensed", in_channels=4))
    nnx.update(four, nnx.state(rgb, lambda path, _: "stem" not in path))
    four.stem.kernel[...] = np.pad(_stem(rgb), ((0, 0), (0, 0), (0, 1), (0, 0)))
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 4))
    np.testing.assert_allclose(four(images), rgb(images[..., :3]), atol=1e-5)


@pytest.mark.parametrize("name", ["cdnv2_cifar_110", *PLAIN])
def test_stems_of_all_families(name: str, tmp_path: Path) -> None:
    """Built, counted, saved, and written in PyTorch's layout and read back; other images are refused."""
    sizes = PLAIN.get(name, SIZES)
    rgb = create_model(name, num_classes=3, rngs=nnx.Rngs(0), **sizes)
    model = create_model(name, num_classes=3, in_channels=2, rngs=nnx.Rngs(0), **sizes)
    model.eval()
    outputs, (side, _) = _stem(model).shape[-1], (32, 32)
    assert _stem(model).shape == (3, 3, 2, outputs)
    area = (side // (1 if name == "cdnv2_cifar_110" else 2)) ** 2
    less, more = count_flops(model, side), count_flops(rgb, side)
    assert (more.params - less.params, more.flops - less.flops) == (9 * outputs, 9 * outputs * area)
    with pytest.raises(ValueError, match=r"images must be \[batch, height, width, 2\], got \[1, 32, 32, 3\]"):
        model(jax.numpy.zeros((1, 32, 32, 3)))
    save(tmp_path / "it", model)
    assert_same_network(load(tmp_path / "it"), model)
    save_torch_checkpoint(tmp_path / "it.pth", model)
    assert_same_network(load_torch_checkpoint(tmp_path / "it.pth", name, num_classes=3, **sizes), model)
    with pytest.raises(UserError, match="is for images of 2 channels: only RGB networks can be adapted to 4"):
        load(tmp_path / "it", in_channels=4)


def test_older_checkpoints_are_for_rgb(tmp_path: Path) -> None:
    save(tmp_path / "it", network())
    stored = description(tmp_path / "it")
    del stored["architecture"]["in_channels"]
    rewrite_description(tmp_path / "it", stored)
    assert_same_network(load(tmp_path / "it"), network())


@pytest.mark.parametrize("format", FORMATS)
def test_exports(format: str, tmp_path: Path) -> None:
    """Verified when it is written; it says what images it takes."""
    usage = Usage(ImagePreparation(16, "whole", "bilinear", (0.1, 0.2, 0.3, 0.4), (0.5,) * 4))
    path = tmp_path / f"it{FORMATS[format].suffix}"
    export_classifier(
        used(network("condensed" if format != "safetensors-official" else "pruned", in_channels=4), usage),
        path,
        format=format,
    )
    found = open_classifier(path)
    assert found.described.usage == usage
    assert np.asarray(found.forward(np.zeros((3, 16, 16, 4), np.float32))).shape == (3, 3)


def test_condensing() -> None:
    assert condense(network("pruned", in_channels=4)).architecture.in_channels == 4


def test_commands_are_for_rgb(tmp_path: Path) -> None:
    """Refused before anything is read or trained."""
    save(tmp_path / "it", network(in_channels=4))
    with pytest.raises(UserError, match=r"it is for images of 4 channels, and image files are read as RGB"):
        network_from(tmp_path / "it", name="cdnv2_cifar_110", class_names=None, overrides={}, dtype=np.float32, seed=0)
    for config in ("configs/digits.py", "configs/shapes.py:retinanet,cdnv2_a"):
        with pytest.raises(
            UserError, match=r"model\.overrides\.in_channels must be 3, got 4: image files are read as RGB"
        ):
            read_config(config, ["--config.model.overrides.in_channels=4"])
    settings = DetectorSettings(kind="retinanet", num_classes=2)
    with pytest.raises(UserError, match="detectors read RGB images, this backbone images of 4 channels"):
        build_detector(settings, open_network(tmp_path / "it").network, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="in_channels must be"):
        create_model("cdnv2_a", in_channels=0, rngs=nnx.Rngs(0))
