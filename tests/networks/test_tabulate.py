"""`nnx.tabulate`, which compiles every public method it meets, works on all families and leaves them as they were."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cdnv2_jax import condense, create_model, prune
from cdnv2_jax.layers.lowering import override
from cdnv2_jax.networks.network import Network
from tests.plain_models import SMALL_MOBILENET, SMALL_SHUFFLENET

LAYERS = {"condensed_block": "layers", "masked_block": "layers", "training_block": "layers"}


def condensed() -> Network:
    model = create_model("cdnv2_cifar_110", rngs=nnx.Rngs(0), stages=(1, 1, 1))
    prune(model, model.condensation_stages)
    return condense(model)


SIZES: dict[str, dict[str, Any]] = {
    "cdnv2_cifar_110": {"stages": (1, 1, 1)},
    "shufflenet_v2_x0_5": vars(SMALL_SHUFFLENET),
    "mobilenet_v2_x1_0": vars(SMALL_MOBILENET),
}


@pytest.mark.parametrize("name", [*SIZES, "condensed"])
def test_tabulate(name: str) -> None:
    model = condensed() if name == "condensed" else create_model(name, rngs=nnx.Rngs(0), **SIZES[name])
    model.eval()
    images = jnp.ones((2, 32, 32, 3))
    before = nnx.jit(model)(images)
    with override(**LAYERS):
        table = nnx.tabulate(model, images, console_kwargs={"width": 200})
    for row in ("classifier", "stem"):
        assert row in table
    assert f"{2},{model.architecture.num_classes}" in table
    np.testing.assert_array_equal(nnx.jit(model)(images), before)
