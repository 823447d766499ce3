"""The registry: names, what they stand for, and helpful refusals."""

import dataclasses

import pytest
from flax import nnx

from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.family import MODELS, model_entry
from cdnv2_jax.networks.network import Form
from cdnv2_jax.networks.zoo import architecture_of, create_model, list_models
from tests.tables import table

V1 = [
    "condensenet_50",
    "condensenet_74",
    "condensenet_86",
    "condensenet_98",
    "condensenet_110",
    "condensenet_122",
    "condensenet_182",
    "condensenet_imagenet_74_c4",
    "condensenet_imagenet_74_c8",
]
PLAIN = ["shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "mobilenet_v2_x1_0"]


def condensenet_of(name: str) -> CondenseNetArchitecture:
    architecture = architecture_of(name)
    assert isinstance(architecture, CondenseNetArchitecture)
    return architecture


@table(
    "pattern, names",
    [
        ("*", ["cdnv2_a", "cdnv2_b", "cdnv2_c", "cdnv2_cifar_110", "cdnv2_cifar_146", *V1, *PLAIN]),
        ("cdnv2_?", ["cdnv2_a", "cdnv2_b", "cdnv2_c"]),
        ("condensenet*", V1),
        ("*net_v2_*", PLAIN),
        ("*_1[14]*", ["cdnv2_cifar_110", "cdnv2_cifar_146", "condensenet_110"]),
        ("cdnv2_c", ["cdnv2_c"]),
        ("CDNV2*", []),
        ("", []),
    ],
)
def test_list_models(pattern: str, names: list[str]) -> None:
    assert list_models(pattern) == names


def test_all_models_are_listed_without_a_pattern() -> None:
    assert list_models() == list(MODELS)


@table(
    "name, message",
    [
        ("cdnv2_d", "no model is called 'cdnv2_d': did you mean 'cdnv2_"),
        ("condensnet_86", "did you mean 'condensenet_86'?"),
        ("mobilenet_v2", "did you mean 'mobilenet_v2_x1_0'?"),
        ("vgg", "no model is called 'vgg': there are cdnv2_a, cdnv2_b"),
        ("", "no model is called ''"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    for function in (model_entry, architecture_of, lambda name: create_model(name, rngs=nnx.Rngs(0))):
        with pytest.raises(UserError) as error:
            function(name)
        assert message in str(error.value)


@table(
    "name, expected",
    [
        (
            "cdnv2_a",
            {
                "stages": (1, 1, 4, 6, 8),
                "growth": (8, 8, 16, 32, 64),
                "head_width": 828,
                **dict.fromkeys(("lgc_groups", "lgc_factor", "conv_groups", "sfr_groups", "sfr_factor"), 8),
            },
        ),
        (
            "cdnv2_b",
            {
                "stages": (2, 4, 6, 8, 6),
                "growth": (6, 12, 24, 48, 96),
                "head_width": 1024,
                **dict.fromkeys(("lgc_groups", "lgc_factor", "conv_groups", "sfr_groups", "sfr_factor"), 6),
            },
        ),
        (
            "cdnv2_c",
            {
                "stages": (4, 6, 8, 10, 8),
                "growth": (8, 16, 32, 64, 128),
                "head_width": 1024,
                **dict.fromkeys(("lgc_groups", "lgc_factor", "conv_groups", "sfr_groups", "sfr_factor"), 8),
            },
        ),
    ],
)
def test_imagenet_networks_are_those_of_the_paper(name: str, expected: dict[str, object]) -> None:
    common = {
        "num_classes": 1000,
        "in_channels": 3,
        "bottleneck": 4,
        "hard_swish_from": 2,
        "squeeze_excite_from": 3,
        "head_reduction": 16,
        "stem_stride": 2,
    }
    assert dataclasses.asdict(architecture_of(name)) == common | expected


@table(
    "name, layers, growth, groups, stem_stride",
    [
        ("condensenet_50", (8, 8, 8), (8, 16, 32), 4, 1),
        ("condensenet_86", (14, 14, 14), (8, 16, 32), 4, 1),
        ("condensenet_182", (30, 30, 30), (12, 24, 48), 4, 1),
        ("condensenet_imagenet_74_c4", (4, 6, 8, 10, 8), (8, 16, 32, 64, 128), 4, 2),
        ("condensenet_imagenet_74_c8", (4, 6, 8, 10, 8), (8, 16, 32, 64, 128), 8, 2),
    ],
)
def test_v1_networks(
    name: str, layers: tuple[int, ...], growth: tuple[int, ...], groups: int, stem_stride: int
) -> None:
    expected = CondenseNetArchitecture(
        stages=layers,
        growth=growth,
        num_classes=1000 if stem_stride == 2 else 10,
        lgc_groups=groups,
        lgc_factor=groups,
        conv_groups=groups,
        stem_stride=stem_stride,
    )
    assert architecture_of(name) == expected


def test_depth_of_the_reconstructions() -> None:
    """Three convolutions in every dense layer, the stem and the classifier."""
    assert {name: 3 * sum(condensenet_of(name).stages) + 2 for name in list_models("cdnv2_cifar*")} == {
        "cdnv2_cifar_110": 110,
        "cdnv2_cifar_146": 146,
    }


def test_reconstructions_are_marked() -> None:
    assert [name for name, entry in MODELS.items() if entry.reconstruction] == ["cdnv2_cifar_110", "cdnv2_cifar_146"]


def test_published_figures() -> None:
    """Top-1 errors in per cent as the papers' READMEs print them."""
    found = {name: dict(entry.published.top1_error) for name, entry in MODELS.items() if entry.published}
    assert found == {
        "cdnv2_a": {"imagenet": 35.6},
        "cdnv2_b": {"imagenet": 28.1},
        "cdnv2_c": {"imagenet": 24.1},
        "cdnv2_cifar_110": {"cifar10": 4.65, "cifar100": 23.94},
        "cdnv2_cifar_146": {"cifar10": 4.35, "cifar100": 22.52},
        "condensenet_50": {"cifar10": 6.22},
        "condensenet_74": {"cifar10": 5.28},
        "condensenet_86": {"cifar10": 5.06, "cifar100": 23.64},
        "condensenet_98": {"cifar10": 4.83},
        "condensenet_110": {"cifar10": 4.63},
        "condensenet_122": {"cifar10": 4.48},
        "condensenet_182": {"cifar10": 3.76, "cifar100": 18.47},
        "condensenet_imagenet_74_c4": {"imagenet": 26.2},
        "condensenet_imagenet_74_c8": {"imagenet": 29.0},
        "shufflenet_v2_x0_5": {"imagenet": 38.9},
        "shufflenet_v2_x1_0": {"imagenet": 30.6},
        "shufflenet_v2_x1_5": {"imagenet": 27.4},
        "mobilenet_v2_x1_0": {"imagenet": 28.0},
    }
    assert all(entry.published and entry.published.source for entry in MODELS.values())


def test_evaluation_preprocessing() -> None:
    sizes = {name: (entry.image_size, entry.interpolation) for name, entry in MODELS.items()}
    assert [sizes[f"cdnv2_{letter}"] for letter in "abc"] == [(224, "bicubic"), (224, "bicubic"), (224, "bilinear")]
    assert {sizes[name] for name in PLAIN} == {(224, "bilinear")}
    for name, (size, _) in sizes.items():
        if name in PLAIN:
            continue
        assert size == (224 if condensenet_of(name).stem_stride == 2 else 32), name


def test_create_model_follows_overrides() -> None:
    model = create_model(
        "cdnv2_a", num_classes=3, rngs=nnx.Rngs(0), stages=(1, 1), growth=[8, 16], groups=2, head_width=10
    )
    assert model.architecture == architecture_of("cdnv2_a").override(
        {"num_classes": 3, "stages": (1, 1), "growth": (8, 16), "groups": 2, "head_width": 10}
    )
    assert (model.name, model.form) == ("cdnv2_a", Form())
    assert model.classifier.kernel.shape == (10, 3)
    assert {conv.groups for conv in model.masked_convs()} == {2}
    assert {conv.condensation_factor for conv in model.masked_convs()} == {8}
    assert isinstance(model, CondenseNet) and len(list(model.dense_layers())) == 2
    assert all(bool(conv.mask[...].all()) for conv in model.masked_convs())


def test_unknown_override_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="a network has no 'lgc_group', did you mean 'lgc_groups'"):
        create_model("cdnv2_a", rngs=nnx.Rngs(0), lgc_group=4)


def test_number_of_classes() -> None:
    assert architecture_of("cdnv2_a", 7) == architecture_of("cdnv2_a", overrides={"num_classes": 7})
    assert architecture_of("cdnv2_a", 7, {"num_classes": 9}).num_classes == 7
    with pytest.raises(UserError, match=r"num_classes must be an integer in \[1, 1000000\]"):
        architecture_of("cdnv2_a", 0)
