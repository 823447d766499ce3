"""Every built-in model by name: architecture, evaluation preprocessing, and published figures with their sources."""

import fnmatch
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.networks import mobilenet_v2, shufflenet_v2
from cdnv2_jax.networks.condensenet import family as condensenet
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.family import FAMILIES, MODELS, ModelEntry, Published, build_network, model_entry, register
from cdnv2_jax.networks.mobilenet_v2 import MobileNetV2Architecture
from cdnv2_jax.networks.network import Architecture, Network
from cdnv2_jax.networks.shufflenet_v2 import ShuffleNetV2Architecture

README_V2 = "README of the official CondenseNetV2 repository"
README_V1 = "README of the official CondenseNet repository"
README_SHUFFLENET = "README of ShuffleNetV2 in Megvii's ShuffleNet-Series"
PAPER_MOBILENET_V2 = "MobileNetV2 (Sandler et al., CVPR 2018), table 4"


def _imagenet_v2(stages: str, growth: str, groups: int, head_width: int) -> CondenseNetArchitecture:
    return CondenseNetArchitecture(
        stages=_numbers(stages),
        growth=_numbers(growth),
        num_classes=1000,
        lgc_groups=groups,
        lgc_factor=groups,
        conv_groups=groups,
        sfr_groups=groups,
        sfr_factor=groups,
        hard_swish_from=2,
        squeeze_excite_from=3,
        head_width=head_width,
    )


