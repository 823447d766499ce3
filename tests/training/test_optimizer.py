"""The optimizers, their schedule and the loss against PyTorch and closed forms."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from cdnv2_jax.classification.experiment import smoothed_cross_entropy
from cdnv2_jax.training.config import OptimizerConfig
from cdnv2_jax.training.optimizer import learning_rate_schedule, make_optimizer


@pytest.mark.parametrize("decay_vectors", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_equals_torch(x64: None, nesterov: bool, decay_vectors: bool):
    theirs = partial(torch.optim.SGD, momentum=0.9, nesterov=nesterov)
    config = OptimizerConfig(learning_rate=0.3, nesterov=nesterov, weight_decay=0.1, decay_vectors=decay_vectors)
    assert_same_steps(config, theirs, rtol=1e-12)


@pytest.mark.parametrize("decay_vectors", [False, True])
def test_adamw_equals_torch(x64: None, decay_vectors: bool):
    config = OptimizerConfig(learning_rate=0.3, name="adamw", weight_decay=0.1, decay_vectors=decay_vectors)
    assert_same_steps(config, torch.optim.AdamW, rtol=1e-10)


def assert_same_steps(config: OptimizerConfig, optimizer: Callable[..., torch.optim.Optimizer], rtol: float) -> None:
    """Six steps of a matrix and a vector, with random gradients."""
    rng = np.random.default_rng(0)
    matrix, vector = rng.normal(size=(3, 4)), rng.normal(size=5)
    gradients = [(rng.normal(size=(3, 4)), rng.normal(size=5)) for _ in range(6)]
    params = [torch.nn.Parameter(torch.tensor(array)) for array in (matrix, vector)]
    groups = [
        {"params": params[:1], "weight_decay": config.weight_decay},
        {"params": params[1:], "weight_decay": config.weight_decay if config.decay_vectors else 0.0},
    ]
    theirs = optimizer(groups, lr=config.learning_rate)
    ours = make_optimizer(config, optax.constant_schedule(config.learning_rate))
    values: Any = {"matrix": jnp.asarray(matrix), "vector": jnp.asarray(vector)}
    state = ours.init(values)
    for gradient in gradients:
        for parameter, array in zip(params, gradient, strict=True):
            parameter.grad = torch.tensor(array)
        theirs.step()
        updates, state = ours.update(dict(zip(values, map(jnp.asarray, gradient), strict=True)), state, values)
        values = optax.apply_updates(values, updates)
        for array, parameter in zip(values.values(), params, strict=True):
            np.testing.assert_allclose(array, parameter.detach().numpy(), rtol=rtol)


def test_clipping(x64: None) -> None:
    """A gradient of norm 5 is shortened to 2.5, one of norm 1 left alone; by a step of plain SGD."""
    config = OptimizerConfig(learning_rate=1.0, momentum=0.0, nesterov=False, clip_norm=2.5)
    optimizer = make_optimizer(config, lambda step: 1.0)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    for gradient, update in (((3.0, 4.0), (-1.5, -2.0)), ((0.6, 0.8), (-0.6, -0.8))):
        given = {name: jnp.array([value]) for name, value in zip("ab", gradient, strict=True)}
        updates, _ = optimizer.update(given, optimizer.init(params), params)
        np.testing.assert_allclose(jnp.concatenate(jax.tree.leaves(updates)), update, rtol=1e-12)


WARM: Any = {"learning_rate": 0.4, "warmup_from": 0.1, "warmup_steps": 2}


@pytest.mark.parametrize(
    ("config", "epochs", "batch_size", "table"),
    [
        # Two of ten epochs warm up from 0.1 to 0.4, then half a cosine.
        (
            OptimizerConfig(learning_rate=0.4, warmup_from=0.1, warmup_epochs=2),
            10,
            0,
            {
                **{0: 0.1, 4: 0.25, 7: 0.1 + 0.3 * 7 / 8, 8: 0.4, 24: 0.2, 40: 0.0},
                39: 0.2 * (1 + math.cos(math.pi * 31 / 32)),
            },
        ),
        # A tenth after each of the first two epochs, after a warm-up of 2 steps from a thousandth.
        (
            OptimizerConfig(learning_rate=0.02, warmup_from=2e-5, warmup_steps=2, decay_epochs=(1, 2)),
            3,
            0,
            {0: 2e-5, 1: 0.01001, 2: 0.02, 3: 0.02, 4: 0.002, 7: 0.002, 8: 0.0002, 11: 0.0002},
        ),
        # Without a warm-up.
        (OptimizerConfig(learning_rate=0.5), 2, 0, {0: 0.5, 4: 0.25}),
        # Both rates in proportion to the batch; without a reference, or without a batch, as they are.
        (
            OptimizerConfig(**WARM, reference_batch=1024),
            2,
            256,
            {0: 0.025, 2: 0.1},
        ),
        (OptimizerConfig(learning_rate=0.4, warmup_from=0.1, warmup_steps=2), 2, 256, {0: 0.1, 2: 0.4}),
        (
            OptimizerConfig(learning_rate=0.4, warmup_from=0.1, warmup_steps=2, reference_batch=1024),
            2,
            0,
            {0: 0.1, 2: 0.4},
        ),
    ],
)
def test_schedule(config: OptimizerConfig, epochs: int, batch_size: int, table: dict[int, float], x64: None) -> None:
    """Step → learning rate, by hand; epochs of 4 steps."""
    schedule = learning_rate_schedule(config, 4 * epochs, 4, batch_size)
    for step, rate in table.items():
        assert float(jnp.asarray(schedule(step))) == pytest.approx(rate, rel=1e-12, abs=1e-15), step


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_equals_torch(x64: None, smoothing: float):
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(7, 5)) * 10, rng.integers(0, 5, size=7)
    theirs = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels), label_smoothing=smoothing)
    ours = smoothed_cross_entropy(jnp.asarray(logits), jnp.asarray(labels), smoothing)
    assert float(ours) == pytest.approx(theirs.item(), rel=1e-13)


def test_loss_of_low_precision_logits_is_float32():
    loss = smoothed_cross_entropy(jnp.zeros((2, 3), jnp.bfloat16), jnp.array([0, 1]), 0.0)
    assert loss.dtype == jnp.float32
    assert float(loss) == pytest.approx(math.log(3), rel=1e-6)
    assert bool(
        jnp.isfinite(jax.grad(lambda x: smoothed_cross_entropy(x, jnp.array([0]), 0.1))(jnp.zeros((1, 3)))).all()
    )
