"""Rematerialisation changes what the forward pass keeps for the backward pass, not what comes out.

What is kept is looked at in JAX's own account of it: XLA on a CPU merges the second computation with the first.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdnv2_jax import create_model
from cdnv2_jax.layers.lowering import override


def kept_and_gradient(remat: bool) -> tuple[int, list[jax.Array]]:
    """Bytes that the forward pass keeps, and the gradient and new statistics of a step."""
    model = create_model("cdnv2_cifar_110", rngs=nnx.Rngs(0), stages=(2, 2), growth=(8, 8))
    model.remat = remat
    model.train()
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16, 16, 3)), jnp.float32)

    def loss(parameters: nnx.State):
        merged = nnx.merge(graph, parameters, rest, copy=True)
        return jnp.square(merged(images)).sum(), nnx.state(merged, nnx.BatchStat)

    @jax.jit
    def forward(parameters: nnx.State):
        return jax.vjp(loss, parameters, has_aux=True)

    with override(training_block="layers"):
        value, pull, statistics = forward(parameters)
        gradient = jax.jit(lambda pull, value: pull(jnp.ones_like(value)))(pull, value)
    return sum(a.nbytes for a in jax.tree.leaves(pull)), jax.tree.leaves((gradient, statistics))


def test_less_is_kept_and_the_step_is_the_same() -> None:
    (kept, plain), (less, again) = kept_and_gradient(False), kept_and_gradient(True)
    assert less < kept / 2
    for ours, theirs in zip(plain, again, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
