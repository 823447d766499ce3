"""A network family of your own with learned layers: registered, trained, pruned, condensed and used.

    python examples/own_network.py [DIRECTORY]

The family is a small residual network. Its blocks narrow the features with a learned group convolution, convolve them,
and write the result back with sparse feature reactivation. Everything the package does for CondenseNets works for it.
Takes a minute on two CPU cores; needs `pip install 'cdnv2-jax[export]'`.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import cdnv2_jax
from cdnv2_jax.commands.main import main
from cdnv2_jax.detectors.build import build_detector
from cdnv2_jax.detectors.detector import Targets
from cdnv2_jax.detectors.settings import DetectorSettings
from cdnv2_jax.layers import onnx_layers as onnx
from cdnv2_jax.layers import torch_layout as torch
from cdnv2_jax.layers.convolutions import ConvNorm, NormActConv, kaiming_normal_fan_out
from cdnv2_jax.layers.cost import (
    Cost,
    area_at,
    conv_norm_cost,
    convolution_cost,
    learned_cost,
    linear_cost,
    norm_act_cost,
)
from cdnv2_jax.layers.learned import LearnedGroupConv, SparseFeatureReactivation
from cdnv2_jax.layers.onnx_graph import Graph, Map, window_kernel
from cdnv2_jax.layers.valid_region import at_stride, inside, region_of
from cdnv2_jax.networks.family import Family, ModelEntry, OnnxWriter, TorchFormat
from cdnv2_jax.networks.network import Architecture, Form, Network
from cdnv2_jax.pruning.prune import due_stage
from cdnv2_jax.schema import setting, settings
from cdnv2_jax.weights.torch_file import model_from_state_dict

STRIDES = (4, 8, 16, 32)


@settings
class LearnedResNetArchitecture(Architecture):
    """Architecture of a `LearnedResNet`."""

    UNITS_PER_STAGE = "blocks"

    width: int = setting("channels of the features", default=32, least=8, most=4096)
    blocks: tuple[int, ...] = setting(
        "residual blocks at strides 4, 8, 16 and 32", default=(1, 1, 1, 1), least=1, most=64
    )
    groups: int = setting(
        "groups of all convolutions, and condensation factor of the learned ones", default=4, least=1, most=256
    )

    @property
    def feature_channels(self) -> dict[int, int]:
        return dict.fromkeys(STRIDES, self.width)


class Block(nnx.Module):
    """x + SFR(3×3(LGC(x))): [b, h, w, width] → [b, h, w, width]."""

    def __init__(self, a: LearnedResNetArchitecture, types: dict[str, Any]):
        common = {"groups": a.groups, "activation": "relu", **types}
        self.narrow = LearnedGroupConv(a.width, a.width // 2, condensation_factor=a.groups, **common)
        self.conv = NormActConv(a.width // 2, a.width // 2, **common)
        self.write_back = SparseFeatureReactivation(a.width // 2, a.width, condensation_factor=a.groups, **common)

    def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        return x + self.write_back(self.conv(self.narrow(x), mask))


class LearnedResNet(Network):
    """Stem of stride 2 → blocks, with an average pool before the first of each stride → global mean → Linear."""

    architecture: LearnedResNetArchitecture  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self, architecture: LearnedResNetArchitecture, *, name: str, dtype: Any, param_dtype: Any, rngs: nnx.Rngs
    ):
        super().__init__(architecture, name=name, dtype=dtype)
        a, types = architecture, {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        init = kaiming_normal_fan_out(a.width, receptive_field=9)
        self.stem = ConvNorm(a.in_channels, a.width, window=3, stride=2, activation="relu", kernel_init=init, **types)
        self.stages = nnx.List([nnx.List([Block(a, types) for _ in range(count)]) for count in a.blocks])
        self.classifier = nnx.Linear(a.width, a.num_classes, **types)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.classifier(self.features(images)[STRIDES[-1]].mean((1, 2)))

    def features(self, images: jax.Array, sizes: jax.Array | None = None) -> dict[int, jax.Array]:
        self.check_images(images)
        region, maps = region_of(images, sizes, STRIDES[-1]), {}
        x = self.stem(images, region)
        for stride, blocks in zip(STRIDES, self.stages, strict=True):
            x = nnx.avg_pool(x, (2, 2), strides=(2, 2), padding="SAME")
            for block in blocks:
                x = block(x, at_stride(region, stride))
            maps[stride] = inside(x, at_stride(region, stride))
        return maps


def cost(a: LearnedResNetArchitecture, form: Form, height: int, width: int) -> tuple[Cost, Cost]:
    """Return the cost of (everything up to the feature maps, the classifier), layer by layer."""
    body, half = conv_norm_cost(a.in_channels, a.width, area_at(2, height, width), kernel_area=9), a.width // 2
    for stride, blocks in zip(STRIDES, a.blocks, strict=True):
        area = area_at(stride, height, width)
        for _ in range(blocks):
            body += norm_act_cost(a.width, area) + norm_act_cost(half, area) + norm_act_cost(half, area)
            body += learned_cost(a.width, half, a.groups, area, condensed=form.condensed)
            body += convolution_cost(half, half, area, kernel_area=9, groups=a.groups)
            body += learned_cost(half, a.width, a.groups, area, condensed=form.condensed)
    return body, linear_cost(a.width, a.num_classes)


def slots(model: LearnedResNet) -> torch.NamedSlots:
    """Map the tensors of a PyTorch module with the same layers to variables."""
    yield from torch.prefixed("stem", torch.in_sequence([model.stem]))
    for stride, blocks in zip(STRIDES, model.stages, strict=True):
        for number, block in enumerate(blocks):
            prefix = f"stage{stride}.{number}"
            yield from torch.prefixed(f"{prefix}.narrow", torch.learned(block.narrow))
            yield from torch.prefixed(f"{prefix}.norm", torch.batch_norm(block.conv.norm))
            yield f"{prefix}.conv.weight", torch.spatial_kernel(block.conv.kernel)
            yield from torch.prefixed(f"{prefix}.write_back", torch.learned(block.write_back))
    yield from torch.prefixed("classifier", torch.linear(model.classifier))


def onnx_maps(graph: Graph, model: LearnedResNet, images: Map) -> dict[int, Map]:
    """Write the feature maps as ONNX nodes."""
    x, maps = onnx.conv_norm(graph, model.stem, images), {}
    for stride, blocks in zip(STRIDES, model.stages, strict=True):
        x = graph.apply("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
        for block in blocks:
            h, order = onnx.learned_group_conv(graph, block.narrow, block.conv.norm, x)
            h = onnx.activate(graph, h, block.conv.activation)
            h = onnx.grouped_conv(graph, window_kernel(block.conv.kernel), block.conv.groups, h, order)
            x = onnx.reactivated(graph, block.write_back, x, h)
        maps[stride] = x
    return maps


def onnx_head(graph: Graph, model: LearnedResNet, last: Map) -> Map:
    """Write the logits as ONNX nodes."""
    mean = graph.apply("Flatten", graph.apply("GlobalAveragePool", last), axis=1)
    return onnx.linear(graph, model.classifier, mean, output="logits")


FAMILY = Family(
    "learned_resnet",
    LearnedResNetArchitecture,
    LearnedResNet,
    cost=cost,
    torch=TorchFormat(
        slots,
        classifier=("classifier.weight",),
        stem=("stem.0.weight",),
        form=lambda keys: Form(condensed=any(key.endswith("narrow.index") for key in keys)),
    ),
    onnx=OnnxWriter(onnx_maps, onnx_head),
)
cdnv2_jax.register("learned_resnet_8", ModelEntry(LearnedResNetArchitecture(num_classes=10), 32), family=FAMILY)


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return training images, float32 [n, 32, 32, 3], and labels, then the held-out ones."""
    from cdnv2_jax.data.sources.generated import digits_as_images, split_indices

    images, labels = digits_as_images(32)
    train, held_out = split_indices()
    return images[train], labels[train], images[held_out], labels[held_out]


