"""Costs: the published tables to the unit, and both counts against what the PyTorch twin is seen to compute."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.cost import Cost
from cdnv2_jax.networks.family import MODELS, blank_network, count_flops, model_entry, network_cost
from cdnv2_jax.networks.network import Architecture, Form
from cdnv2_jax.networks.zoo import architecture_of, list_models
from cdnv2_jax.pruning.condense import condense
from cdnv2_jax.pruning.prune import prune
from tests.golden_format import read_golden
from tests.plain_models import SMALL as SMALL_PLAIN
from tests.plain_models import plain_twin
from tests.tables import table
from tests.torch_twin import CondenseNetTwin, build_twin, converted, prune_to_stage
from tests.torch_twin.layers import MaskedPointwise, SqueezeExcite
from tests.twin_models import SMALL_V1, SMALL_V2, jax_model, random_twin, twin_config

MASKED, CONDENSED, HALVED = Form(), Form(condensed=True), Form(condensed=True, halved_classifier=True)
GOLDEN = Path(__file__).parents[1] / "golden"


def cost_of(name: str, form: Form) -> Cost:
    entry = model_entry(name)
    return network_cost(entry.architecture, form, entry.image_size, entry.image_size)


@table(
    "name, flops, params",
    [
        ("cdnv2_a", 45_874_350, 2_038_444),
        ("cdnv2_b", 146_469_057, 3_592_662),
        ("cdnv2_c", 309_740_977, 6_177_512),
        ("condensenet_86", 65_816_394, 520_202),
        ("condensenet_imagenet_74_c8", 275_265_480, 3_967_416),
    ],
)
def test_exact_figures_of_the_official_code(name: str, flops: int, params: int) -> None:
    cost = cost_of(name, MASKED)
    assert (cost.flops, cost.params) == (flops, params)


@table(
    "name, form, flops, params",
    [
        ("condensenet_50", MASKED, 28.64, 0.2165),
        ("condensenet_74", MASKED, 51.90, 0.4055),
        ("condensenet_86", MASKED, 65.82, 0.5202),
        ("condensenet_98", MASKED, 81.26, 0.6484),
        ("condensenet_110", MASKED, 98.24, 0.7902),
        ("condensenet_122", MASKED, 116.74, 0.9454),
        ("condensenet_182", MASKED, 512.7, 4.22),
        ("condensenet_imagenet_74_c4", HALVED, 529, 4.8),
        ("condensenet_imagenet_74_c8", HALVED, 274, 2.9),
        ("cdnv2_cifar_110", MASKED, 42.0, 0.494),
        ("cdnv2_cifar_146", MASKED, 63.8, 0.752),
    ],
)
def test_printed_figures(name: str, form: Form, flops: float, params: float) -> None:
    """In millions, to the last digit that the v1 tables (the reconstructions: our measurement) print."""
    cost = cost_of(name, form)
    for found, expected in ((cost.flops, flops), (cost.params, params)):
        digits = len(str(expected).partition(".")[2]) if isinstance(expected, float) else 0
        assert round(found / 1e6, digits) == expected


@table("file", sorted([*GOLDEN.glob("imagenet_*"), *GOLDEN.glob("cifar_*")]))
def test_golden_counts(file: Path) -> None:
    """Before and after the official conversion."""
    meta = read_golden(file).meta
    name = {"condensenet_74_c8": "condensenet_imagenet_74_c8"}.get(meta["model"], meta["model"])
    assert name in MODELS
    converted_form = HALVED if name.startswith("condensenet") else CONDENSED
    for form, when in ((MASKED, "unconverted"), (converted_form, "converted")):
        cost = cost_of(name, form)
        assert (cost.flops, cost.params) == (meta[f"flops_{when}"], meta[f"params_{when}"]), when


def multiply_adds(twin: nn.Module, height: int, width: int, device: str) -> int:
    """What PyTorch's own counter sees in one forward pass, without the 0/1 products (`bmm`) of condensed SFRs."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        twin(torch.zeros(1, 3, height, width, dtype=next(twin.parameters()).dtype, device=device))
    counts = counter.get_flop_counts()["Global"]
    assert {str(operation) for operation in counts} <= {"aten.convolution", "aten.addmm", "aten.mm", "aten.bmm"}
    return sum(flops for operation, flops in counts.items() if str(operation) != "aten.bmm") // 2


