"""Checks the project against files of figures measured with the official code.

    python -m tests.golden_check FILE.npz …

One JSON line per check: {"file", "check", "ok", …}; exit status 1 if any fails, 2 for a file that cannot be read.
The figures are float64, so JAX's 64-bit mode is switched on.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdnv2_jax import UserError, condense, count_flops, prune, to_torch_state_dict
from cdnv2_jax.classification.experiment import classification_loss
from cdnv2_jax.data.sources.generated import digits_as_images
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.network import Network
from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.training.config import OptimizerConfig
from cdnv2_jax.training.optimizer import learning_rate_schedule, make_optimizer
from cdnv2_jax.training.pruning import Pruner
from cdnv2_jax.training.step import TrainState, create_state, ema_model, live_model, make_train_step
from cdnv2_jax.weights.programs import compiled_forward
from cdnv2_jax.weights.torch_file import model_from_state_dict, state_dict_slots
from tests.golden_format import (
    GoldenFile,
    architecture_config,
    crc32,
    deterministic_input,
    deterministic_state_dict,
    read_golden,
)

Check = dict[str, Any]


def check_file(golden: GoldenFile) -> Iterator[Check]:
    """All checks of one file, each {"check", "ok", …figures}."""
    if golden.is_trajectory:
        yield from check_trajectory(golden)
    else:
        yield from check_network(golden)


def check_network(golden: GoldenFile) -> Iterator[Check]:
    """A forward pass dense, pruned and converted; masks, converted weights, counts."""
    meta = golden.meta
    model = golden_model(golden)
    height, width = meta["input_shape"][2:]
    images = jnp.asarray(deterministic_input(meta["input_shape"], meta["salt"]).transpose(0, 2, 3, 1), jnp.float64)
    yield check_keys(model, meta)
    yield from check_count(model, (height, width), meta, "unconverted")
    yield compare("logits_dense", forward(model, images), golden.arrays["logits_dense"], 1e-9)
    for stage in range(1, model.architecture.condensation_stages + 1):
        prune(model, stage)
    yield check_masks(model, meta)
    yield compare("logits_pruned", forward(model, images), golden.arrays["logits_pruned"], 1e-9)
    if "block_features" in meta:
        yield from check_block_features(model, images, meta)
    if "logits_converted" in golden.arrays:
        converted = condense(model, halve_classifier=model.architecture.head_width is None)
        yield from check_count(converted, (height, width), meta, "converted")
        yield check_converted_weights(converted, meta)
        yield compare("logits_converted", forward(converted, images), golden.arrays["logits_converted"], 1e-9)


def check_trajectory(golden: GoldenFile) -> Iterator[Check]:
    """A training run through the project's own step: losses, rates, masks, final logits."""
    arrays = golden.arrays
    model = golden_model(golden)
    yield check_keys(model, golden.meta)
    graph, state, checks = train(model, golden)
    yield from checks
    live, averaged = live_model(graph, state), ema_model(graph, state)
    yield check_masks(live, golden.meta)
    held_out = trajectory_data()[0][1500:1564]
    yield compare("logits_final", forward(live, held_out), arrays["logits_final"], 1e-6)
    yield compare("logits_final_ema", forward(averaged, held_out), arrays["logits_final_ema"], 1e-6)
    if "logits_converted" in arrays:
        converted = condense(live)
        yield compare("logits_converted", forward(converted, held_out), arrays["logits_converted"], 1e-6)


