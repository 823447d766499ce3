"""CondenseNetArchitecture: what fits together, what does not and why, and overrides."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.family import blank_network
from cdnv2_jax.networks.network import Form
from tests.tables import table
from tests.twin_models import SMALL_V1, SMALL_V2


@table(
    "changes, message",
    [
        ({"stages": (1, 1)}, "stages, growth need one number per stage each: got 2, 3 numbers"),
        ({"stages": (), "growth": ()}, "stages, growth need one number per stage each: got 0, 0 numbers"),
        ({"stages": (1, 0, 1)}, "stages must be an integer in [1, 256], got 0"),
        ({"growth": (8, -8, 8)}, "growth must be an integer in [1, 4096], got -8"),
        ({"growth": (8, 8.0, 8)}, "growth must be an integer in [1, 4096], got 8.0"),
        ({"num_classes": 0}, "num_classes must be an integer in [1, 1000000], got 0"),
        ({"num_classes": True}, "num_classes must be an integer in [1, 1000000], got True"),
        ({"num_classes": None}, "num_classes must be an integer in [1, 1000000], got None"),
        ({"lgc_groups": 0}, "lgc_groups must be an integer in [1, 4096], got 0"),
        ({"lgc_factor": None}, "lgc_factor must be an integer in [1, 4096], got None"),
        ({"bottleneck": "4"}, "bottleneck must be an integer in [1, 64], got '4'"),
        ({"stem_stride": 0}, "stem_stride must be an integer in [1, 8], got 0"),
        ({"stem_stride": 2**58}, "stem_stride must be an integer in [1, 8], got 288230376151711744"),
        ({"stages": (86, 86, 86)}, "stages must add up to 256 or fewer, got 258"),
        ({"stages": (1,) * 33}, "stages must hold 32 numbers or fewer, got 33"),
        ({"hard_swish_from": -1}, "hard_swish_from must be an integer in [0, 32], got -1"),
        ({"squeeze_excite_from": 0.5}, "squeeze_excite_from must be an integer in [0, 32], got 0.5"),
        ({"head_width": 0}, "head_width must be an integer in [1, 65536], got 0"),
        ({"sfr_groups": None}, "sfr_groups and sfr_factor go together"),
        ({"sfr_factor": None}, "sfr_groups and sfr_factor go together"),
        ({"lgc_groups": 3}, "block 1, layer 1: 16 inputs of the 1×1 convolution are not divisible by lgc_groups 3"),
        ({"lgc_factor": 16}, "block 2, layer 1: 24 inputs of the 1×1 convolution are not divisible by lgc_factor 16"),
        (
            {"lgc_groups": 8, "growth": (8, 12, 8), "lgc_factor": 4, "bottleneck": 1},
            "block 2, layer 1: 12 outputs of the 1×1 convolution are not divisible by lgc_groups 8",
        ),
        (
            {"conv_groups": 3, "bottleneck": 3},
            "block 1, layer 1: 8 outputs of the 3×3 convolution are not divisible by conv_groups 3",
        ),
        (
            {"conv_groups": 5},
            "block 1, layer 1: 16 inputs of the 3×3 convolution are not divisible by conv_groups 5",
        ),
        ({"sfr_groups": 3}, "block 1, layer 1: 8 inputs of the reactivation are not divisible by sfr_groups 3"),
        (
            {"growth": (8, 32, 32), "stages": (2, 1, 1), "sfr_groups": 8, "sfr_factor": 16},
            "block 1, layer 2: 24 outputs of the reactivation are not divisible by sfr_factor 16",
        ),
        ({"head_reduction": 41}, "head_reduction 41 exceeds the 40 channels"),
    ],
)
def test_refusals(changes: dict[str, Any], message: str) -> None:
    """Each by changing a network that is accepted, of channels 16 → 24 → 32 → 40."""
    base = SMALL_V2.override({"growth": (8, 8, 8)})
    with pytest.raises(UserError, match=re.escape(message)):
        base.override(changes)


@table(
    "changes",
    {
        "LGC, C above G": {"lgc_groups": 4, "lgc_factor": 8},
        "LGC, C below G": {"lgc_groups": 8, "lgc_factor": 4},
        "SFR, C above G": {"sfr_groups": 2, "sfr_factor": 8},
        "SFR, C below G": {"sfr_groups": 8, "sfr_factor": 2},
        "nothing to prune": {"lgc_factor": 1, "sfr_factor": 1},
        "one group": {"groups": 1},
        "no SFR": {"sfr_groups": None, "sfr_factor": None},
        "from the first block": {"hard_swish_from": 0, "squeeze_excite_from": 0},
        "beyond the last block": {"hard_swish_from": 9, "squeeze_excite_from": 9},
        "no head to reduce": {"head_width": None, "head_reduction": 99},
    },
)
@table(
    "condensed",
    {
        "masked": False,
        "condensed": True,
    },
)
def test_what_is_accepted_can_be_built(changes: dict[str, Any], condensed: bool) -> None:
    architecture = SMALL_V2.override(changes)
    graph, state = nnx.split(blank_network(architecture, Form(condensed=condensed), name="small"))
    images = jax.ShapeDtypeStruct((2, 9, 11, 3), jnp.float32)
    logits = jax.eval_shape(lambda state, images: nnx.merge(graph, state)(images), state, images)
    assert logits.shape == (2, architecture.num_classes)


def test_lists_become_tuples() -> None:
    architecture = SMALL_V1.override({"stages": [2, 1], "growth": [8, 16]})
    assert architecture == SMALL_V1
    assert hash(architecture) == hash(SMALL_V1)


@table(
    "base, changes, expected",
    [
        (SMALL_V2, {"groups": 2}, {"lgc_groups": 2, "conv_groups": 2, "sfr_groups": 2}),
        (SMALL_V2, {"condensation_factor": 4}, {"lgc_factor": 4, "sfr_factor": 4}),
        (SMALL_V2, {"groups": 2, "sfr_groups": 8}, {"lgc_groups": 2, "conv_groups": 2, "sfr_groups": 8}),
        (SMALL_V2, {"sfr_groups": 8, "groups": 2}, {"lgc_groups": 2, "conv_groups": 2, "sfr_groups": 8}),
        (SMALL_V1, {"groups": 8}, {"lgc_groups": 8, "conv_groups": 8, "sfr_groups": None}),
        (SMALL_V1, {"condensation_factor": 2}, {"lgc_factor": 2, "sfr_factor": None}),
        (SMALL_V1, {"sfr_groups": 4, "condensation_factor": 8}, {"sfr_groups": 4, "lgc_factor": 8, "sfr_factor": 8}),
        (SMALL_V2, {"sfr_groups": None, "sfr_factor": None, "groups": 2}, {"lgc_groups": 2, "sfr_groups": None}),
        (SMALL_V2, {}, {}),
    ],
)
def test_overrides(base: CondenseNetArchitecture, changes: dict[str, Any], expected: dict[str, Any]) -> None:
    """The shorthands set all of their kind that there are; a field's own name wins, in whatever order."""
    found = base.override(changes)
    assert {name: getattr(found, name) for name in expected} == expected
    assert all(
        getattr(found, name) == getattr(base, name)
        for name in ("stages", "growth", "num_classes", "bottleneck", "head_width")
    )