@table("name", [*list_models("cdnv2*"), *list_models("condensenet_imagenet*"), "condensenet_50"])
def test_multiply_adds_of_masked_networks(name: str) -> None:
    """Shapes only, on PyTorch's meta device."""
    entry = model_entry(name)
    with torch.device("meta"):
        twin = build_twin(twin_config(entry.architecture)).eval()
    expected = multiply_adds(twin, entry.image_size, entry.image_size, "meta")
    assert cost_of(name, MASKED).multiply_adds == expected


@table(
    "name, variant, millions, params",
    [
        ("shufflenet_v2_x0_5", "megvii", 40.5, 1_365_792),
        ("shufflenet_v2_x1_0", "megvii", 145.8, 2_278_760),
        ("shufflenet_v2_x1_5", "megvii", 299.0, 3_506_720),
        ("shufflenet_v2_x0_5", "torchvision", 40.5, 1_366_792),
        ("shufflenet_v2_x1_0", "torchvision", 144.9, 2_278_604),
        ("shufflenet_v2_x1_5", "torchvision", 295.8, 3_503_624),
        ("mobilenet_v2_x1_0", None, 300.8, 3_504_872),
    ],
)
def test_plain_networks(name: str, variant: str | None, millions: float, params: int) -> None:
    """At 224 pixels what the papers and torchvision print, and at an odd size what PyTorch counts."""
    a = architecture_of(name, overrides={} if variant is None else {"variant": variant})
    cost = network_cost(a, MASKED, 224, 224)
    assert (round(cost.flops / 1e6, 1), cost.params) == (millions, params)
    with torch.device("meta"):
        twin = plain_twin(a)
    assert sum(parameter.numel() for parameter in twin.parameters()) == params
    for height, width in ((224, 224), (97, 45)):
        cost = network_cost(a, MASKED, height, width)
        assert cost.flops == cost.multiply_adds == multiply_adds(twin, height, width, "meta"), (height, width)


@table("architecture", SMALL_PLAIN)
def test_of_a_plain_model(architecture: Any) -> None:
    twin = plain_twin(architecture)
    cost = count_flops(blank_network(architecture, MASKED, name="small"), (33, 64))
    assert cost.flops == cost.multiply_adds == multiply_adds(twin, 33, 64, "cpu")
    assert cost.params == sum(parameter.numel() for parameter in twin.parameters())


