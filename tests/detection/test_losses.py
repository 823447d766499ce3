"""Elementwise losses and their gradients against PyTorch's, far from zero too."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F

from cdnv2_jax.detectors.losses import focal_loss, sigmoid_cross_entropy, softmax_cross_entropy, sum_where
from cdnv2_jax.detectors.ops.boxes import at_least_float32
from tests.tables import table

LOGITS = np.array([-300, -30, -4.6, -1, 0, 1, 2.5, 40, 300], np.float32)


def focal_by_torch(logits: torch.Tensor, targets: torch.Tensor, alpha: float, gamma: float) -> torch.Tensor:
    """As its authors write it: by probabilities and the cross-entropy."""
    p = logits.sigmoid()
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    return alpha_t * (1 - p_t) ** gamma * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


@table("target", [False, True])
def test_sigmoid_cross_entropy(target: bool) -> None:
    logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    expected = F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target), reduction="none")
    (gradient,) = torch.autograd.grad(expected.sum(), logits)
    targets = jnp.full(LOGITS.shape, target)
    found = jax.grad(lambda x: sigmoid_cross_entropy(x, targets).sum())(jnp.asarray(LOGITS))
    np.testing.assert_allclose(sigmoid_cross_entropy(jnp.asarray(LOGITS), targets), expected.detach(), 1e-5, 1e-12)
    np.testing.assert_allclose(found, gradient, 1e-5, 1e-12)


@table("alpha, gamma", [(0.25, 2.0), (0.4, 1.0), (0.5, 0.0), (0.25, 3.5)])
@table("target", [False, True])
def test_focal_loss(target: bool, alpha: float, gamma: float) -> None:
    logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    expected = focal_by_torch(logits, torch.full_like(logits, target), alpha, gamma)
    (gradient,) = torch.autograd.grad(expected.sum(), logits)
    targets = jnp.full(LOGITS.shape, target)

    def ours(x: jax.Array) -> jax.Array:
        return focal_loss(x, targets, alpha=alpha, gamma=gamma)

    np.testing.assert_allclose(ours(jnp.asarray(LOGITS)), expected.detach(), 1e-5, 1e-12)
    np.testing.assert_allclose(jax.grad(lambda x: ours(x).sum())(jnp.asarray(LOGITS)), gradient, 1e-4, 1e-12)


def test_focal_loss_below_one_has_finite_gradients() -> None:
    gradient = jax.grad(lambda x: focal_loss(x, jnp.ones(9, bool), alpha=0.25, gamma=0.5).sum())(jnp.asarray(LOGITS))
    assert np.isfinite(gradient).all()


def test_softmax_cross_entropy() -> None:
    random = np.random.default_rng(0)
    logits, labels = random.normal(0, 30, (2, 5, 4)).astype(np.float32), random.integers(0, 4, (2, 5))
    expected = F.cross_entropy(torch.from_numpy(logits).movedim(-1, 1), torch.from_numpy(labels), reduction="none")
    found = softmax_cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    np.testing.assert_allclose(found, expected, 1e-5, 1e-5)


def test_sum_where_passes_over_what_is_not_finite() -> None:
    mask = jnp.asarray([True, False])
    assert sum_where(mask, jnp.asarray([[1.0, 2.0], [jnp.nan, jnp.inf]])) == 3
    assert sum_where(mask, jnp.asarray([5.0, jnp.nan])) == 5


@table("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_losses_are_in_float32(dtype: jax.typing.DTypeLike) -> None:
    assert at_least_float32(jnp.ones(2, dtype)).dtype == jnp.float32
