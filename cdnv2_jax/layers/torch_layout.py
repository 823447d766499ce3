"""Layout of each layer in a PyTorch state_dict, and the variable that holds each tensor."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdnv2_jax.layers.condensed import CondensedGroupConv, CondensedLinear, CondensedReactivation
from cdnv2_jax.layers.convolutions import ConvNorm, SqueezeExcite
from cdnv2_jax.layers.learned import LearnedGroupConv, MaskedConv, stage_of
from cdnv2_jax.layers.norm import BatchNorm

Array = np.ndarray


@dataclasses.dataclass(frozen=True)
class Layout:
    """A tensor's shape in PyTorch, and the conversions from and to our array.

    Attributes:
      shape: shape of the tensor in the state_dict.
      to_torch: our array → that tensor.
      from_torch: that tensor → our array; raises ValueError if its values are invalid.
    """

    shape: tuple[int, ...]
    to_torch: Callable[[Array], Array]
    from_torch: Callable[[Array], Array]


def unchanged(shape: tuple[int, ...]) -> Layout:
    """Return the layout of an array that is the same on both sides."""
    return Layout(shape, lambda a: a, lambda t: t)


def batch_counter() -> Layout:
    """Return the layout of a batch counter: int32 scalar ↔ int64 scalar."""
    return Layout((), lambda a: a.astype(np.int64), _to_counter)


def spatial_kernel_layout(shape: tuple[int, ...]) -> Layout:
    """Return the layout of a convolution kernel: [height, width, in, out] ↔ [out, in, height, width]."""
    height, width, inputs, outputs = shape
    return Layout(
        (outputs, inputs, height, width), lambda a: a.transpose(3, 2, 0, 1), lambda t: t.transpose(2, 3, 1, 0)
    )


def pointwise_kernel(shape: tuple[int, ...]) -> Layout:
    """Return the layout of a 1×1 kernel: [in, out] ↔ [out, in, 1, 1]."""
    inputs, outputs = shape
    return Layout((outputs, inputs, 1, 1), lambda a: a.T[:, :, None, None], lambda t: t[:, :, 0, 0].T)


def linear_kernel(shape: tuple[int, ...]) -> Layout:
    """Return the layout of a Linear's kernel: [in, out] ↔ [out, in]."""
    inputs, outputs = shape
    return Layout((outputs, inputs), lambda a: a.T, lambda t: t.T)


def lgc_mask(groups: int, inputs: int, outputs: int) -> Layout:
    """Return the layout of an LGC mask: bool [G, in] ↔ 0/1 float [out, in, 1, 1], row o for group o mod G."""

    def from_torch(tensor: Array) -> Array:
        return _group_pattern(tensor[:, :, 0, 0], groups)

    return Layout((outputs, inputs, 1, 1), lambda a: _spread(a, outputs)[:, :, None, None], from_torch)


def sfr_mask(groups: int, inputs: int, outputs: int) -> Layout:
    """Return the layout of an SFR mask: bool [G, out] ↔ 0/1 float [out, in, 1, 1], column j for group j mod G."""

    def from_torch(tensor: Array) -> Array:
        return _group_pattern(tensor[:, :, 0, 0].T, groups)

    return Layout((outputs, inputs, 1, 1), lambda a: _spread(a, inputs).T[:, :, None, None], from_torch)


def condensed_lgc_kernel(shape: tuple[int, ...]) -> Layout:
    """Return the layout of a condensed LGC kernel: [G, kept, out / G] ↔ [out, kept, 1, 1], rows by group."""
    groups, kept, members = shape
    return Layout(
        (groups * members, kept, 1, 1),
        lambda a: a.transpose(0, 2, 1).reshape(groups * members, kept, 1, 1),
        lambda t: t.reshape(groups, members, kept).transpose(0, 2, 1),
    )


def condensed_sfr_kernel(shape: tuple[int, ...]) -> Layout:
    """Return the layout of a condensed SFR kernel: [G, in / G, kept] ↔ [G · kept, in / G, 1, 1], rows by group."""
    groups, members, kept = shape
    return Layout(
        (groups * kept, members, 1, 1),
        lambda a: a.transpose(0, 2, 1).reshape(groups * kept, members, 1, 1),
        lambda t: t.reshape(groups, kept, members).transpose(0, 2, 1),
    )