def train(
    model: CondenseNet, golden: GoldenFile, steps: int | None = None
) -> tuple[nnx.GraphDef, TrainState, list[Check]]:
    """The run's first steps (None: all), and whether losses, rates and masks were those of the file."""
    meta, arrays = golden.meta, golden.arrays
    total = meta["epochs"] * meta["steps_per_epoch"]
    names = ("momentum", "nesterov", "weight_decay")
    config = OptimizerConfig(learning_rate=meta["lr"], **{name: meta[name] for name in names})
    schedule = learning_rate_schedule(config, total, meta["steps_per_epoch"])
    optimizer = make_optimizer(config, schedule)
    graph, state = create_state(model, optimizer)
    loss = partial(classification_loss, label_smoothing=meta["label_smoothing"])
    train_step = make_train_step(graph, optimizer, loss, ema_decay=meta["ema_decay"])
    pruner = Pruner(graph, state)
    images, labels = trajectory_data()
    losses, ones = [], []
    for step in range(steps or total):
        state, _ = pruner(state, step / total)
        start = step % meta["steps_per_epoch"] * meta["batch_size"]
        batch = slice(start, start + meta["batch_size"])
        state, metrics = train_step(state, {"image": images[batch], "label": labels[batch]})
        losses.append(float(metrics["loss"]))
        network = nnx.merge(graph, state.params, state.stats, state.masks)
        ones.append(mask_ones(network, (f"{layer}._mask" for layer in arrays["mask_layers"])))
    checks = [
        compare("loss", np.array(losses), arrays["loss"][:steps], 1e-6),
        compare("lr", np.array([schedule(step) for step in range(len(ones))]), arrays["lr"][:steps], 1e-12),
        {"check": "mask_ones", "ok": bool(np.array_equal(ones, arrays["mask_ones"][:steps]))},
    ]
    return graph, state, checks


def golden_model(golden: GoldenFile) -> CondenseNet:
    """The file's architecture with its deterministic weights, in float64."""
    architecture = golden_architecture(golden)
    tensors = deterministic_state_dict(golden.meta["state_dict"], golden.meta["salt"])
    model = model_from_state_dict(
        tensors, architecture, name=golden.meta.get("model", "golden"), param_dtype=jnp.float64, source=str(golden.path)
    )
    assert isinstance(model, CondenseNet)
    return model


def golden_architecture(golden: GoldenFile) -> CondenseNetArchitecture:
    """Our architecture for the official code's settings in `meta`."""
    official = architecture_config(golden)
    if official["name"] is not None:
        architecture = architecture_of(official["name"], official["num_classes"])
        assert isinstance(architecture, CondenseNetArchitecture)
        return architecture
    return CondenseNetArchitecture(
        stages=official["stages"],
        growth=official["growth"],
        num_classes=official["num_classes"],
        lgc_groups=official["group_1x1"],
        lgc_factor=official["condense_factor"],
        conv_groups=official["group_3x3"],
        sfr_groups=official["group_trans"],
        sfr_factor=official["trans_factor"],
        bottleneck=official["bottleneck"],
        hard_swish_from=official["HS_start_block"],
        squeeze_excite_from=official["SE_start_block"],
        head_width=official["fc_channel"],
        head_reduction=official["last_se_reduction"] or 16,
        stem_stride=official["init_stride"],
    )


def trajectory_data() -> tuple[jax.Array, jax.Array]:
    """The digits of the trajectories: 32×32, in [−1, 1], computed in float32, then float64."""
    images, labels = digits_as_images(side=32)
    return jnp.asarray(images, jnp.float64), jnp.asarray(labels)


def forward(model: Network, images: jax.Array) -> np.ndarray:
    """Logits of the model in evaluation mode."""
    model.eval()
    return np.asarray(compiled_forward(model)(np.asarray(images)))