def train(model: Network, images: np.ndarray, labels: np.ndarray, epochs: int = 4, batch: int = 32) -> None:
    """Train in place; between steps, prune the network as far as the schedule says."""
    steps = epochs * (len(images) // batch)
    schedule = optax.cosine_decay_schedule(0.1, steps)
    optimizer = nnx.Optimizer(model, optax.sgd(schedule, momentum=0.9, nesterov=True), wrt=nnx.Param)

    @nnx.jit
    def step(model: Network, optimizer: nnx.Optimizer, images: jax.Array, labels: jax.Array) -> jax.Array:
        def loss(model: Network) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

        value, gradients = nnx.value_and_grad(loss)(model)
        optimizer.update(model, gradients)
        return value

    model.train()
    random, stage = np.random.default_rng(0), 0
    for number in range(steps):
        due = due_stage(number / steps, model.condensation_stages + 1)
        if due > stage:
            stage = due
            cdnv2_jax.prune(model, stage)  # changes only mask values, so nothing is compiled again
            print(f"step {number}: stage {stage} of {model.condensation_stages}")
        chosen = random.choice(len(images), batch, replace=False)
        step(model, optimizer, jnp.asarray(images[chosen]), jnp.asarray(labels[chosen]))
    model.eval()


def detector_step(backbone: Network) -> tuple[float, float]:
    """Return the loss of a RetinaNet on the network, before and after one step on one generated image."""
    settings = DetectorSettings(kind="retinanet", num_classes=2, fpn_channels=16, head_convs=1, frozen_stages=0)
    detector = build_detector(settings, nnx.clone(backbone), rngs=nnx.Rngs(0))
    detector.backbone.eval()  # statistics stay as they are
    images = jnp.zeros((1, 64, 96, 3)).at[:, 16:48, 32:64].set(1.0)
    targets = Targets(jnp.array([[[32.0, 16.0, 64.0, 48.0]]]), jnp.array([[1]]), jnp.array([[True]]))
    graph, params, rest = nnx.split(detector, nnx.Param, ...)

    @jax.jit
    @jax.value_and_grad
    def loss(params: nnx.State) -> jax.Array:
        losses = nnx.merge(graph, params, rest).losses(images, jnp.array([[64, 96]]), targets, jax.random.key(0))
        return jnp.stack(list(losses.values())).sum()

    before, gradients = loss(params)
    after, _ = loss(jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradients))
    return float(before), float(after)


