"""The state_dicts of ShuffleNetV2, the authors' and torchvision's, and of MobileNetV2, torchvision's."""

from collections.abc import Iterable

from cdnv2_jax.layers.conv_norm import ConvNorm
from cdnv2_jax.models.mobilenet_v2 import InvertedResidual, MobileNetV2
from cdnv2_jax.models.shufflenet_v2 import ShuffleNetV2, ShuffleNetV2Architecture, ShuffleUnit, Variant
from cdnv2_jax.torch_io.slots import NamedSlots, batch_norm, linear, prefixed, spatial_kernel


def shufflenet_variant(keys: Iterable[str]) -> Variant:
    """Whose state_dict it is, told by the keys."""
    of_torchvision = ("conv1.", "stage2.", "stage3.", "stage4.", "conv5.", "fc.")
    return "torchvision" if any(key.startswith(of_torchvision) for key in keys) else "megvii"


def shufflenet_v2(model: ShuffleNetV2) -> NamedSlots:
    """Every tensor of the state_dict of the network's variant."""
    assert isinstance(model.architecture, ShuffleNetV2Architecture)
    return _torchvision(model) if model.architecture.variant == "torchvision" else _megvii(model)


def _megvii(model: ShuffleNetV2) -> NamedSlots:
    yield from prefixed("first_conv", _in_sequence([model.stem]))
    for number, unit in enumerate(model.units):
        yield from prefixed(f"features.{number}", _unit(unit, main="branch_main", projection="branch_proj"))
    yield from prefixed("conv_last", _in_sequence([model.last]))
    yield from prefixed("classifier.0", linear(model.classifier))


def _torchvision(model: ShuffleNetV2) -> NamedSlots:
    assert isinstance(model.architecture, ShuffleNetV2Architecture)
    yield from prefixed("conv1", _in_sequence([model.stem]))
    units = iter(model.units)
    for stage, count in enumerate(model.architecture.stage_units, start=2):
        for number in range(count):
            yield from prefixed(f"stage{stage}.{number}", _unit(next(units), main="branch2", projection="branch1"))
    yield from prefixed("conv5", _in_sequence([model.last]))
    yield from prefixed("fc", linear(model.classifier))


def _unit(unit: ShuffleUnit, *, main: str, projection: str) -> NamedSlots:
    branches = {main: unit.main, projection: unit.projection}
    for name in sorted(branches):  # which is the order of either code
        if (branch := branches[name]) is not None:
            yield from prefixed(name, _in_sequence(branch))


def mobilenet_v2(model: MobileNetV2) -> NamedSlots:
    """Every tensor of torchvision's state_dict."""
    yield from prefixed("features.0", _in_sequence([model.stem]))
    for number, unit in enumerate(model.units, start=1):
        yield from prefixed(f"features.{number}.conv", _inverted_residual(unit))
    yield from prefixed(f"features.{len(model.units) + 1}", _in_sequence([model.last]))
    yield from prefixed("classifier.1", linear(model.classifier))


def _inverted_residual(unit: InvertedResidual) -> NamedSlots:
    # Those with an activation are sequences of their own, that of the projection lies among them.
    activated = [conv for conv in (unit.expand, unit.depthwise) if conv is not None]
    for number, conv in enumerate(activated):
        yield from prefixed(str(number), _in_sequence([conv]))
    yield from _in_sequence([unit.project], start=len(activated))


def _in_sequence(convs: Iterable[ConvNorm], start: int = 0) -> NamedSlots:
    """Convolution and BatchNorm by their numbers in an `nn.Sequential`, which counts activations, too."""
    number = start
    for conv in convs:
        yield f"{number}.weight", spatial_kernel(conv.conv.kernel)
        yield from prefixed(str(number + 1), batch_norm(conv.norm))
        number += 3 if conv.activation != "linear" else 2