def _cifar_v2(depth: int) -> CondenseNetArchitecture:
    return CondenseNetArchitecture(
        stages=((depth - 2) // 9,) * 3,
        growth=(8, 16, 32),
        num_classes=10,
        lgc_groups=8,
        lgc_factor=8,
        conv_groups=4,
        sfr_groups=8,
        sfr_factor=8,
        squeeze_excite_from=1,
        hard_swish_from=1,
        head_width=128,
        stem_stride=1,
    )


def _v1(
    stages: tuple[int, ...], growth: str, groups: int, num_classes: int, stem_stride: int
) -> CondenseNetArchitecture:
    return CondenseNetArchitecture(
        stages=stages,
        growth=_numbers(growth),
        num_classes=num_classes,
        lgc_groups=groups,
        lgc_factor=groups,
        conv_groups=groups,
        stem_stride=stem_stride,
    )


def _cifar_v1(depth: int, growth: str = "8-16-32") -> CondenseNetArchitecture:
    return _v1(((depth - 2) // 6,) * 3, growth, groups=4, num_classes=10, stem_stride=1)


def _shufflenet_v2(stage_channels: str, top1_error: float, flops: str, params: str) -> ModelEntry:
    architecture = ShuffleNetV2Architecture(stage_channels=_numbers(stage_channels))
    return ModelEntry(
        architecture, 224, published=Published(README_SHUFFLENET, {"imagenet": top1_error}, flops, params)
    )


def _numbers(dashed: str) -> tuple[Any, ...]:
    return tuple(int(part) for part in dashed.split("-"))


def _imagenet_published(top1_error: float, flops: str, params: str) -> Published:
    return Published(README_V2, {"imagenet": top1_error}, flops, params)


def _cifar_published(cifar10: float, cifar100: float | None, flops: str, params: str) -> Published:
    errors = {"cifar10": cifar10} | ({} if cifar100 is None else {"cifar100": cifar100})
    return Published(README_V2, errors, flops, params)


_IMAGENET_V1 = (4, 6, 8, 10, 8), "8-16-32-64-128"

BUILT_IN = {
    "cdnv2_a": ModelEntry(
        _imagenet_v2("1-1-4-6-8", "8-8-16-32-64", 8, 828), 224, "bicubic", _imagenet_published(35.6, "46M", "2.0M")
    ),
    "cdnv2_b": ModelEntry(
        _imagenet_v2("2-4-6-8-6", "6-12-24-48-96", 6, 1024), 224, "bicubic", _imagenet_published(28.1, "146M", "3.6M")
    ),
    "cdnv2_c": ModelEntry(
        _imagenet_v2("4-6-8-10-8", "8-16-32-64-128", 8, 1024),
        224,
        "bilinear",
        _imagenet_published(24.1, "309M", "6.1M"),
    ),
    "cdnv2_cifar_110": ModelEntry(
        _cifar_v2(110), 32, published=_cifar_published(4.65, 23.94, "41M", "0.48M"), reconstruction=True
    ),
    "cdnv2_cifar_146": ModelEntry(
        _cifar_v2(146), 32, published=_cifar_published(4.35, 22.52, "62M", "0.78M"), reconstruction=True
    ),
    "condensenet_50": ModelEntry(_cifar_v1(50), 32, published=_cifar_published(6.22, None, "28.6M", "0.22M")),
    "condensenet_74": ModelEntry(_cifar_v1(74), 32, published=_cifar_published(5.28, None, "51.9M", "0.41M")),
    "condensenet_86": ModelEntry(_cifar_v1(86), 32, published=_cifar_published(5.06, 23.64, "65.8M", "0.52M")),
    "condensenet_98": ModelEntry(_cifar_v1(98), 32, published=_cifar_published(4.83, None, "81.3M", "0.65M")),
    "condensenet_110": ModelEntry(_cifar_v1(110), 32, published=_cifar_published(4.63, None, "98.2M", "0.79M")),
    "condensenet_122": ModelEntry(_cifar_v1(122), 32, published=_cifar_published(4.48, None, "116.7M", "0.95M")),
    "condensenet_182": ModelEntry(
        _cifar_v1(182, "12-24-48"),
        32,
        published=Published(README_V1, {"cifar10": 3.76, "cifar100": 18.47}, "513M", "4.2M"),
    ),
    "condensenet_imagenet_74_c4": ModelEntry(
        _v1(*_IMAGENET_V1, groups=4, num_classes=1000, stem_stride=2),
        224,
        published=Published(README_V1, {"imagenet": 26.2}, "529M", "4.8M"),
    ),
    "condensenet_imagenet_74_c8": ModelEntry(
        _v1(*_IMAGENET_V1, groups=8, num_classes=1000, stem_stride=2),
        224,
        published=Published(README_V1, {"imagenet": 29.0}, "274M", "2.9M"),
    ),
    # Not CondenseNets: the networks that the CondenseNetV2 paper compares its own with as backbones of detectors.
    "shufflenet_v2_x0_5": _shufflenet_v2("48-96-192", 38.9, "41M", "1.4M"),
    "shufflenet_v2_x1_0": _shufflenet_v2("116-232-464", 30.6, "146M", "2.3M"),
    "shufflenet_v2_x1_5": _shufflenet_v2("176-352-704", 27.4, "299M", "3.5M"),
    "mobilenet_v2_x1_0": ModelEntry(
        MobileNetV2Architecture(),
        224,
        published=Published(PAPER_MOBILENET_V2, {"imagenet": 28.0}, "300M", "3.4M"),
    ),
}


for _family in (condensenet.FAMILY, shufflenet_v2.FAMILY, mobilenet_v2.FAMILY):
    FAMILIES[_family.name] = _family
for _name, _entry in BUILT_IN.items():
    register(_name, _entry)


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of all models that match a shell pattern, in the registry's order."""
    return [name for name in MODELS if fnmatch.fnmatchcase(name, pattern)]


def architecture_of(
    name: str, num_classes: int | None = None, overrides: Mapping[str, Any] | None = None
) -> Architecture:
    """Return the architecture that `create_model` would build."""
    changes = dict(overrides or {})
    if num_classes is not None:
        changes["num_classes"] = num_classes
    return model_entry(name).architecture.override(changes)


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    rngs: nnx.Rngs,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
    **overrides: Any,
) -> Network:
    """Build a network, NHWC images → logits, with random weights; a CondenseNet is masked, with nothing pruned yet.

    Args:
      name: one of `list_models()`.
      num_classes: number of logits; None for the model's default.
      rngs: random keys for the initial weights, e.g. `nnx.Rngs(0)`.
      dtype: dtype of the computation, e.g. `jnp.bfloat16`; None computes in the dtype of parameters and images.
      param_dtype: dtype of the parameters.
      **overrides: fields of the architecture to change (in a CondenseNet stages, growth, lgc_groups, …; `groups` and
        `condensation_factor` set all fields of their kind).

    Raises:
      UserError: unknown name or override (the nearest one is suggested), or incompatible numbers.
    """
    architecture = architecture_of(name, num_classes, overrides)
    return build_network(architecture, name=name, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
