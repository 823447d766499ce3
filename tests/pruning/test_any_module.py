"""`prune` and `condense` find learned convolutions wherever they sit, in modules that know nothing of this package."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cdnv2_jax import condense, prune
from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.condensed import CondensedGroupConv, CondensedReactivation
from cdnv2_jax.layers.learned import LearnedGroupConv, SparseFeatureReactivation, masked_convs
from cdnv2_jax.pruning.prune import sparsity, stages_passed
from tests.tables import table


def learned(kind: type[LearnedGroupConv] | type[SparseFeatureReactivation], seed: int) -> nnx.Module:
    return kind(16, 16, groups=4, condensation_factor=4, activation="relu", rngs=nnx.Rngs(seed))


class Listed(nnx.Module):
    """Layers in a list, one of them within a dict, beside what does not learn connections."""

    def __init__(self):
        self.layers = nnx.List([learned(LearnedGroupConv, 0), nnx.BatchNorm(16, rngs=nnx.Rngs(1))])
        self.named = nnx.Dict({"deep": nnx.Dict({"layer": learned(SparseFeatureReactivation, 2)})})

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in (*self.layers, self.named["deep"]["layer"]):
            x = layer(x)
        return x


MODULES: dict[str, Callable[[], nnx.Module]] = {
    "a layer in nnx.Sequential": lambda: nnx.Sequential(learned(LearnedGroupConv, 3)),
    "both kinds in lists and dicts": Listed,
    "modules in modules": lambda: nnx.Sequential(Listed(), nnx.Sequential(Listed())),
}


@table("make", MODULES)
def test_same_outputs(make: Callable[[], Any]) -> None:
    model = make()
    model.eval()
    x = jax.random.normal(jax.random.key(0), (2, 5, 5, 16))
    for stage in (1, 2, 3):
        prune(model, stage)
        assert stages_passed(model) == stage
        np.testing.assert_allclose(sparsity(model), stage / 4)
    before = nnx.state(model)
    small = condense(model)
    kinds = [type(part) for _, part in nnx.iter_modules(small)]
    kept = sum(kinds.count(kind) for kind in (CondensedGroupConv, CondensedReactivation))
    assert (kept, masked_convs(small)) == (len(masked_convs(model)), [])
    np.testing.assert_allclose(small(x), model(x), rtol=1e-5, atol=1e-5)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, before, nnx.state(model)))


def test_refusals() -> None:
    with pytest.raises(UserError, match="layers/0: group 0 has 16 connections instead of 4"):
        condense(Listed())
    with pytest.raises(UserError, match="nothing to condense"):
        condense(nnx.Sequential(nnx.Linear(2, 2, rngs=nnx.Rngs(0))))
