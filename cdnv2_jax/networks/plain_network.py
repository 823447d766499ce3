"""Networks whose connections are fixed: what ShuffleNetV2 and MobileNetV2 have in common."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Self, cast

import jax
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.convolutions import ConvNorm
from cdnv2_jax.layers.learned import MaskedConv
from cdnv2_jax.layers.valid_region import at_stride, check_images, inside, region_of
from cdnv2_jax.networks.network import refuse_unknown


@dataclasses.dataclass(frozen=True)
class PlainArchitecture:
    """Base of the architectures; all strides round up, so that any image will do."""

    num_classes: int = 1000

    @property
    def feature_channels(self) -> dict[int, int]:
        """Stride → channels of the maps that `features` gives."""
        raise NotImplementedError

    @property
    def unit_strides(self) -> tuple[int, ...]:
        """The stride of each unit's output relative to the image."""
        raise NotImplementedError

    @property
    def condensation_stages(self) -> int:
        """None: there is nothing to prune."""
        return 0

    def smallest_map(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the last feature map for an image of that size."""
        stride = self.unit_strides[-1]
        return -(-height // stride), -(-width // stride)

    def check_image(self, height: int, width: int) -> None:
        """Raises UserError for an image without pixels."""
        if min(height, width) < 1:
            raise UserError(f"a {height}×{width} image is too small")

    def override(self, overrides: Mapping[str, Any]) -> Self:
        """A copy with some fields replaced; UserError for an unknown name, with the nearest one."""
        refuse_unknown(overrides, [field.name for field in dataclasses.fields(self)])
        return dataclasses.replace(self, **overrides)


class PlainNetwork(nnx.Module):
    """Base of the networks: stem → units → 1×1 convolution → mean over the map → Linear.

    Attributes:
      name: its name in the registry. architecture: what it is made of.
      stem, last: convolutions with BatchNorm. units: functions of a map and its mask. classifier: the Linear.
      remat: whether the backward pass computes what is inside of units again instead of keeping it: less memory, a
        second forward pass. False at first; set it before training.
    """

    architecture: PlainArchitecture
    stem: ConvNorm
    units: nnx.List
    last: ConvNorm
    classifier: nnx.Linear

    def __init__(self, *, name: str, dtype: DTypeLike | None):
        self.name = name
        self.dtype = dtype
        self.remat = False

    @property
    def form_name(self) -> Literal["plain"]:
        """The form in a word."""
        return "plain"

    @property
    def param_dtype(self) -> DTypeLike:
        """Of the parameters."""
        return self.stem.conv.kernel.dtype

    @property
    def feature_channels(self) -> dict[int, int]:
        """Stride → channels of the maps that `features` gives."""
        return self.architecture.feature_channels

    @property
    def condensation_stages(self) -> int:
        """None: there is nothing to prune."""
        return 0

    def masked_convs(self) -> Iterator[MaskedConv]:
        """None: all connections are fixed."""
        return iter(())

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images [batch, height, width, 3], normalised, of any size → logits [batch, classes]."""
        check_images(self.architecture, images)
        *_, (_, x) = self._maps(images, None)
        return self.classifier(self.last(x).mean((1, 2)))

    def features(self, images: jax.Array, sizes: jax.Array | None = None) -> dict[int, jax.Array]:
        """Feature maps {4: [b, h/4, w/4, c], 8: …, 16: …, 32: …}: the last of each stride, before the last convolution.

        Args:
          images: [b, h, w, 3], normalised.
          sizes: int [b, 2], height and width of each image at the top left of its canvas. Each then has the maps that
            it would have alone, padded to a multiple of 32 pixels; beyond those they are zero. (In training, batch
            statistics are those of the whole canvas: freeze them.) None: the images fill the canvas.

        Raises:
          ValueError: images of another shape or, with `sizes`, a canvas that is no multiple of 32.
        """
        check_images(self.architecture, images)
        region = region_of(images, sizes, self.architecture.unit_strides[-1])
        last_of_each = dict(self._maps(images, region))
        return {stride: inside(x, at_stride(region, stride)) for stride, x in last_of_each.items() if stride >= 4}

    def _maps(self, images: jax.Array, region: jax.Array | None) -> Iterator[tuple[int, jax.Array]]:
        """(stride, map) before the first unit and after each."""
        stride, x = self.first_map(images, region)
        yield stride, x
        run = nnx.remat(_run) if self.remat else _run
        for unit, after in zip(self.units, self.architecture.unit_strides, strict=True):
            x = run(unit, x, at_stride(region, stride))
            stride = after
            yield stride, x

    def first_map(self, images: jax.Array, region: jax.Array | None) -> tuple[int, jax.Array]:
        """Stride and value of the map that the first unit reads."""
        return 2, self.stem(images, region)


def _run(unit: nnx.Module, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    return cast(Callable[..., jax.Array], unit)(x, mask)
