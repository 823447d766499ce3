"""RGB networks adapted to images of other channels, such as grey, near infrared or several spectral bands."""

from typing import Any

import jax
import numpy as np
from flax import nnx

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.condensed import share_norms, with_gathered_norms
from cdnv2_jax.networks.family import blank_network, family_of
from cdnv2_jax.networks.network import RGB, Network


def for_channels(network: Network, in_channels: int) -> Network:
    """Return an RGB network for images of other channels, its first kernel adapted as in timm.

    For one channel, the kernels of red, green and blue are added up. For n channels they are repeated, red, green,
    blue, red, …, and multiplied by 3 / n. Everything else stays the same, the usage included: its preprocessing is for
    RGB images, and is to be replaced.

    Args:
      network: any network in evaluation mode; one that reads so many channels already is returned as it is.
      in_channels: channels of the images.

    Raises:
      UserError: the network is for other images than RGB, or its family ignores `in_channels`.
    """
    known = network.architecture.in_channels
    if known == in_channels:
        return network
    if known != RGB:
        raise UserError(
            f"this {network.name} is for images of {known} channels: only RGB networks can be adapted to {in_channels}"
        )
    architecture = network.architecture.override({"in_channels": in_channels})
    types: dict[str, Any] = {"dtype": network.dtype, "param_dtype": network.param_dtype}
    adapted = blank_network(architecture, network.form, name=network.name, **types)
    state = nnx.state(adapted)
    pairs = list(zip(nnx.to_flat_state(state), nnx.to_flat_state(nnx.state(with_gathered_norms(network))), strict=True))
    if all(new.shape == old.shape for (_, new), (_, old) in pairs):
        raise UserError(f"networks of the family {family_of(architecture).name!r} do not depend on in_channels")
    for (_, new), (_, old) in pairs:
        value = old.get_value()
        new.set_value(value if new.shape == old.shape else jax.device_put(adapted_kernel(value, in_channels)))
    nnx.update(adapted, state)
    share_norms(adapted)
    adapted.usage, adapted.remat = network.usage, network.remat
    return adapted


def adapted_kernel(kernel: jax.typing.ArrayLike, channels: int) -> np.ndarray:
    """Adapt a kernel that reads RGB images, [h, w, 3, out] → [h, w, channels, out]; see `for_channels`."""
    values = np.asarray(kernel)
    if channels == 1:
        return values.sum(2, keepdims=True)
    return (values[:, :, np.arange(channels) % RGB] * (RGB / channels)).astype(values.dtype)


def refuse_other_than_rgb(network: Network, source: str) -> None:
    """Raise UserError for a network that cannot read the commands' images, which are RGB."""
    if (channels := network.architecture.in_channels) != RGB:
        raise UserError(
            f"{source} is for images of {channels} channels, and image files are read as RGB: use it from Python"
        )
