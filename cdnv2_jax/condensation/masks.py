"""Importance → mask: which connections a stage removes, as pure functions on arrays."""

import jax
import jax.numpy as jnp

LASSO_FLOOR = 1e-6


def importance(connection_weights: jax.Array) -> jax.Array:
    """[G, n, m] → [G, n]: the sum of absolute weights of every connection (CondenseNet, section 3.1)."""
    return jnp.abs(connection_weights).sum(-1)


def remove_connections(importances: jax.Array, mask: jax.Array, removed: jax.Array | int) -> jax.Array:
    """The mask after each group has lost its `removed` least important connections, counted from the full network.

    Connections removed earlier stay removed and count as the least important; among equals the first channel goes
    first. A group that has already lost more than `removed` keeps what it has.

    Args:
      importances: [G, n], non-negative.
      mask: boolean [G, n], the connections that exist now.
      removed: how many of the n connections each group is to be without; may be traced.
    """
    order = jnp.argsort(jnp.where(mask, importances, -1), axis=-1, stable=True)
    rank = jnp.argsort(order, axis=-1)
    return mask & (rank >= removed)


def stage_of(mask: jax.Array, condensation_factor: int) -> jax.Array:
    """The stage a mask [G, n] has passed: how many times n / C connections every group has lost (int32)."""
    share = mask.shape[-1] // condensation_factor
    lost = (~mask).sum(-1).min()
    return (lost // share).astype(jnp.int32)


def group_lasso(connection_weights: jax.Array, mask: jax.Array) -> jax.Array:
    """Σ over existing connections of √max(Σ weights², 1e-6), a scalar; removed ones add only the constant floor.

    The floor keeps the square root's gradient finite at zero (official CondenseNet code).
    """
    squares = jnp.square(connection_weights * mask[..., None]).sum(-1)
    return jnp.sqrt(jnp.maximum(squares, LASSO_FLOOR)).sum()