@table(
    "name, hint",
    [
        ("growths", "did you mean 'growth'?"),
        ("condense_factor", "did you mean 'condensation_factor'?"),
        ("group", "did you mean 'groups'?"),
        ("zzz", "there are bottleneck, condensation_factor, conv_groups"),
    ],
)
def test_unknown_overrides(name: str, hint: str) -> None:
    with pytest.raises(UserError) as error:
        SMALL_V2.override({name: 1})
    assert f"a network has no {name!r}" in str(error.value)
    assert hint in str(error.value)


def test_derived_numbers() -> None:
    assert SMALL_V2.stem_channels == 16
    assert SMALL_V2.out_channels == 16 + 8 + 8 + 16
    assert SMALL_V2.condensation_stages == 7
    assert SMALL_V2.override({"sfr_factor": 8, "lgc_factor": 2}).condensation_stages == 7
    assert SMALL_V2.override({"sfr_factor": 1, "lgc_factor": 1}).condensation_stages == 0
    assert SMALL_V1.condensation_stages == 3
    assert (SMALL_V2.block_strides, SMALL_V1.block_strides) == ((2, 4, 8), (1, 2))
    assert (SMALL_V2.feature_channels, SMALL_V1.feature_channels) == ({4: 32, 8: 48}, {})
    assert SMALL_V2.smallest_map(16, 33) == (2, 4)
    assert SMALL_V1.dense_layers() == [(0, 0, 16, 8), (0, 1, 24, 8), (1, 0, 32, 16)]
    assert [SMALL_V2.activation(block) for block in range(3)] == ["relu", "hard_swish", "hard_swish"]
    assert [SMALL_V2.has_squeeze_excite(block) for block in range(3)] == [False, False, True]
    assert not SMALL_V1.has_squeeze_excite(1) and SMALL_V1.activation(1) == "relu"


def test_norms_know_what_was_concatenated() -> None:
    """A dense layer's input ends with the channels that the layer before added, pooled or not."""
    architecture = SMALL_V2.override({"stages": (1, 3, 2)})
    model = CondenseNet(architecture, name="small", rngs=nnx.Rngs(0))
    assert architecture.growth == (8, 8, 16)
    norms = [layer.lgc.norm for layer in model.dense_layers()]
    assert [norm.joined for norm in norms if norm] == [0, 8, 8, 8, 8, 16]
    assert model.norm_last.joined == 16
