"""The training step and the pruning between steps: what changes, what does not, and that nothing is compiled twice."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from cdnv2_jax import create_model
from cdnv2_jax.classification.experiment import classification_loss
from cdnv2_jax.pruning.prune import layer_stage, sparsity, stages_passed
from cdnv2_jax.training.config import OptimizerConfig
from cdnv2_jax.training.optimizer import learning_rate_schedule, make_optimizer
from cdnv2_jax.training.pruning import Pruner
from cdnv2_jax.training.step import TrainState, create_state, ema_model, live_model, make_train_step, moving_average

STEPS = 8


@dataclasses.dataclass
class Setup:
    """A tiny run: factors 4 in LGC, 2 in SFR, so that their stages fall on different steps."""

    graph: nnx.GraphDef
    state: TrainState
    step: Any  # a TrainStep; Any, because the tests look into its compilation cache


def make_setup(*, group_lasso: float = 0.0, **options: Any) -> Setup:
    model = create_model(
        "cdnv2_cifar_110", rngs=nnx.Rngs(0), stages=(1, 1), growth=(4, 4), groups=2, lgc_factor=4, sfr_factor=2
    )
    config = OptimizerConfig(learning_rate=0.05, weight_decay=1e-3)
    optimizer = make_optimizer(config, learning_rate_schedule(config, STEPS, STEPS))
    graph, state = create_state(model, optimizer)
    loss = partial(classification_loss, group_lasso=group_lasso)
    return Setup(graph, state, make_train_step(graph, optimizer, loss, **options))


def batch(seed: int = 0) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    images = jnp.asarray(rng.normal(size=(6, 8, 8, 3)), jnp.float32)
    return {"image": images, "label": jnp.asarray(rng.integers(0, 10, 6))}


def stages(setup: Setup, state: TrainState) -> list[int]:
    """The stage of every learned convolution: LGC, SFR, LGC, SFR."""
    return [int(layer_stage(conv)) for conv in live_model(setup.graph, state).masked_convs()]


def copied(tree):
    return jax.tree.map(jnp.copy, tree)


def test_pruning_never_recompiles():
    setup = make_setup(ema_decay=0.9)
    state, pruner = setup.state, Pruner(setup.graph, setup.state)
    for step in range(STEPS):
        state, _ = pruner(state, step / STEPS)
        state, _ = setup.step(state, batch(step))
    assert stages(setup, state) == [3, 1, 3, 1]
    assert setup.step._cache_size() == 1
    prune_step: Any = pruner._prune_step
    assert prune_step._cache_size() == 1


def test_accumulated_parts_are_batches_of_their_own():
    """Rows j, j + 2, … are normalised by themselves; the loss is the mean of the parts' losses."""
    in_parts, whole, images = make_setup(accumulate=2), make_setup(), batch()
    _, metrics = in_parts.step(in_parts.state, images)
    losses = []
    for part in range(2):
        rows = {name: array[part::2] for name, array in images.items()}
        losses.append(float(whole.step(copied(whole.state), rows)[1]["loss"]))
    assert losses[0] != losses[1]
    assert float(metrics["loss"]) == pytest.approx(sum(losses) / 2, rel=1e-5)


def test_each_layer_follows_its_own_factor():
    setup = make_setup()
    state, pruner = setup.state, Pruner(setup.graph, setup.state)
    seen = []
    for progress in (0.0, 1 / 6, 1 / 3, 0.49, 0.5, 1.0):
        state, _ = pruner(state, progress)
        seen.append(stages(setup, state))
    assert seen == [[0, 0, 0, 0], [1, 0, 1, 0], [2, 0, 2, 0], [2, 0, 2, 0], [3, 1, 3, 1], [3, 1, 3, 1]]


