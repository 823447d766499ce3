"""Small networks with random weights, masks and statistics, in every form, and ways to run them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.lowering import override
from cdnv2_jax.layers.norm import BatchNorm
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.network import Network
from cdnv2_jax.pruning.condense import condense
from cdnv2_jax.pruning.prune import prune
from tests.layers.random_norm import draw_norm

V2 = CondenseNetArchitecture(
    stages=(2, 1, 2),
    growth=(4, 8, 8),
    num_classes=5,
    lgc_groups=4,
    lgc_factor=2,
    conv_groups=2,
    sfr_groups=2,
    sfr_factor=4,
    hard_swish_from=1,
    squeeze_excite_from=2,
    head_width=12,
    head_reduction=4,
    stem_stride=1,
)
"""Every part of a CondenseNetV2, C ≠ G in both kinds."""


def random_architecture(seed: int) -> CondenseNetArchitecture:
    """One of a few thousand; with and without SFR, SE and hard-swish."""
    random = np.random.default_rng(seed)

    def pick(*choices: Any) -> Any:
        return choices[random.integers(len(choices))]

    while True:
        blocks = pick(1, 2, 3)
        reactivation = pick(True, True, False)
        try:
            return CondenseNetArchitecture(
                stages=tuple(pick(1, 2, 3) for _ in range(blocks)),
                growth=tuple(pick(3, 4, 6, 8, 12, 16, 24) for _ in range(blocks)),
                num_classes=3,
                lgc_groups=pick(1, 2, 3, 6, 8),
                lgc_factor=pick(1, 2, 3, 4, 6, 8),
                conv_groups=pick(1, 2, 3, 6, 8),
                sfr_groups=pick(1, 2, 3, 6, 8) if reactivation else None,
                sfr_factor=pick(1, 2, 3, 4, 6, 8) if reactivation else None,
                bottleneck=pick(1, 2, 4),
                hard_swish_from=pick(None, 0, 1),
                squeeze_excite_from=pick(None, 0, 1),
                head_width=pick(None, 7),
                head_reduction=2,
                stem_stride=pick(1, 2),
            )
        except UserError:  # numbers that do not divide
            continue


def masked_network(architecture: CondenseNetArchitecture, seed: int = 0, *, stages: int | None = None) -> CondenseNet:
    """Pruned by so many stages (None: by all), in evaluation mode, float32; BatchNorms that leave nothing as it is."""
    model = CondenseNet(architecture, name="small", rngs=nnx.Rngs(seed))
    model.eval()
    random = np.random.default_rng(seed)
    for _, norm in nnx.iter_modules(model):
        if isinstance(norm, BatchNorm):
            draw_norm(norm, random)
    prune(model, architecture.condensation_stages if stages is None else stages)
    return model


def condensed_network(architecture: CondenseNetArchitecture = V2, seed: int = 0) -> CondenseNet:
    """`masked_network`, condensed."""
    return condense(masked_network(architecture, seed))


def random_images(*shape: int, seed: int = 0) -> jax.Array:
    """float32, standard normal, [*shape, 3]."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=(*shape, 3)), jnp.float32)


def run(model: Network, images: jax.Array, **lowerings: str) -> np.ndarray:
    """The logits, compiled under an override."""
    return np.asarray(run_with(model, lambda model, images: model(images), images, **lowerings))


def run_with(model: Network, function: Callable[..., Any], *inputs: Any, **lowerings: str) -> Any:
    """`function(model, *inputs)`, compiled under an override."""
    graph, state = nnx.split(model)
    with override(**lowerings):
        return jax.jit(lambda state, *inputs: function(nnx.merge(graph, state), *inputs))(state, *inputs)


def program(model: Network, images: jax.Array) -> str:
    """The lowered program of the forward pass, as text."""
    graph, state = nnx.split(model)
    return jax.jit(lambda state, images: nnx.merge(graph, state)(images)).lower(state, images).as_text()