def input_index(shape: tuple[int, ...], channels: int) -> Layout:
    """Return the layout of channel indices in [0, `channels`): int32 of any shape ↔ flat int64."""

    def from_torch(tensor: Array) -> Array:
        # float32 and float64 hold every channel number exactly; float16 and bfloat16 do not.
        exact = np.issubdtype(tensor.dtype, np.integer) or tensor.dtype in (np.float32, np.float64)
        if not exact or (tensor != np.round(tensor)).any():
            raise ValueError(f"channel numbers must be integers, got {tensor.dtype}")
        if tensor.size and not (tensor.min() >= 0 and tensor.max() < channels):
            raise ValueError(f"channel numbers must be in [0, {channels}), got {tensor.min()} to {tensor.max()}")
        return tensor.reshape(shape).astype(np.int32)

    return Layout((int(np.prod(shape)),), lambda a: a.reshape(-1).astype(np.int64), from_torch)


def output_index(shape: tuple[int, ...], outputs: int) -> Layout:
    """Return the layout of the outputs that results are added to: int32 [G, kept] ↔ one-hot float [G · kept, out]."""

    def to_torch(array: Array) -> Array:
        return np.eye(outputs, dtype=np.float32)[array.reshape(-1)]

    def from_torch(tensor: Array) -> Array:
        if not (np.isin(tensor, (0, 1)).all() and (tensor.sum(1) == 1).all()):
            raise ValueError("every row must hold a single 1 and zeros elsewhere")
        return tensor.argmax(1).reshape(shape).astype(np.int32)

    return Layout((int(np.prod(shape)), outputs), to_torch, from_torch)


def _to_counter(tensor: Array) -> Array:
    if not 0 <= tensor < 2**31:
        raise ValueError(f"the number of batches must be in [0, 2^31), got {tensor}")
    return tensor.astype(np.int32)


