"""What all networks have in common: enough to train, evaluate, save and build detectors on any of them."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, Protocol, Self

import jax
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.layers.masked_conv import MaskedConv

FormName = Literal["masked", "condensed", "plain"]
"""Of a network: with learned connections, with only those that it kept, or one that never had any to learn."""


class NetworkArchitecture(Protocol):
    """What a network is made of: a frozen dataclass of numbers, with one field `num_classes` at least."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @property
    def num_classes(self) -> int: ...

    @property
    def condensation_stages(self) -> int:
        """How many pruning stages the whole network passes; 0 where nothing is learned."""
        ...

    @property
    def feature_channels(self) -> dict[int, int]:
        """Stride → channels of the maps that `features` gives, from stride 4 on, ascending."""
        ...

    def check_image(self, height: int, width: int) -> None:
        """Raises UserError when nothing would be left of such an image."""
        ...

    def smallest_map(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the last feature map for an image of that size."""
        ...

    def override(self, overrides: Mapping[str, Any]) -> Self:
        """A copy with some fields replaced; UserError for names and numbers that cannot be."""
        ...


class Network(Protocol):
    """A classifier whose feature maps may serve a detector; always an `nnx.Module`.

    Attributes:
      name: its name in the registry. architecture: what it is made of.
      remat: whether the backward pass computes units again instead of keeping what is inside of them.
    """

    name: str
    remat: bool

    @property
    def architecture(self) -> NetworkArchitecture: ...

    @property
    def form_name(self) -> FormName: ...

    @property
    def classifier(self) -> nnx.Module:
        """The last layer, features → logits."""
        ...

    @property
    def dtype(self) -> DTypeLike | None:
        """Of the computation; None for that of parameters and images."""
        ...

    @property
    def param_dtype(self) -> DTypeLike: ...

    @property
    def feature_channels(self) -> dict[int, int]:
        """Stride → channels of the maps that `features` gives."""
        ...

    @property
    def condensation_stages(self) -> int:
        """How many pruning stages its training passes; 0 for a condensed or a plain network."""
        ...

    def __call__(self, images: jax.Array) -> jax.Array:
        """Normalised images [batch, height, width, 3] → logits [batch, classes]."""
        ...

    def features(self, images: jax.Array, sizes: jax.Array | None = None) -> dict[int, jax.Array]:
        """Stride → feature map; with `sizes` [b, 2] each image has the maps that it would have alone."""
        ...

    def masked_convs(self) -> Iterable[MaskedConv]:
        """All learned convolutions; nothing for a condensed or a plain network."""
        ...

    def train(self, **attributes: Any) -> None: ...

    def eval(self, **attributes: Any) -> None: ...