def compare(name: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> Check:
    """Largest difference relative to the largest magnitude."""
    difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    return {"check": name, "ok": bool(difference <= tolerance), "difference": difference, "tolerance": tolerance}


def check_keys(model: Network, meta: dict[str, Any]) -> Check:
    """state_dict: every key, in order, with its shape."""
    ours = [(key, list(array.shape)) for key, array in to_torch_state_dict(model).items()]
    theirs = [(key, list(shape)) for key, shape in meta["state_dict"].items()]
    return {"check": "state_dict", "ok": ours == theirs, "tensors": len(theirs)}


def check_masks(model: Network, meta: dict[str, Any]) -> Check:
    """Every `_mask`: number of ones and CRC."""
    tensors = to_torch_state_dict(model)
    wrong = [
        key
        for key, expected in meta["masks"].items()
        if crc32(tensors[key], np.uint8) != expected["crc32"] or int(tensors[key].sum()) != expected["ones"]
    ]
    return {"check": "masks", "ok": not wrong, "masks": len(meta["masks"]), "wrong": wrong[:5]}


def mask_ones(model: Network, keys: Iterable[str]) -> list[float]:
    """Ones in each of the masks, given by their state_dict keys."""
    slots = state_dict_slots(model)
    return [float(slots[key].read().sum()) for key in keys]


def check_converted_weights(converted: Network, meta: dict[str, Any]) -> Check:
    """Every tensor of the converted state_dict: key, order, shape and CRC."""
    tensors = to_torch_state_dict(converted)
    expected = meta["converted_state_dict"]
    wrong = [
        key
        for key, entry in expected.items()
        if key not in tensors
        or list(tensors[key].shape) != list(entry["shape"])
        or crc32(tensors[key], converted_dtype(tensors[key])) != entry["crc32"]
    ]
    # The files leave the batch counters of converted networks out: the official conversion resets them.
    same_order = [key for key in tensors if not key.endswith("num_batches_tracked")] == list(expected)
    return {
        "check": "converted_state_dict",
        "ok": same_order and not wrong,
        "tensors": len(expected),
        "wrong": wrong[:5],
    }


def converted_dtype(tensor: np.ndarray) -> type:
    """The dtype a tensor's CRC was taken in: int64 for integers, float32 for the rest."""
    return np.int64 if np.issubdtype(tensor.dtype, np.integer) else np.float32


def check_count(model: Network, size: tuple[int, int], meta: dict[str, Any], form: str) -> Iterator[Check]:
    """FLOPs and parameters, to the unit, where the file has them."""
    if f"flops_{form}" in meta:
        cost = count_flops(model, size)
        ours, theirs = (cost.flops, cost.params), (meta[f"flops_{form}"], meta[f"params_{form}"])
        yield {"check": f"count_{form}", "ok": ours == theirs, "ours": ours, "theirs": theirs}


def check_block_features(model: CondenseNet, images: jax.Array, meta: dict[str, Any]) -> Iterator[Check]:
    """Shape, mean and mean absolute value of each dense block's output."""
    graph, state = nnx.split(model)

    @jax.jit
    def features(state: nnx.State, images: jax.Array) -> list[jax.Array]:
        return list(nnx.merge(graph, state).block_outputs(images))

    for number, (ours, theirs) in enumerate(zip(features(state, images), meta["block_features"], strict=True)):
        batch, height, width, channels = ours.shape
        means = np.array([ours.mean(), jnp.abs(ours).mean()])
        expected = np.array([theirs["mean"], theirs["abs_mean"]])
        check = compare(f"block_{number + 1}", means, expected, 1e-9)
        check["ok"] &= [batch, channels, height, width] == theirs["shape"]
        yield check


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.golden_check", description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE.npz")
    files = parser.parse_args(arguments).files
    failed = 0
    with jax.enable_x64(True):
        for file in files:
            try:
                golden = read_golden(file)
            except (OSError, ValueError, KeyError) as error:
                print(f"golden_check: {file} is not a golden file: {error}", file=sys.stderr)
                return 2
            for check in check_guarded(golden):
                failed += not check["ok"]
                print(json.dumps({"file": golden.path.name, **check}), flush=True)
    return 1 if failed else 0


def check_guarded(golden: GoldenFile) -> Iterator[Check]:
    """`check_file`, with a network that cannot be built reported as a failed check."""
    try:
        yield from check_file(golden)
    except UserError as error:
        yield {"check": "architecture", "ok": False, "error": str(error)}


if __name__ == "__main__":
    sys.exit(main())
