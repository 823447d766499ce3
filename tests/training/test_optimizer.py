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
    config = OptimizerConfig(0.3, nesterov=nesterov, weight_decay=0.1, decay_vectors=decay_vectors)
    assert_same_steps(config, theirs, rtol=1e-12)


@pytest.mark.parametrize("decay_vectors", [False, True])
def test_adamw_equals_torch(x64: None, decay_vectors: bool):
    config = OptimizerConfig(0.3, name="adamw", weight_decay=0.1, decay_vectors=decay_vectors)
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


def rate_at(schedule: optax.Schedule, step: int) -> float:
    return float(jnp.asarray(schedule(step)))


def test_schedule_table(x64: None):
    """Ten epochs of 4 steps, the first two of them warming up from 0.1 to 0.4."""
    config = OptimizerConfig(learning_rate=0.4, warmup_from=0.1, warmup_epochs=2)
    schedule = learning_rate_schedule(config, total_steps=40, steps_per_epoch=4)
    table = {
        0: 0.1,
        4: 0.25,
        7: 0.1 + 0.3 * 7 / 8,
        8: 0.4,
        24: 0.2,
        39: 0.2 * (1 + math.cos(math.pi * 31 / 32)),
        40: 0.0,
    }
    for step, rate in table.items():
        assert rate_at(schedule, step) == pytest.approx(rate, abs=1e-15), step


def test_schedule_by_steps(x64: None):
    """Three epochs of 4 steps, a tenth after each of the first two; a warm-up of 2 steps from a thousandth on."""
    config = OptimizerConfig(learning_rate=0.02, warmup_from=2e-5, warmup_steps=2, decay_epochs=(1, 2))
    schedule = learning_rate_schedule(config, total_steps=12, steps_per_epoch=4)
    table = {0: 2e-5, 1: 0.01001, 2: 0.02, 3: 0.02, 4: 0.002, 7: 0.002, 8: 0.0002, 11: 0.0002}
    for step, rate in table.items():
        assert rate_at(schedule, step) == pytest.approx(rate, rel=1e-12), step


@pytest.mark.parametrize(
    ("reference", "batch_size", "rates"),
    [(1024, 256, (0.025, 0.1)), (0, 256, (0.1, 0.4)), (1024, 0, (0.1, 0.4))],
)
def test_rates_are_scaled_with_the_batch(
    x64: None, reference: int, batch_size: int, rates: tuple[float, float]
) -> None:
    """Both of them, in proportion; without a reference, or without a batch, they are as they are."""
    config = OptimizerConfig(0.4, warmup_from=0.1, warmup_steps=2, reference_batch=reference)
    schedule = learning_rate_schedule(config, 10, 5, batch_size)
    assert [rate_at(schedule, step) for step in (0, 2)] == pytest.approx(rates, rel=1e-12)


def test_schedule_without_warmup_starts_at_the_top():
    schedule = learning_rate_schedule(OptimizerConfig(learning_rate=0.5), total_steps=10, steps_per_epoch=5)
    assert [rate_at(schedule, step) for step in (0, 5)] == pytest.approx([0.5, 0.25])


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
