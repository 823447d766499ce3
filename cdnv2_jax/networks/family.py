"""The families of networks: which architecture makes which network."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.networks.condensenet.architecture import Architecture
from cdnv2_jax.networks.condensenet.dense_layer import Form
from cdnv2_jax.networks.condensenet.network import CondenseNet, abstract_network
from cdnv2_jax.networks.mobilenet_v2 import MobileNetV2, MobileNetV2Architecture
from cdnv2_jax.networks.shufflenet_v2 import ShuffleNetV2, ShuffleNetV2Architecture

FAMILIES: dict[str, type[Any]] = {
    "condensenet": Architecture,
    "shufflenet_v2": ShuffleNetV2Architecture,
    "mobilenet_v2": MobileNetV2Architecture,
}
"""Family → the class of its architectures."""

# Of whichever family. Which one a name stands for is known when it is looked up, not to type checkers; `Any` spares
# the many who ask for a CondenseNet by its name the proof that they got one.
AnyArchitecture = Architecture | Any
AnyNetwork = CondenseNet | Any


def family_of(architecture: AnyArchitecture) -> str:
    """The family that an architecture describes a network of."""
    return next(family for family, kind in FAMILIES.items() if isinstance(architecture, kind))


def build_network(
    architecture: AnyArchitecture,
    form: Form | None = None,
    *,
    name: str,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    rngs: nnx.Rngs,
) -> AnyNetwork:
    """The network (a `Network`) of an architecture, with fresh weights.

    Args:
      architecture: of any family. form: of a CondenseNet; None for the usual one.
      name: what it goes by. dtype, param_dtype, rngs: as for `create_model`.
    """
    types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
    if isinstance(architecture, Architecture):
        return CondenseNet(architecture, form, name=name, **types)
    if form not in (None, Form()):
        raise ValueError(f"{name} has one form only, not {form}")
    network = {ShuffleNetV2Architecture: ShuffleNetV2, MobileNetV2Architecture: MobileNetV2}[type(architecture)]
    return network(architecture, name=name, **types)


def blank_network(
    architecture: AnyArchitecture,
    form: Form,
    *,
    name: str,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
) -> AnyNetwork:
    """A network in evaluation mode whose variables have shapes but no values yet: to be filled in."""
    types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype}
    if isinstance(architecture, Architecture):
        return abstract_network(architecture, form, name=name, **types)
    model = nnx.eval_shape(lambda: build_network(architecture, form, name=name, rngs=nnx.Rngs(0), **types))
    model.eval()
    return model
