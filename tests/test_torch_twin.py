"""The PyTorch twin agrees with every golden file: what the JAX model is compared with is itself measured."""

import dataclasses
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.golden_format import GoldenFile, architecture_config, crc32, deterministic_input, read_golden
from tests.tables import table
from tests.torch_twin import (
    CondenseNetTwin,
    build_twin,
    converted,
    golden_twin,
    prune_to_progress,
    prune_to_stage,
    train_trajectory,
)
from tests.torch_twin.layers import LearnedGroupConvolution, MaskedPointwise, SparseFeatureReactivation, hard_swish

ALL_STAGES = 100
"""More condensation stages than any layer has."""

# 10 to 40 s of float64 convolutions each. The same files are soak tests of the JAX model.
SOAK = {
    *("digits_trajectory", "digits_trajectory_c8g4"),
    *("imagenet_cdnv2_b", "imagenet_cdnv2_c", "imagenet_condensenet_74_c8"),
}


def _golden_files(*, trajectories: bool) -> list:
    parameters = []
    for path in sorted((Path(__file__).parent / "golden").glob("*.npz")):
        golden = read_golden(path)
        if golden.is_trajectory == trajectories:
            marks = [pytest.mark.soak] if path.stem in SOAK else []
            parameters.append(pytest.param(golden, id=path.stem, marks=marks))
    return parameters


@dataclasses.dataclass
class Measured:
    """What the twin computes for one golden file; each step once, for all tests of the file."""

    golden: GoldenFile

    @cached_property
    def model(self) -> CondenseNetTwin:
        return golden_twin(self.golden)

    @cached_property
    def images(self) -> Tensor:
        meta = self.golden.meta
        return torch.from_numpy(deterministic_input(meta["input_shape"], meta["salt"])).double()

    @cached_property
    def logits_dense(self) -> Tensor:
        with torch.no_grad():
            return self.model(self.images)

    @cached_property
    def pruned(self) -> CondenseNetTwin:
        model = golden_twin(self.golden)
        prune_to_stage(model, ALL_STAGES)
        return model

    @cached_property
    def block_features(self) -> list[Tensor]:
        with torch.no_grad():
            return self.pruned.block_features(self.images)

    @cached_property
    def logits_pruned(self) -> Tensor:
        with torch.no_grad():
            return self.pruned.head(self.block_features[-1])

    @cached_property
    def converted(self) -> CondenseNetTwin:
        return converted(self.pruned)

    @cached_property
    def logits_converted(self) -> Tensor:
        with torch.no_grad():
            return self.converted(self.images)


@pytest.fixture(scope="module", params=_golden_files(trajectories=False))
def measured(request: pytest.FixtureRequest) -> Measured:
    return Measured(request.param)


def _assert_near(actual: Tensor | np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """`tolerance` is relative to the largest magnitude expected."""
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=tolerance * np.abs(expected).max())


def _assert_masks(masks: dict[str, np.ndarray], expected: dict[str, dict[str, int]]) -> None:
    found = {key: {"ones": int(mask.sum()), "crc32": crc32(mask, np.uint8)} for key, mask in masks.items()}
    assert found == expected


def _masks(model: CondenseNetTwin) -> dict[str, np.ndarray]:
    return {key: value.numpy() for key, value in model.state_dict().items() if key.endswith("._mask")}


def _masked_layers(model: CondenseNetTwin) -> list[MaskedPointwise]:
    return [layer for layer in model.modules() if isinstance(layer, MaskedPointwise)]


def test_state_dict_has_official_keys_and_shapes(measured: Measured) -> None:
    shapes = {key: list(value.shape) for key, value in measured.model.state_dict().items()}
    assert list(shapes.items()) == list(measured.golden.meta["state_dict"].items())


def test_logits(measured: Measured) -> None:
    for name in ("logits_dense", "logits_pruned", "logits_converted"):
        _assert_near(getattr(measured, name), measured.golden.arrays[name], 1e-9)


def test_masks(measured: Measured) -> None:
    _assert_masks(_masks(measured.pruned), measured.golden.meta["masks"])


def test_block_features(measured: Measured) -> None:
    if "block_features" not in measured.golden.meta:
        pytest.skip("the golden files of CondenseNet v1 do not have them")
    for found, expected in zip(measured.block_features, measured.golden.meta["block_features"], strict=True):
        assert list(found.shape) == expected["shape"]
        assert found.abs().mean().item() == pytest.approx(expected["abs_mean"], rel=1e-9)
        # The mean nearly cancels: its error goes with the size of what is averaged.
        assert found.mean().item() == pytest.approx(expected["mean"], abs=1e-9 * expected["abs_mean"])


