"""The two activations of CondenseNetV2, by name."""

from collections.abc import Callable
from typing import Literal

import jax

ActivationName = Literal["relu", "hard_swish"]


def activation_function(name: ActivationName) -> Callable[[jax.Array], jax.Array]:
    """The elementwise function called `name`: max(x, 0), or x * min(max(x + 3, 0), 6) / 6 (paper section 4.1)."""
    return {"relu": jax.nn.relu, "hard_swish": jax.nn.hard_swish}[name]
