"""Base classes of all networks and of their architectures."""

import dataclasses
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import jax
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.condensed import CondensedLinear
from cdnv2_jax.layers.learned import MaskedConv, masked_convs
from cdnv2_jax.schema import check, refuse_unknown, setting, settings

if TYPE_CHECKING:
    from cdnv2_jax.data.usage import Usage  # needs Pillow and OpenCV, which take a while to import

FormName = Literal["masked", "condensed", "plain"]
"""Form of a network: with learned connections, with only the kept ones, or without learned connections."""

MOST_CLASSES = 1_000_000
MOST_STAGES = 32
MOST_UNITS = 256
"""Limits of an architecture, however it is given, so that a stranger's description is refused before it costs time.
`MOST_UNITS` is for the dense layers, or units, of all stages together: each takes 15 ms to trace."""
MOST_CHANNELS = 65_536
RGB = 3
MOST_IMAGE_CHANNELS = 512

ModulePath = tuple[Hashable, ...]
"""Attribute names and list positions that lead to a module, such as ("blocks", 0)."""


@settings
class Form:
    """The form of a network."""

    condensed: bool = setting(
        "whether learned convolutions store only the kept connections, rather than whole kernels with masks",
        default=False,
    )
    halved_classifier: bool = setting(
        "whether the classifier reads half of its inputs, as in the official converted CondenseNet (v1)", default=False
    )

    def __post_init__(self) -> None:
        check(self)


