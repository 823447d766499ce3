"""The base class of all networks, and the base class of what describes their shape."""

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar, Literal, Self

import jax
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.condensed import CondensedLinear
from cdnv2_jax.layers.learned import MaskedConv, masked_convs
from cdnv2_jax.schema import check, refuse_unknown, setting, settings

FormName = Literal["masked", "condensed", "plain"]
"""Of a network: with learned connections, with only those that it kept, or without any to learn."""

ModulePath = tuple[Hashable, ...]
"""Attributes and positions that lead to a module, such as ("blocks", 0)."""


@dataclasses.dataclass(frozen=True)
class Form:
    """Which of its forms a network has.

    Attributes:
      condensed: learned convolutions store kept connections only (False: whole kernels, with masks).
      halved_classifier: the classifier reads half of its inputs, as in the official converted CondenseNet (v1).
    """

    condensed: bool = False
    halved_classifier: bool = False


@settings
class Architecture:
    """The shape of a network as plain numbers; a subclass for every family adds its fields.

    Fields are declared with `schema.setting`, which holds their help and range; all are checked on construction. The
    decorator `schema.settings` makes a subclass a frozen dataclass.
    """

    SHORTHANDS: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Name that `override` takes → the fields that it sets."""
    PER_STAGE: ClassVar[tuple[str, ...]] = ()
    """Fields that hold one number per stage, so that all of them are of one length."""

    num_classes: int = setting("classes that the logits tell apart", default=1000, least=1)

    def __post_init__(self) -> None:
        check(self)
        lengths = [len(getattr(self, name)) for name in self.PER_STAGE]
        if lengths and (0 in lengths or len(set(lengths)) > 1):
            names, counts = (", ".join(map(str, given)) for given in (self.PER_STAGE, lengths))
            raise UserError(f"{names} need one number per stage each: got {counts} numbers")
        self.check_together()

    def check_together(self) -> None:
        """Raises UserError when numbers that are right by themselves do not fit together."""

    @property
    def feature_channels(self) -> dict[int, int]:
        """Stride → channels of the maps that `Network.features` returns, from stride 4 on, ascending."""
        raise NotImplementedError

    def smallest_map(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the last feature map for an image of that size; strides round up unless overridden."""
        stride = max(self.feature_channels)
        return -(-height // stride), -(-width // stride)

    def check_image(self, height: int, width: int) -> None:
        """Raises UserError when nothing would be left of such an image."""
        if min(height, width) < 1 or min(self.smallest_map(height, width)) < 1:
            raise UserError(f"a {height}×{width} image is too small for this network")

    def override(self, overrides: Mapping[str, Any]) -> Self:
        """Returns a copy with some fields replaced; shorthands set their fields, fields given by name win.

        Raises:
          UserError: an unknown name (the nearest one is suggested), or a value that is not allowed.
        """
        fields = {field.name for field in dataclasses.fields(self)}
        refuse_unknown(overrides, [*fields, *self.SHORTHANDS], "a network")
        changes: dict[str, Any] = {}
        for name in overrides:
            for field in self.fields_of(name, overrides) if name not in fields else ():
                changes.setdefault(field, overrides[name])
        changes.update({name: value for name, value in overrides.items() if name in fields})
        return dataclasses.replace(self, **changes)

    def fields_of(self, shorthand: str, overrides: Mapping[str, Any]) -> tuple[str, ...]:
        """The fields that a shorthand sets, given beside the other overrides."""
        return self.SHORTHANDS[shorthand]


class Network(nnx.Module):
    """A classifier, NHWC images → logits, whose feature maps may serve a detector.

    A subclass builds its layers in `__init__`, after `super().__init__`, the last of them as `classifier`, and defines
    `__call__` and `features`. Learned convolutions may sit anywhere in it.

    Attributes:
      architecture: what it is made of.
      name: its name in the registry.
      form: masked or condensed.
      dtype: of the computation; None for that of parameters and images.
      remat: whether the backward pass computes units again instead of keeping what is inside of them: less memory, a
        second forward pass. Set it before training. CPUs ignore it.
    """

    architecture: Architecture
    classifier: nnx.Linear | CondensedLinear

    def __init__(self, architecture: Architecture, *, name: str, dtype: DTypeLike | None = None):
        self.architecture = architecture
        self.name = name
        self.form = Form()
        self.dtype = dtype
        self.remat = False

    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes logits [batch, classes] of normalised images [batch, height, width, 3]."""
        raise NotImplementedError

    def features(self, images: jax.Array, sizes: jax.Array | None = None) -> dict[int, jax.Array]:
        """Computes feature maps by stride, {4: [b, h/4, w/4, c], 8: …, 16: …, 32: …}.

        Args:
          images: [b, h, w, 3], normalised.
          sizes: int [b, 2], height and width of each image at the top left of its canvas. Each then has the maps that
            it would have alone, padded to a multiple of 32 pixels; beyond those they are zero. (In training, batch
            statistics are those of the whole canvas: freeze them.) None: the images fill the canvas.

        Raises:
          ValueError: images of another shape or, with `sizes`, a canvas that is not a multiple of 32.
          UserError: images that are too small.
        """
        raise NotImplementedError

    def check_images(self, images: jax.Array) -> None:
        """ValueError unless `images` are [batch, height, width, 3]; UserError when they are too small."""
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images must be [batch, height, width, 3], got {list(images.shape)}")
        self.architecture.check_image(*images.shape[1:3])

    def masked_convs(self) -> list[MaskedConv]:
        """All learned convolutions; none in a condensed or a plain network."""
        return masked_convs(self)

    def stage_modules(self) -> list[list[ModulePath]]:
        """For each stage the paths of its modules, `[("stem",), ("blocks", 0)]`: what a detector freezes first to last.

        Modules in no stage, such as the classifier, do not lead to a feature map. By default everything but the
        classifier is one stage.
        """
        children = (name for name, value in vars(self).items() if isinstance(value, nnx.Module))
        return [[(name,) for name in children if name != "classifier"]]

    @property
    def form_name(self) -> FormName:
        """The form in a word."""
        if self.form.condensed:
            return "condensed"
        return "masked" if self.masked_convs() else "plain"

    @property
    def param_dtype(self) -> DTypeLike:
        """Of the parameters."""
        return next(leaf.dtype for leaf in jax.tree.leaves(nnx.state(self, nnx.Param)))

    @property
    def feature_channels(self) -> dict[int, int]:
        """Stride → channels of the maps that `features` returns."""
        return self.architecture.feature_channels

    @property
    def condensation_stages(self) -> int:
        """How many pruning stages training passes, the largest C − 1; 0 for a condensed or a plain network."""
        return max((conv.condensation_factor - 1 for conv in self.masked_convs()), default=0)

    @property
    def dense_blocks(self) -> tuple[int, ...]:
        """Layers of each block whose layers read all features before them; empty for networks of another kind."""
        return ()

    @property
    def classifier_can_be_halved(self) -> bool:
        """Whether the official conversion has a form with half of the classifier's inputs."""
        return False
