"""Which tensor of a state_dict lies in which of our variables: the pieces that all networks' maps are made of."""

import dataclasses
from collections.abc import Iterable, Iterator

import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdnv2_jax.layers.batch_norm import BatchNorm
from cdnv2_jax.layers.condensed import CondensedLinear
from cdnv2_jax.torch_io import layouts
from cdnv2_jax.torch_io.layouts import Layout

COUNTER = "num_batches_tracked"


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


NamedSlots = Iterator[tuple[str, Slot]]
"""(key, slot) in the order of the state_dict."""


def check_finite(array: np.ndarray) -> None:
    """ValueError when floating-point values are NaN or infinite."""
    if jnp.issubdtype(array.dtype, jnp.floating) and not np.isfinite(array).all():
        raise ValueError("holds NaN or infinity")


def prefixed(prefix: str, slots: Iterable[tuple[str, Slot]]) -> NamedSlots:
    """The same with `prefix.` before every key."""
    for name, slot in slots:
        yield f"{prefix}.{name}", slot


def batch_norm(norm: BatchNorm) -> NamedSlots:
    """Of a BatchNorm2d."""
    names = {"weight": norm.scale, "bias": norm.bias, "running_mean": norm.mean, "running_var": norm.var}
    for name, variable in names.items():
        yield name, Slot(variable, layouts.unchanged(variable.shape))
    yield COUNTER, Slot(norm.batches, layouts.batch_counter())


def spatial_kernel(kernel: nnx.Param) -> Slot:
    """Of a Conv2d's weight."""
    return Slot(kernel, layouts.spatial_kernel(kernel.shape))


def linear(module: nnx.Linear | CondensedLinear) -> NamedSlots:
    """Of a Linear, with or without bias."""
    yield "weight", Slot(module.kernel, layouts.linear_kernel(module.kernel.shape))
    if module.bias is not None:
        yield "bias", Slot(module.bias, layouts.unchanged(module.bias.shape))
