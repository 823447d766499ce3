"""Pruning whole networks against the PyTorch twin, stage by stage; lasso and sparsity of what is left."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.learned import ConnectionMask
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.network import Network
from cdnv2_jax.pruning import prune as prune_module
from cdnv2_jax.pruning.condense import condense
from cdnv2_jax.pruning.prune import layer_stage, prune, sparsity, stages_passed, total_group_lasso
from tests.tables import table
from tests.torch_twin import CondenseNetTwin, prune_to_stage
from tests.torch_twin.layers import MaskedPointwise
from tests.twin_models import SMALL_V1, SMALL_V2, jax_model, random_twin, tensors_of

pytestmark = pytest.mark.usefixtures("x64")

ARCHITECTURES = {
    "v1": SMALL_V1,
    "LGC 8/4, SFR 2/4": SMALL_V2,
    "LGC 2/2, SFR 8/2": SMALL_V2.override({"lgc_factor": 2, "sfr_factor": 8, "groups": 2}),
    "LGC 4/4, SFR 4/8": SMALL_V2.override({"condensation_factor": 4, "sfr_groups": 8}),
}
"""By C / G of their learned convolutions."""


def masked_layers(twin: CondenseNetTwin) -> Iterator[MaskedPointwise]:
    yield from (layer for layer in twin.modules() if isinstance(layer, MaskedPointwise))


def assert_same_pruning(model: Network, twin: CondenseNetTwin) -> None:
    """Masks, and the `_stage` and `_count` that we read off them."""
    ours, theirs = tensors_of(model), twin.state_dict()
    keys = [key for key in theirs if key.endswith(("._mask", "._stage", "._count"))]
    assert len(keys) == 3 * len(list(model.masked_convs()))
    for key in keys:
        np.testing.assert_array_equal(ours[key], theirs[key].numpy(), key)


def pruned_v1() -> CondenseNet:
    """At its last stage."""
    model = jax_model(random_twin(SMALL_V1), SMALL_V1)
    prune(model, 3)
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_masks_of_every_stage(architecture: CondenseNetArchitecture) -> None:
    """All weights are drawn anew between two stages: removed ones too, which must not come back."""
    twin = random_twin(architecture)
    random = torch.Generator().manual_seed(0)
    for stage in range(1, architecture.condensation_stages + 1):
        model = jax_model(twin, architecture)
        prune(model, stage)
        prune_to_stage(twin, stage)
        assert_same_pruning(model, twin)
        for conv, layer in zip(model.masked_convs(), masked_layers(twin), strict=True):
            assert int(layer_stage(conv)) == min(stage, conv.condensation_factor - 1)
            with torch.no_grad():
                layer.conv.weight.uniform_(-1, 1, generator=random)
            if stage == architecture.condensation_stages:
                assert bool((conv.mask[...].sum(-1) == conv.kept).all())


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_stage_by_stage_and_all_at_once(architecture: CondenseNetArchitecture) -> None:
    twin = random_twin(architecture)
    prune_to_stage(twin, 100)
    stepwise, at_once = (jax_model(random_twin(architecture), architecture) for _ in range(2))
    for stage in range(architecture.condensation_stages + 1):
        prune(stepwise, stage)
    prune(at_once, architecture.condensation_stages)
    assert_same_pruning(stepwise, twin)
    assert_same_pruning(at_once, twin)


@table("weight", [1.0, 0.0])
def test_equal_weights_go_in_the_order_of_their_channels(weight: float) -> None:
    twin = random_twin(SMALL_V2)
    for layer in masked_layers(twin):
        torch.nn.init.constant_(layer.conv.weight, weight)
    model = jax_model(twin, SMALL_V2)
    prune(model, 3)
    prune_to_stage(twin, 3)
    assert_same_pruning(model, twin)
    for conv in model.masked_convs():
        removed = min(3, conv.condensation_factor - 1) * conv.kept
        np.testing.assert_array_equal(conv.mask[...], np.arange(conv.mask.shape[1])[None].repeat(4, 0) >= removed)


def test_only_masks_change_and_only_once() -> None:
    model = jax_model(random_twin(SMALL_V2), SMALL_V2)
    others = nnx.state(model, nnx.Not(ConnectionMask))
    before = [np.asarray(leaf).copy() for leaf in jax.tree.leaves(others)]
    prune(model, 3)
    after = jax.tree.leaves(nnx.state(model, nnx.Not(ConnectionMask)))
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    masks = [np.asarray(conv.mask[...]) for conv in model.masked_convs()]
    for stage in (3, 2, 0):
        prune(model, stage)
        for conv, mask in zip(model.masked_convs(), masks, strict=True):
            np.testing.assert_array_equal(conv.mask[...], mask)


@table("stage", [-1, 4, 100])
def test_stages_that_do_not_exist(stage: int) -> None:
    model = jax_model(random_twin(SMALL_V1), SMALL_V1)
    with pytest.raises(UserError, match=f"twin has stages 0 to 3, not {stage}"):
        prune(model, stage)
    assert float(sparsity(model)) == 0


def test_condensed_networks_are_refused() -> None:
    with pytest.raises(UserError, match="has nothing to prune: it is condensed already"):
        prune(condense(pruned_v1()), 1)


def test_nothing_is_compiled_again_between_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither pruning nor the forward pass is traced a second time for the same network."""
    traced: list[str] = []
    original = prune_module.prune_layers

    def prune_layers(*arguments) -> None:
        traced.append("prune")
        original(*arguments)

    monkeypatch.setattr(prune_module, "prune_layers", prune_layers)
    architecture = SMALL_V1.override({"num_classes": 11})
    model = jax_model(random_twin(architecture), architecture)
    graph, _ = nnx.split(model)

    @jax.jit
    def run(state: nnx.State, images: jax.Array) -> jax.Array:
        traced.append("forward")
        return nnx.merge(graph, state)(images)

    images = jnp.ones((1, 4, 4, 3))
    outputs = []
    for stage in (1, 2, 3):
        prune(model, stage)
        outputs.append(np.asarray(run(nnx.state(model), images)))
    assert traced == ["prune", "forward"]
    assert (outputs[0] != outputs[1]).any() and (outputs[1] != outputs[2]).any()