def official_count(twin: CondenseNetTwin, height: int, width: int) -> tuple[int, int]:
    """Operations and parameters by the official rules, from the maps that pass through the twin's modules."""
    operations: list[int] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        operations.append(official_operations(module, inputs[0], output))
        if module in later_blocks:
            operations.append(4 * inputs[0].numel())  # the 2×2 pool before it
        if module is twin.features["norm_last"]:
            operations.append(output.numel())  # the last pool

    later_blocks = [module for name, module in twin.features.items() if "denseblock_" in name][1:]
    hooks = [module.register_forward_hook(note) for module in twin.modules()]
    with torch.no_grad():
        twin(torch.zeros(1, 3, height, width, dtype=torch.float64))
    for hook in hooks:
        hook.remove()
    # v1 counts its classifier's bias, v2 the hard-swish before its classifier.
    operations.append(twin.architecture.num_classes if twin.fc is None else twin.fc.out_features)
    masked = [layer for layer in twin.modules() if isinstance(layer, MaskedPointwise)]
    removed = sum(layer.conv.weight.numel() - layer.conv.weight.numel() // layer.condense_factor for layer in masked)
    return sum(operations), sum(parameter.numel() for parameter in twin.parameters()) - removed


def official_operations(module: nn.Module, x: Tensor, y: Tensor) -> int:
    """Of one module without its children."""
    if isinstance(module, nn.BatchNorm2d):
        return y.numel()  # the activation that follows every one; normalising is free
    if isinstance(module, nn.Conv2d):
        return module.weight.numel() * y.shape[2] * y.shape[3]
    if isinstance(module, MaskedPointwise):
        return module.conv.weight.numel() // module.condense_factor * y.shape[2] * y.shape[3]
    if isinstance(module, nn.Linear):
        return module.weight.numel()
    if isinstance(module, nn.ReLU):
        return y.numel()
    if isinstance(module, SqueezeExcite):
        return x.numel() + 2 * y.shape[1]  # pool and sigmoid
    return 0


SMALL = {
    "v1": SMALL_V1,
    "LGC 8/4, SFR 2/4": SMALL_V2,
    "LGC 2/4, SFR 8/4": SMALL_V2.override({"lgc_factor": 2, "sfr_factor": 8}),
    "LGC 4/8, SFR 4/2": SMALL_V2.override({"lgc_groups": 8, "sfr_groups": 2, "condensation_factor": 4}),
    "SE from the start": SMALL_V2.override({"squeeze_excite_from": 0, "head_reduction": 5, "stem_stride": 1}),
    "no head": SMALL_V2.override({"head_width": None}),
}
"""By C / G of their learned convolutions, and the like."""


@table("architecture, halved", [*((architecture, False) for architecture in SMALL.values()), (SMALL_V1, True)])
def test_small_networks_at_odd_sizes(architecture: Architecture, halved: bool) -> None:
    """All three figures, masked and condensed, of a map that is not square and loses edges in the pools."""
    height, width = 27, 18
    twin = random_twin(architecture)
    prune_to_stage(twin, 100)
    forms = {Form(): twin, Form(condensed=True, halved_classifier=halved): converted(twin, halve_classifier=halved)}
    for form, network in forms.items():
        cost = network_cost(architecture, form, height, width)
        assert (cost.flops, cost.params) == official_count(network, height, width), form
        assert cost.multiply_adds == multiply_adds(network, height, width, "cpu"), form


def test_of_a_model_masked_and_condensed() -> None:
    """By the model itself: the same FLOPs where C = G in the LGCs, a fraction of the multiply-adds."""
    architecture = SMALL_V2.override({"condensation_factor": 4})
    model = jax_model(random_twin(architecture), architecture, param_dtype=jnp.float32)
    prune(model, 3)
    masked, condensed = count_flops(model, 24), count_flops(condense(model), 24)
    assert masked == network_cost(architecture, MASKED, 24, 24)
    assert condensed == network_cost(architecture, CONDENSED, 24, 24)
    assert (masked.flops, masked.params) == (condensed.flops, condensed.params)
    assert condensed.multiply_adds < masked.multiply_adds


def test_image_size_may_be_a_pair() -> None:
    model = blank_network(SMALL_V2, MASKED, name="small")
    assert count_flops(model, (24, 24)) == count_flops(model, 24)
    assert count_flops(model, (48, 24)) == count_flops(model, (24, 48)) != count_flops(model, 48)


def test_costs_add_up() -> None:
    assert Cost(1, 2, 3) + Cost(10, 20, 30) == Cost(11, 22, 33)
    assert Cost() == Cost(0, 0, 0)


def test_refusals() -> None:
    model = blank_network(SMALL_V2, MASKED, name="small")
    with pytest.raises(UserError, match="a 6×24 image is too small"):
        count_flops(model, (6, 24))
    with pytest.raises(UserError, match="halved classifier"):
        network_cost(SMALL_V2, HALVED, 24, 24)