def run(directory: Path) -> None:
    """Run the whole example and write its files to `directory`."""
    train_images, train_labels, images, labels = digits()
    model = cdnv2_jax.create_model("learned_resnet_8", rngs=nnx.Rngs(0))
    half = (0.5, 0.5, 0.5)
    preparation = cdnv2_jax.ImagePreparation(32, "whole", "bilinear", mean=half, std=half)
    model.usage = cdnv2_jax.Usage(preparation, [str(digit) for digit in range(10)])  # stays with the network
    train(model, train_images, train_labels)

    condensed = cdnv2_jax.condense(model)
    logits, small = (np.asarray(nnx.jit(network)(jnp.asarray(images))) for network in (model, condensed))
    np.testing.assert_allclose(small, logits, atol=1e-4 * np.abs(logits).max())
    print(f"accuracy {np.mean(logits.argmax(1) == labels):.1%}, condensed {np.mean(small.argmax(1) == labels):.1%}")
    for network in (model, condensed):
        print(f"{network.form_name}: {cdnv2_jax.count_flops(network, 32)}")

    path = directory / "network"
    cdnv2_jax.save(path, condensed)
    again = cdnv2_jax.load(path)
    np.testing.assert_array_equal(nnx.jit(again)(jnp.asarray(images)), small)
    print(f"saved and loaded: {path}")

    for network in (model, condensed):
        tensors = cdnv2_jax.to_torch_state_dict(network)
        back = model_from_state_dict(tensors, network.architecture, name=network.name)
        same = jax.tree.map(np.array_equal, nnx.state(back, nnx.Param), nnx.state(network, nnx.Param))
        assert all(jax.tree.leaves(same))
        print(f"PyTorch's layout, {network.form_name}: {len(tensors)} tensors, read back bit for bit")

    files = {name: str(directory / name) for name in ("network.onnx", "network.html")}
    commands = (
        ["export", "--checkpoint", str(path), "--format", "onnx", "--output", files["network.onnx"]],
        ["report", "--checkpoint", str(path), "--output", files["network.html"]],
    )
    for command in commands:
        if main(command):
            raise SystemExit(f"{command[0]} failed")
    before, after = detector_step(model)
    assert after < before
    print(f"RetinaNet on it: loss {before:.4f}, after one step {after:.4f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True)
        run(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            run(Path(scratch))
