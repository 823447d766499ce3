"""bfloat16 computation with float32 parameters, and float32 against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cdnv2_jax.networks.network import Network
from cdnv2_jax.networks.zoo import create_model
from tests.torch_twin import CondenseNetTwin
from tests.twin_models import SMALL_V2, assert_near, derivatives, forward, jax_model, nhwc, random_images, random_twin

pytestmark = pytest.mark.usefixtures("x64")

SMALL = SMALL_V2.override({"stages": (1,), "growth": (8,), "hard_swish_from": 0, "squeeze_excite_from": 0})
IMAGES = nhwc(random_images(4, 24, 24)).astype(np.float32)


@pytest.fixture(scope="module")
def twin() -> CondenseNetTwin:
    return random_twin(SMALL)


def dtypes(model: Network, kind: type[nnx.Variable]) -> set[jnp.dtype]:
    """Of the variables of one kind, counters left out."""
    leaves = jax.tree.leaves(nnx.state(model, kind))
    return {leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)}


def test_float32(twin: CondenseNetTwin) -> None:
    model = jax_model(twin, SMALL, param_dtype=jnp.float32)
    # Accelerators multiply float32 numbers with fewer bits unless told otherwise.
    with jax.default_matmul_precision("highest"):
        logits = forward(model, IMAGES)
    assert logits.dtype == jnp.float32
    assert_near(logits, forward(jax_model(twin, SMALL), IMAGES), 1e-5)


def test_bfloat16(twin: CondenseNetTwin) -> None:
    half = jax_model(twin, SMALL, dtype=jnp.bfloat16, param_dtype=jnp.float32)
    logits = forward(half, IMAGES)
    assert logits.dtype == jnp.bfloat16
    assert_near(logits.astype(jnp.float32), forward(jax_model(twin, SMALL), IMAGES), 0.03)


def test_bfloat16_training(twin: CondenseNetTwin) -> None:
    """Parameters, their gradients and the statistics stay float32, and near what float32 computes."""
    half = jax_model(twin, SMALL, dtype=jnp.bfloat16, param_dtype=jnp.float32)
    full = jax_model(twin, SMALL, param_dtype=jnp.float32)
    half.train()
    full.train()
    weights = np.ones((len(IMAGES), SMALL.num_classes), np.float32)
    found, expected = derivatives(half, IMAGES, weights), derivatives(full, IMAGES, weights)
    for model in (half, found.parameters, found.stepped):
        assert dtypes(model, nnx.Param) == dtypes(model, nnx.BatchStat) == {jnp.dtype(jnp.float32)}
    for kind, model, exact in [
        (nnx.Param, found.parameters, expected.parameters),
        (nnx.BatchStat, found.stepped, expected.stepped),
    ]:
        ours, theirs = flat(model, kind), flat(exact, kind)
        assert np.linalg.norm(ours - theirs) < 0.05 * np.linalg.norm(theirs)


def flat(model: Network, kind: type[nnx.Variable]) -> np.ndarray:
    """All variables of a kind, one after another."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(nnx.state(model, kind))])


def test_create_model_takes_both_dtypes() -> None:
    small = {"stages": (1,), "growth": (8,), "hard_swish_from": None, "squeeze_excite_from": 0}
    model = create_model("cdnv2_a", rngs=nnx.Rngs(0), dtype=jnp.bfloat16, param_dtype=jnp.float16, **small)
    assert dtypes(model, nnx.Param) == {jnp.dtype(jnp.float16)}
    model.eval()
    assert nnx.eval_shape(model, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)).dtype == jnp.bfloat16
