"""Fields of architectures: which values are refused, and which names when they are overridden."""

import dataclasses
import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar, Literal, Protocol, Self

import jax
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.learned import MaskedConv


def make_tuples(architecture: Any, names: Iterable[str]) -> None:
    """Turns fields of a frozen dataclass, lists as JSON has them, into tuples; UserError for what is no sequence."""
    for name in names:
        try:
            object.__setattr__(architecture, name, tuple(getattr(architecture, name)))
        except TypeError:
            raise UserError(f"{name} must be a sequence of numbers, got {getattr(architecture, name)!r}") from None


def check_whole(name: str, value: Any, lowest: int = 1) -> None:
    """UserError unless `value` is a whole number from `lowest` on, or a tuple of such."""
    for number in value if isinstance(value, tuple) else (value,):
        if not isinstance(number, int) or isinstance(number, bool) or number < lowest:
            raise UserError(f"{name} must be {lowest} or more and whole, got {number!r}")


def refuse_unknown(overrides: Mapping[str, Any], fields: Collection[str], shorthands: Collection[str] = ()) -> None:
    """UserError for an override that is neither a field nor a shorthand, with the nearest of them."""
    for name in overrides:
        if name not in fields and name not in shorthands:
            near = difflib.get_close_matches(name, [*fields, *shorthands], n=1)
            hint = f", did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(fields))}"
            raise UserError(f"a network has no {name!r}{hint}")


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