def test_stages_passed() -> None:
    """The least that an unfinished layer has passed as a whole; the SFRs, C = 2, are done after one stage."""
    model = jax_model(random_twin(SMALL_V2), SMALL_V2)
    for stage in range(8):
        prune(model, stage)
        assert stages_passed(model) == stage
    first, _, second, *_ = model.masked_convs()
    for conv, removed in ((first, 6 * first.kept), (second, 4 * second.kept + 1)):
        conv.mask.set_value(jnp.tile(jnp.arange(conv.mask.shape[1]) >= removed, (conv.groups, 1)))
    assert stages_passed(model) == 4


def expected_lasso(twin: CondenseNetTwin) -> float:
    """Written out for the twin: layers at their last stage count nothing."""
    total = 0.0
    for layer in masked_layers(twin):
        if int(layer._stage) < layer.condense_factor - 1:
            squares = layer.connections((layer.conv.weight * layer._mask) ** 2).sum(-1)
            total += squares.clamp(min=1e-6).sqrt().sum().item()
    return total


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_total_group_lasso(architecture: CondenseNetArchitecture) -> None:
    """Of the layers that have stages before them; nothing once all is pruned."""
    twin = random_twin(architecture)
    model = jax_model(twin, architecture)
    lasso = jax.jit(lambda state: total_group_lasso(nnx.merge(graph, state)))
    found = []
    for stage in range(architecture.condensation_stages + 1):
        prune(model, stage)
        prune_to_stage(twin, stage)
        graph, state = nnx.split(model)
        found.append(float(lasso(state)))
        assert found[-1] == pytest.approx(expected_lasso(twin), rel=1e-12)
    assert found[-1] == 0 < found[-2] < found[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_sparsity(architecture: CondenseNetArchitecture) -> None:
    """The share of zeros among all mask entries, weight by weight."""
    twin = random_twin(architecture)
    model = jax_model(twin, architecture)
    for stage in range(architecture.condensation_stages + 1):
        prune(model, stage)
        prune_to_stage(twin, stage)
        masks = torch.cat([layer._mask.flatten() for layer in masked_layers(twin)])
        assert float(sparsity(model)) == pytest.approx(1 - masks.mean().item(), rel=1e-12, abs=1e-12)


def test_sparsity_by_hand() -> None:
    """One factor C for all: s / C after stage s. Nothing to remove, or no masks: 0."""
    model = jax_model(random_twin(SMALL_V1), SMALL_V1)
    found = []
    for stage in range(4):
        prune(model, stage)
        found.append(float(sparsity(model)))
    assert found == [0, 0.25, 0.5, 0.75]
    assert float(sparsity(condense(model))) == 0