@pytest.mark.parametrize("total_steps", [1, 2, 3, 5])
def test_short_runs_pass_every_stage(total_steps: int):
    """However few steps there are, after the last one everything due has been removed."""
    setup = make_setup()
    state, pruner = setup.state, Pruner(setup.graph, setup.state)
    for step in range(total_steps + 1):
        state, _ = pruner(state, step / total_steps)
    assert stages_passed(live_model(setup.graph, state)) == 3
    model = live_model(setup.graph, state)
    kept = [float(conv.mask[...].mean()) for conv in model.masked_convs()]
    assert kept == [0.25, 0.5, 0.25, 0.5]
    assert 0.5 < float(sparsity(model)) < 0.75


def test_a_resumed_pruner_knows_what_is_done():
    setup = make_setup()
    state, _ = Pruner(setup.graph, setup.state)(setup.state, 0.4)
    resumed = Pruner(setup.graph, state)
    assert resumed.reached == {4: 2, 2: 0}
    _, pruned = resumed(state, 0.45)
    assert not pruned


def test_masked_weights_are_moved_by_decay_alone():
    """No gradient reaches a removed connection, but weight decay and momentum still shrink it."""
    setup = make_setup()
    state, _ = Pruner(setup.graph, setup.state)(setup.state, 0.5)
    conv = next(iter(live_model(setup.graph, state).masked_convs()))
    removed = ~np.asarray(conv.kernel_mask())
    before = np.asarray(conv.kernel[...])
    state, _ = setup.step(state, batch())
    after = np.asarray(next(iter(live_model(setup.graph, state).masked_convs())).kernel[...])
    # Nesterov's first step moves by lr · (1 + momentum) · decay · w.
    np.testing.assert_allclose(after[removed], before[removed] * (1 - 0.05 * 1.9 * 1e-3), rtol=1e-5)
    assert not np.allclose(after[~removed], before[~removed] * (1 - 0.05 * 1.9 * 1e-3), rtol=1e-4)


def test_average_follows_weights_and_statistics_but_not_masks():
    setup = make_setup(ema_decay=0.75)
    state, _ = Pruner(setup.graph, setup.state)(copied(setup.state), 0.5)
    state, _ = setup.step(state, batch())
    live, averaged = live_model(setup.graph, state), ema_model(setup.graph, state)
    start = live_model(setup.graph, setup.state).stem.kernel[...]
    expected = 0.75 * start + 0.25 * live.stem.kernel[...]
    np.testing.assert_allclose(averaged.stem.kernel[...], expected, rtol=1e-6)
    np.testing.assert_allclose(averaged.norm_last.mean[...], 0.25 * live.norm_last.mean[...], rtol=1e-6)
    assert int(averaged.norm_last.batches[...]) == 1
    for ours, theirs in zip(live.masked_convs(), averaged.masked_convs(), strict=True):
        assert np.array_equal(ours.mask[...], theirs.mask[...])


def test_group_lasso_joins_the_gradient_not_the_reported_loss():
    plain, lasso = make_setup(), make_setup(group_lasso=1.0)
    state_plain, metrics_plain = plain.step(plain.state, batch())
    state_lasso, metrics_lasso = lasso.step(lasso.state, batch())
    assert float(metrics_plain["loss"]) == pytest.approx(float(metrics_lasso["loss"]), rel=1e-6)
    kernels = [next(iter(live_model(plain.graph, s).masked_convs())).kernel[...] for s in (state_plain, state_lasso)]
    assert float(jnp.abs(kernels[1]).sum()) < float(jnp.abs(kernels[0]).sum())


def test_a_kept_model_survives_the_next_step():
    """The step donates its state: networks taken from it must own their arrays."""
    setup = make_setup()
    model = live_model(setup.graph, setup.state)
    setup.step(setup.state, batch())
    assert np.isfinite(np.asarray(model(batch()["image"]))).all()


def test_moving_average_copies_counters():
    def state(weight: float, count: int) -> Any:
        return {"w": jnp.array(weight), "n": jnp.int32(count)}

    average: Any = moving_average(state(1.0, 1), state(3.0, 7), 0.5)
    assert float(average["w"]) == 2.0
    assert int(average["n"]) == 7