def _spread(pattern: Array, members: int) -> Array:
    """Repeat bool [G, n] as float32 [members, n], whose row r is the pattern of group r mod G."""
    return np.tile(pattern, (members // pattern.shape[0], 1)).astype(np.float32)


def _group_pattern(mask: Array, groups: int) -> Array:
    """Reduce 0/1 [members, n] to bool [G, n]; raise ValueError unless all members of a group agree."""
    if not np.isin(mask, (0, 1)).all():
        raise ValueError("a mask must hold zeros and ones only")
    if (_spread(mask[:groups], len(mask)) != mask).any():
        raise ValueError(f"a mask must be the same for all channels of a group (channel modulo {groups})")
    return mask[:groups].astype(bool)


COUNTER = "num_batches_tracked"


@dataclasses.dataclass(frozen=True)
class Slot:
    """One tensor of the state_dict and the variable that holds it here."""

    variable: nnx.Variable
    layout: Layout

    def read(self) -> np.ndarray:
        """Return our value in PyTorch's layout."""
        return np.array(self.layout.to_torch(np.asarray(self.variable[...])), order="C")

    def write(self, tensor: np.ndarray) -> None:
        """Copy a tensor of the right shape into the variable; raise ValueError if its values are invalid."""
        if np.issubdtype(tensor.dtype, np.complexfloating):
            raise ValueError("holds complex numbers")
        check_finite(tensor)
        # A copy, because the caller may go on training the tensor; NumPy's, because JAX compiles a cast for each shape.
        with np.errstate(over="ignore"):  # an overflow becomes infinity, detected below
            array = np.array(self.layout.from_torch(tensor), self.variable.dtype)
        if jnp.issubdtype(array.dtype, jnp.floating) and not np.isfinite(array).all():
            raise ValueError(f"holds values too large for {array.dtype}")
        self.variable.set_value(jax.device_put(array))


NamedSlots = Iterator[tuple[str, Slot]]
"""(key, slot) pairs in the order of the state_dict."""


def check_finite(array: np.ndarray) -> None:
    """Raise ValueError if floating-point values are NaN or infinite."""
    if jnp.issubdtype(array.dtype, jnp.floating) and not np.isfinite(array).all():
        raise ValueError("holds NaN or infinity")


def prefixed(prefix: str, slots: Iterable[tuple[str, Slot]]) -> NamedSlots:
    """Prepend `prefix.` to every key."""
    for name, slot in slots:
        yield f"{prefix}.{name}", slot


def batch_norm(norm: BatchNorm) -> NamedSlots:
    """Yield the slots of a BatchNorm2d."""
    names = {"weight": norm.scale, "bias": norm.bias, "running_mean": norm.mean, "running_var": norm.var}
    for name, variable in names.items():
        yield name, Slot(variable, unchanged(variable.shape))
    yield COUNTER, Slot(norm.batches, batch_counter())


def spatial_kernel(kernel: nnx.Param) -> Slot:
    """Return the slot of a Conv2d's weight."""
    return Slot(kernel, spatial_kernel_layout(kernel.shape))


def linear(module: nnx.Linear | CondensedLinear) -> NamedSlots:
    """Yield the slots of a Linear, with or without bias."""
    yield "weight", Slot(module.kernel, linear_kernel(module.kernel.shape))
    if module.bias is not None:
        yield "bias", Slot(module.bias, unchanged(module.bias.shape))


def in_sequence(convs: Iterable[ConvNorm], start: int = 0) -> NamedSlots:
    """Yield the slots of an `nn.Sequential` of convolutions, BatchNorms and activations, all of which are numbered."""
    number = start
    for conv in convs:
        yield f"{number}.weight", spatial_kernel(conv.conv.kernel)
        yield from prefixed(str(number + 1), batch_norm(conv.norm))
        number += 3 if conv.activation != "linear" else 2


@dataclasses.dataclass(frozen=True)
class MaskSlot(Slot):
    """A mask, which can be recovered where a file lacks it but its kernel is zero wherever there is no connection.

    Attributes:
      conv: the learned convolution.
    """

    conv: MaskedConv

    def recovered(self, kernel: np.ndarray) -> np.ndarray | None:
        """Return the mask in PyTorch's layout that a kernel [out, in, 1, 1] with whole connections of zeros implies.

        None unless every group lost the same number of connections, that of one or more stages.
        """
        choices, groups = self.conv.mask.shape[1], self.conv.groups
        matrix = kernel[:, :, 0, 0] if isinstance(self.conv, LearnedGroupConv) else kernel[:, :, 0, 0].T
        pattern = (matrix.reshape(-1, groups, choices) != 0).any(0)
        lost = choices - pattern.sum(1)
        if lost[0] == 0 or (lost != lost[0]).any() or lost[0] % self.conv.kept or lost[0] == choices:
            return None
        return self.layout.to_torch(pattern)


@dataclasses.dataclass(frozen=True)
class Bookkeeping(Slot):
    """`_stage` or `_count`, which the official code stores next to the mask; here they are computed from the mask.

    Attributes:
      conv: the learned convolution.
      per_stage: increment per stage (1 for `_stage`, n / C for `_count`).
    """

    conv: MaskedConv
    per_stage: int

    def read(self) -> np.ndarray:
        stage = int(stage_of(self.conv.mask[...], self.conv.condensation_factor))
        return np.full(1, stage * self.per_stage, np.float32)

    def write(self, tensor: np.ndarray) -> None:
        # Not stored: runs of fewer than about 2,000 steps leave values here that contradict the mask.
        check_finite(tensor)


def learned(conv: MaskedConv | CondensedGroupConv | CondensedReactivation) -> NamedSlots:
    """Yield the slots of a learned convolution in the official code: `LearnedGroupConv`, `SFR` or a converted form."""
    shape = conv.kernel.shape
    if isinstance(conv, MaskedConv):
        mask_layout = lgc_mask if isinstance(conv, LearnedGroupConv) else sfr_mask
        scalar = unchanged((1,))
        inputs, outputs = shape
        yield "_count", Bookkeeping(conv.mask, scalar, conv, per_stage=conv.kept)
        yield "_stage", Bookkeeping(conv.mask, scalar, conv, per_stage=1)
        yield "_mask", MaskSlot(conv.mask, mask_layout(conv.groups, inputs, outputs), conv)
        kernel_layout = pointwise_kernel(shape)
    elif isinstance(conv, CondensedGroupConv):
        yield "index", Slot(conv.index, input_index(conv.index.shape, conv.in_channels))
        kernel_layout = condensed_lgc_kernel(shape)
    else:
        yield "index", Slot(conv.index, output_index(conv.index.shape, conv.out_channels))
        kernel_layout = condensed_sfr_kernel(shape)
    if conv.norm is None:
        raise ValueError("files have a normalisation for each group: see with_gathered_norms")
    yield from prefixed("norm", batch_norm(conv.norm))
    yield "conv.weight", Slot(conv.kernel, kernel_layout)


def squeeze_excite(se: SqueezeExcite) -> NamedSlots:
    """Yield the slots of squeeze-and-excitation in the official code."""
    yield from prefixed("fc.0", linear(se.squeeze))
    yield from prefixed("fc.2", linear(se.excite))


def classifier(classifier: nnx.Linear | CondensedLinear) -> NamedSlots:
    """Yield the slots of the official classifier, full or halved."""
    if isinstance(classifier, CondensedLinear):
        yield "index", Slot(classifier.index, input_index(classifier.index.shape, classifier.in_features))
        yield from prefixed("linear", linear(classifier))
    else:
        yield from linear(classifier)