def test_converted_state_dict(measured: Measured) -> None:
    found = {}
    for key, value in measured.converted.state_dict().items():
        if not key.endswith(".num_batches_tracked"):
            dtype = np.float32 if value.is_floating_point() else np.int64
            found[key] = {"shape": list(value.shape), "crc32": crc32(value.numpy(), dtype)}
    assert list(found.items()) == list(measured.golden.meta["converted_state_dict"].items())


@pytest.mark.parametrize("golden", _golden_files(trajectories=True))
def test_training_trajectory(golden: GoldenFile) -> None:
    found = train_trajectory(golden)
    np.testing.assert_array_equal(found["mask_ones"], golden.arrays["mask_ones"])
    _assert_masks(found["masks"], golden.meta["masks"])
    for name in ("loss", "lr", "logits_final", "logits_final_ema", "logits_converted"):
        _assert_near(found[name], golden.arrays[name], 1e-6)


def _small_twin(seed: int, **changes: int | None) -> CondenseNetTwin:
    """A network of two blocks with random weights and BN statistics, float64, eval mode, C ≠ G in LGC and SFR."""
    golden = next(p.values[0] for p in _golden_files(trajectories=True))
    small = {"stages": [2, 2], "growth": [8, 16], "condense_factor": 8, "trans_factor": 2}
    torch.manual_seed(seed)
    model = build_twin({**architecture_config(golden), **small, **changes}).double()
    with torch.no_grad():
        model.train()(torch.randn(8, 3, 16, 16, dtype=torch.float64))
    return model.eval()


def test_small_twin_is_of_the_two_kinds() -> None:
    """Guards the tests below: the golden files have no SFR with C ≠ G."""
    factors = {(type(layer), layer.condense_factor, layer.groups) for layer in _masked_layers(_small_twin(0))}
    assert factors == {(LearnedGroupConvolution, 8, 4), (SparseFeatureReactivation, 2, 4)}


@table("trans_factor", [1, 2, 4, 8])
def test_conversion_keeps_outputs_where_factor_and_groups_differ(trans_factor: int) -> None:
    model = _small_twin(trans_factor, trans_factor=trans_factor)
    prune_to_stage(model, ALL_STAGES)
    images = torch.randn(2, 3, 24, 24, dtype=torch.float64)
    with torch.no_grad():
        before = model(images).numpy()
        _assert_near(converted(model)(images), before, 1e-12)
        np.testing.assert_array_equal(model(images).numpy(), before)


def test_conversion_refuses_an_unfinished_pruning() -> None:
    model = _small_twin(0)
    prune_to_stage(model, 1)
    with pytest.raises(ValueError, match="not pruned to its last stage"):
        converted(model)


def test_a_jump_over_stages_removes_what_single_stages_would() -> None:
    stepwise, jump = _small_twin(1), _small_twin(1)
    for stage in range(1, 8):
        prune_to_stage(stepwise, stage)
    prune_to_stage(jump, 7)
    for key, value in stepwise.state_dict().items():
        assert torch.equal(value, jump.state_dict()[key]), key


def test_bookkeeping_follows_the_stage() -> None:
    model = _small_twin(2)
    for stage in (3, 2, 100):
        prune_to_stage(model, stage)
        for layer in _masked_layers(model):
            reached = min(max(stage, 3), layer.condense_factor - 1)
            assert int(layer._stage) == reached
            assert int(layer._count) == reached * layer.removable // layer.condense_factor
            kept = layer.connections(layer._mask).sum(1)
            assert torch.all(kept == layer.removable - layer._count)


@table(
    "progress, stages",
    [(0.0, (0, 0)), (0.071, (0, 0)), (0.0715, (1, 0)), (0.49, (6, 0)), (0.5, (7, 1)), (0.99, (7, 1))],
)
def test_stages_are_due_at_their_progress(progress: float, stages: tuple[int, int]) -> None:
    """Stage s of C = 8 starts at s/14, the only stage of C = 2 at the middle."""
    model = _small_twin(3)
    prune_to_progress(model, progress)
    reached = {type(layer): int(layer._stage) for layer in _masked_layers(model)}
    assert (reached[LearnedGroupConvolution], reached[SparseFeatureReactivation]) == stages


def test_survivors_of_zero_weight_rank_above_removed_channels() -> None:
    layer = LearnedGroupConvolution(8, 4, groups=1, condense_factor=4, activation=hard_swish)
    with torch.no_grad():
        layer.conv.weight.copy_(torch.arange(8.0).flip(0).view(1, 8, 1, 1).expand(4, 8, 1, 1))
        prune_to_stage(layer, 1)
        layer.conv.weight[:, :3] = 0
    prune_to_stage(layer, 2)
    assert layer._mask[0].flatten().tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