@settings
class Architecture:
    """The architecture of a network as plain numbers; each family has a subclass with its own fields.

    Fields are declared with `schema.setting`, which holds their help and range; all are checked on construction. The
    decorator `schema.settings` makes a subclass a frozen dataclass.
    """

    SHORTHANDS: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Name that `override` accepts → the fields that it sets."""
    PER_STAGE: ClassVar[tuple[str, ...]] = ()
    """Fields that hold one number per stage, and so must all have the same length."""
    UNITS_PER_STAGE: ClassVar[str | None] = None
    """Field that holds the number of layers or units of each stage: `MOST_UNITS` together."""

    num_classes: int = setting("number of classes", default=1000, least=1, most=MOST_CLASSES)
    in_channels: int = setting("channels of the images", default=RGB, least=1, most=MOST_IMAGE_CHANNELS)

    def __post_init__(self) -> None:
        check(self)
        lengths = [len(getattr(self, name)) for name in self.PER_STAGE]
        if lengths and (0 in lengths or len(set(lengths)) > 1):
            names, counts = (", ".join(map(str, given)) for given in (self.PER_STAGE, lengths))
            raise UserError(f"{names} need one number per stage each: got {counts} numbers")
        if self.UNITS_PER_STAGE and (units := sum(getattr(self, self.UNITS_PER_STAGE))) > MOST_UNITS:
            raise UserError(f"{self.UNITS_PER_STAGE} must add up to {MOST_UNITS} or fewer, got {units}")
        self.check_together()

    def check_together(self) -> None:
        """Raise UserError if fields that are valid by themselves are incompatible."""

    @property
    def feature_channels(self) -> dict[int, int]:
        """Stride → channels of the maps that `Network.features` returns, from stride 4 upwards, ascending."""
        raise NotImplementedError

    def smallest_map(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the last feature map for an image of this size; strides round up by default."""
        stride = max(self.feature_channels)
        return -(-height // stride), -(-width // stride)

    def check_image(self, height: int, width: int) -> None:
        """Raise UserError if an image of this size is too small."""
        if min(height, width) < 1 or min(self.smallest_map(height, width)) < 1:
            raise UserError(f"a {height}×{width} image is too small for this network")

    def override(self, overrides: Mapping[str, Any]) -> Self:
        """Return a copy with some fields replaced; fields given by name take precedence over shorthands.

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
        """Return the fields that a shorthand sets, given all overrides."""
        return self.SHORTHANDS[shorthand]


class Network(nnx.Module):
    """A classifier, NHWC images → logits, whose feature maps can serve a detector.

    A subclass builds its layers in `__init__`, after `super().__init__`, calls the last one `classifier`, and defines
    `__call__` and `features`. Learned convolutions may be anywhere in it.

    Attributes:
      architecture: the architecture it was built from, with as many classes as the classifier that is there.
      name: name of the model, as in the registry.
      form: masked or condensed.
      dtype: dtype of the computation; None to compute in the dtype of parameters and images.
      remat: whether the backward pass recomputes the inside of units instead of storing it: less memory, but a second
        forward pass. Set it before training. No effect on CPUs.
      usage: preprocessing and class names, saved with the network; None if unknown: a network of the registry is then
        used as in the official code. A new classifier has no class names.
    """

    architecture: Architecture
    usage: "Usage | None"
    classifier: nnx.Linear | CondensedLinear

    def __init__(self, architecture: Architecture, *, name: str, dtype: DTypeLike | None = None):
        self.architecture = architecture
        self.name = name
        self.form = Form()
        self.dtype = dtype
        self.remat = False
        self.usage = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "usage" and value is not None and value.class_names:
            value = value.with_names(value.class_names, self.architecture.num_classes)  # one for each
        super().__setattr__(name, value)
        if name == "classifier" and isinstance(value, nnx.Linear | CondensedLinear):
            classes = int(value.kernel.shape[-1])
            if classes != self.architecture.num_classes:
                self.architecture = dataclasses.replace(self.architecture, num_classes=classes)
            if self.usage is not None:
                self.usage = dataclasses.replace(self.usage, class_names=())

    def __call__(self, images: jax.Array) -> jax.Array:
        """Compute logits [batch, classes] of normalised images [batch, height, width, channels]."""
        raise NotImplementedError

    def features(self, images: jax.Array, sizes: jax.Array | None = None) -> dict[int, jax.Array]:
        """Compute feature maps by stride, {4: [b, h/4, w/4, c], 8: …, 16: …, 32: …}.

        Args:
          images: [b, h, w, channels], normalised.
          sizes: int [b, 2], height and width of each image at the top left of its canvas. Each then has the maps that
            it would have alone, padded to a multiple of 32 pixels, and zeros beyond. (In training, batch statistics
            include the whole canvas, so freeze them.) None if the images fill the canvas.

        Raises:
          ValueError: images of the wrong shape or, with `sizes`, a canvas that is not a multiple of 32.
          UserError: images that are too small.
        """
        raise NotImplementedError

    def check_images(self, images: jax.Array) -> None:
        """Raise ValueError for images of the wrong shape or channels, and UserError if they are too small."""
        channels = self.architecture.in_channels
        if images.ndim != 4 or images.shape[-1] != channels:
            raise ValueError(f"images must be [batch, height, width, {channels}], got {list(images.shape)}")
        self.architecture.check_image(*images.shape[1:3])

    def masked_convs(self) -> list[MaskedConv]:
        """Return all learned convolutions; none in a condensed or a plain network."""
        return masked_convs(self)

    def stage_modules(self) -> list[list[ModulePath]]:
        """Return each stage's module paths, e.g. `[("stem",), ("blocks", 0)]`, in the order detectors freeze them.

        Modules that do not lead to a feature map, such as the classifier, are in no stage. By default everything but
        the classifier is one stage.
        """
        children = (name for name, value in vars(self).items() if isinstance(value, nnx.Module))
        return [[(name,) for name in children if name != "classifier"]]

    @property
    def form_name(self) -> FormName:
        """Name of the form."""
        if self.form.condensed:
            return "condensed"
        return "masked" if self.masked_convs() else "plain"

    @property
    def param_dtype(self) -> DTypeLike:
        """dtype of the parameters."""
        return next(leaf.dtype for leaf in jax.tree.leaves(nnx.state(self, nnx.Param)))

    @property
    def feature_channels(self) -> dict[int, int]:
        """Stride → channels of the maps that `features` returns."""
        return self.architecture.feature_channels

    @property
    def condensation_stages(self) -> int:
        """Number of pruning stages in training, the largest C − 1; 0 for a condensed or a plain network."""
        return max((conv.condensation_factor - 1 for conv in self.masked_convs()), default=0)

    @property
    def dense_blocks(self) -> tuple[int, ...]:
        """Number of layers of each dense block; empty for networks without dense blocks."""
        return ()

    @property
    def classifier_can_be_halved(self) -> bool:
        """Whether the official conversion can halve the classifier's inputs."""
        return False
