"""Which official state_dict key holds which of our variables, in the official order."""

import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdnv2_jax.condensation.masks import stage_of
from cdnv2_jax.layers.batch_norm import BatchNorm
from cdnv2_jax.layers.condensed import CondensedGroupConv, CondensedLinear, CondensedReactivation
from cdnv2_jax.layers.learned_group_conv import LearnedGroupConv
from cdnv2_jax.layers.masked_conv import MaskedConv
from cdnv2_jax.layers.squeeze_excite import SqueezeExcite
from cdnv2_jax.models.condensenet import CondenseNet, DenseLayer
from cdnv2_jax.torch_io import layouts
from cdnv2_jax.torch_io.layouts import Layout


@dataclasses.dataclass(frozen=True)
class Slot:
    """One tensor of the state_dict and the variable that holds it here."""

    variable: nnx.Variable
    layout: Layout

    def read(self) -> np.ndarray:
        """Our value in PyTorch's layout."""
        return np.array(self.layout.to_torch(np.asarray(self.variable[...])), order="C")

    def write(self, tensor: np.ndarray) -> None:
        """Takes a tensor of the right shape over; ValueError when its values cannot be right."""
        if np.issubdtype(tensor.dtype, np.complexfloating):
            raise ValueError("holds complex numbers")
        check_finite(tensor)
        # jnp.array copies: the tensor stays the caller's, who may go on training it.
        with np.errstate(over="ignore"):  # what overflows becomes infinite, and is found
            array = jnp.array(self.layout.from_torch(tensor), self.variable.dtype)
        if jnp.issubdtype(array.dtype, jnp.floating) and not np.isfinite(np.asarray(array)).all():
            raise ValueError(f"holds values too large for {array.dtype}")
        self.variable.set_value(array)


@dataclasses.dataclass(frozen=True)
class Bookkeeping(Slot):
    """`_stage` or `_count`: the official code keeps them beside the mask, here they are read off the mask.

    Attributes:
      conv: the learned convolution. per_stage: how many units one stage adds (1 for `_stage`, n / C for `_count`).
    """

    conv: MaskedConv
    per_stage: int

    def read(self) -> np.ndarray:
        stage = int(stage_of(self.conv.mask[...], self.conv.condensation_factor))
        return np.full(1, stage * self.per_stage, np.float32)

    def write(self, tensor: np.ndarray) -> None:
        # Not taken over: runs of fewer than some 2,000 steps leave numbers here that the mask contradicts.
        check_finite(tensor)


def check_finite(array: np.ndarray) -> None:
    """ValueError when floating-point values are NaN or infinite."""
    if jnp.issubdtype(array.dtype, jnp.floating) and not np.isfinite(array).all():
        raise ValueError("holds NaN or infinity")


def state_dict_slots(model: CondenseNet) -> dict[str, Slot]:
    """Every key of the model's official state_dict, in the official order."""
    return dict(_network(model))


def _network(model: CondenseNet) -> Iterator[tuple[str, Slot]]:
    yield "features.init_conv.weight", Slot(model.stem.kernel, layouts.spatial_kernel(model.stem.kernel.shape))
    for number, block in enumerate(model.blocks, start=1):
        for position, layer in enumerate(block, start=1):
            yield from _prefixed(f"features.denseblock_{number}.denselayer_{position}", _dense_layer(layer))
    yield from _prefixed("features.norm_last", _batch_norm(model.norm_last))
    if model.se_last is not None:
        yield from _prefixed("features.se_last", _squeeze_excite(model.se_last))
    if model.fc is not None:
        yield from _prefixed("fc", _linear(model.fc))
    yield from _prefixed("classifier", _classifier(model.classifier))


def _dense_layer(layer: DenseLayer) -> Iterator[tuple[str, Slot]]:
    yield from _prefixed("conv_1", _learned(layer.lgc))
    yield from _prefixed("conv_2.norm", _batch_norm(layer.conv.norm))
    yield "conv_2.conv.weight", Slot(layer.conv.kernel, layouts.spatial_kernel(layer.conv.kernel.shape))
    if layer.sfr is not None:
        yield from _prefixed("sfr", _learned(layer.sfr))
    if layer.se is not None:
        yield from _prefixed("se", _squeeze_excite(layer.se))


def _learned(conv: MaskedConv | CondensedGroupConv | CondensedReactivation) -> Iterator[tuple[str, Slot]]:
    shape = conv.kernel.shape
    if isinstance(conv, MaskedConv):
        mask_layout = layouts.lgc_mask if isinstance(conv, LearnedGroupConv) else layouts.sfr_mask
        scalar = layouts.unchanged((1,))
        inputs, outputs = shape
        yield "_count", Bookkeeping(conv.mask, scalar, conv, per_stage=conv.kept)
        yield "_stage", Bookkeeping(conv.mask, scalar, conv, per_stage=1)
        yield "_mask", Slot(conv.mask, mask_layout(conv.groups, inputs, outputs))
        kernel_layout = layouts.pointwise_kernel(shape)
    elif isinstance(conv, CondensedGroupConv):
        yield "index", Slot(conv.index, layouts.input_index(conv.index.shape, conv.in_channels))
        kernel_layout = layouts.condensed_lgc_kernel(shape)
    else:
        yield "index", Slot(conv.index, layouts.output_index(conv.index.shape, conv.out_channels))
        kernel_layout = layouts.condensed_sfr_kernel(shape)
    yield from _prefixed("norm", _batch_norm(conv.norm))
    yield "conv.weight", Slot(conv.kernel, kernel_layout)


def _batch_norm(norm: BatchNorm) -> Iterator[tuple[str, Slot]]:
    names = {"weight": norm.scale, "bias": norm.bias, "running_mean": norm.mean, "running_var": norm.var}
    for name, variable in names.items():
        yield name, Slot(variable, layouts.unchanged(variable.shape))
    yield "num_batches_tracked", Slot(norm.batches, layouts.batch_counter())


def _squeeze_excite(se: SqueezeExcite) -> Iterator[tuple[str, Slot]]:
    for name, linear in (("fc.0", se.squeeze), ("fc.2", se.excite)):
        yield f"{name}.weight", Slot(linear.kernel, layouts.linear_kernel(linear.kernel.shape))


def _linear(linear: nnx.Linear | CondensedLinear) -> Iterator[tuple[str, Slot]]:
    yield "weight", Slot(linear.kernel, layouts.linear_kernel(linear.kernel.shape))
    assert linear.bias is not None
    yield "bias", Slot(linear.bias, layouts.unchanged(linear.bias.shape))


def _classifier(classifier: nnx.Linear | CondensedLinear) -> Iterator[tuple[str, Slot]]:
    if isinstance(classifier, CondensedLinear):
        yield "index", Slot(classifier.index, layouts.input_index(classifier.index.shape, classifier.in_features))
        yield from _prefixed("linear", _linear(classifier))
    else:
        yield from _linear(classifier)


def _prefixed(prefix: str, slots: Iterator[tuple[str, Slot]]) -> Iterator[tuple[str, Slot]]:
    for name, slot in slots:
        yield f"{prefix}.{name}", slot
