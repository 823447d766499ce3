"""CondenseNet and CondenseNetV2, masked and condensed: one network, described by its `Architecture`."""

from collections.abc import Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.layers.condensed import CondensedLinear
from cdnv2_jax.layers.initializers import kaiming_normal_fan_out, torch_linear
from cdnv2_jax.layers.learned import MaskedConv
from cdnv2_jax.layers.norm import BatchNorm
from cdnv2_jax.layers.squeeze_excite import SqueezeExcite
from cdnv2_jax.layers.valid_region import at_stride, check_images, inside, region_of
from cdnv2_jax.networks.condensenet import kernel_inference, kernel_training
from cdnv2_jax.networks.condensenet.architecture import Architecture
from cdnv2_jax.networks.condensenet.dense_layer import DenseLayer, Form


class CondenseNet(nnx.Module):
    """The whole classifier: NHWC images → logits.

    Attributes:
      architecture, form: what it is made of.
      name: its name in the registry.
      remat: whether the backward pass computes what is inside of dense layers again instead of keeping it: less memory,
        a second forward pass. False at first; set it before training. CPUs ignore it.
    """

    def __init__(
        self,
        architecture: Architecture,
        form: Form | None = None,
        *,
        name: str,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.architecture = architecture
        self.form = form or Form()
        self.name = name
        self.dtype = dtype
        self.remat = False
        a = architecture
        types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.stem = nnx.Conv(
            3,
            a.stem_channels,
            (3, 3),
            strides=a.stem_stride,
            padding=1,
            use_bias=False,
            kernel_init=kaiming_normal_fan_out(a.stem_channels, receptive_field=9),
            **types,
        )
        blocks: list[list[DenseLayer]] = [[] for _ in a.stages]
        for block, _, channels, _ in a.dense_layers():
            blocks[block].append(DenseLayer(a, block, channels, self.form, **types))
        self.blocks = nnx.List([nnx.List(layers) for layers in blocks])
        self.norm_last = BatchNorm(a.out_channels, param_dtype=param_dtype)
        self._build_head(types)

    def _build_head(self, types: dict[str, Any]) -> None:
        a = self.architecture

        def linear(inputs: int, outputs: int, bias_init: nnx.Initializer) -> nnx.Linear:
            return nnx.Linear(inputs, outputs, kernel_init=torch_linear(inputs), bias_init=bias_init, **types)

        if a.head_width is None:
            # CondenseNet (v1) starts its only Linear from zero bias; v2 leaves PyTorch's default.
            features, bias_init = a.out_channels, nnx.initializers.zeros_init()
            self.se_last = self.fc = None
        else:
            features, bias_init = a.head_width, torch_linear(a.head_width)
            self.se_last = SqueezeExcite(a.out_channels, a.head_reduction, **types)
            self.fc = linear(a.out_channels, a.head_width, torch_linear(a.out_channels))
        if self.form.halved_classifier:
            self.classifier = CondensedLinear(features, a.num_classes, **types)
        else:
            self.classifier = linear(features, a.num_classes, bias_init)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Images [batch, height, width, 3], normalised, of any size the strides allow → logits [batch, classes]."""
        check_images(self.architecture, images)
        if self._by_kernel(images):
            x = kernel_inference.pooled_features(self.stem, self.blocks, self.norm_last, images)
        else:
            *_, last = self.block_outputs(images)
            x = jax.nn.relu(self.norm_last(last)).mean((1, 2))
        if self.se_last is not None:
            x = self.se_last(x[:, None, None])[:, 0, 0]
        if self.fc is not None:
            x = jax.nn.hard_swish(self.fc(x))
        return self.classifier(x)

    def features(self, images: jax.Array, sizes: jax.Array | None = None) -> dict[int, jax.Array]:
        """Feature maps by stride, from stride 4 on: the blocks' outputs, the last one after its BatchNorm and ReLU.

        {4: [b, h/4, w/4, c], 8: …, 16: …, 32: …} for the ImageNet networks; a network whose blocks end at a smaller
        stride gives fewer. The squeeze-and-excitation of the classifier's head is left out.

        Args:
          images: [b, h, w, 3], normalised.
          sizes: int [b, 2], height and width of each image at the top left of its canvas. Each then has the maps that
            it would have alone, padded to a multiple of 32 pixels; beyond those they are zero. (In training, batch
            statistics are those of the whole canvas: freeze them.) None: the images fill the canvas.

        Raises:
          ValueError: images of another shape or, with `sizes`, a canvas that is no multiple of 32.
          UserError: images that are too small.
        """
        maps = dict(zip(self.architecture.block_strides, self.block_outputs(images, sizes), strict=True))
        last = self.architecture.block_strides[-1]
        maps[last] = jax.nn.relu(self.norm_last(maps[last]))
        region = region_of(images, sizes, last)
        return {stride: inside(x, at_stride(region, stride)) for stride, x in maps.items() if stride >= 4}

    def block_outputs(self, images: jax.Array, sizes: jax.Array | None = None) -> Iterator[jax.Array]:
        """Each dense block's output, before the average pool that leads to the next block; `sizes` as for `features`.

        With `sizes` the values beyond an image's own padding are left as they come.
        """
        check_images(self.architecture, images)
        if sizes is None and self._by_kernel(images):
            for x in kernel_inference.block_outputs(self.stem, self.blocks, images):
                yield x.transpose(0, 2, 3, 1)
        elif sizes is None and self._by_training_kernel(images):
            yield from kernel_training.block_outputs(self.stem, self.blocks, images)
        else:
            yield from self._outputs_of_layers(images, sizes)

    def _outputs_of_layers(self, images: jax.Array, sizes: jax.Array | None) -> Iterator[jax.Array]:
        strides = self.architecture.block_strides
        region = region_of(images, sizes, strides[-1])
        x = self.stem(inside(images, region))
        run = nnx.remat(_run) if self.remat else _run
        for stride, block in zip(strides, self.blocks, strict=True):
            if stride > strides[0]:
                x = nnx.avg_pool(x, (2, 2), strides=(2, 2))
            for layer in block:
                x = run(layer, x, at_stride(region, stride))
            yield x

    def _by_kernel(self, images: jax.Array) -> bool:
        """Whether the CPU kernels take the layers' place for these images, in evaluation mode."""
        modules, condensed = self._kernel_modules(), self.form.condensed
        return kernel_inference.applies(self.architecture, modules, images, condensed=condensed)

    def _by_training_kernel(self, images: jax.Array) -> bool:
        masked = not self.form.condensed
        return masked and kernel_training.applies(self.architecture, self._kernel_modules(), images)

    def _kernel_modules(self) -> list[nnx.Module]:
        return [self.stem, *self.dense_layers(), self.norm_last]

    def dense_layers(self) -> Iterator[DenseLayer]:
        """All dense layers, from the stem to the head."""
        for block in self.blocks:
            yield from block

    @property
    def form_name(self) -> Literal["masked", "condensed"]:
        """The form in a word."""
        return "condensed" if self.form.condensed else "masked"

    @property
    def param_dtype(self) -> DTypeLike:
        """Of the parameters."""
        return self.stem.kernel.dtype

    @property
    def feature_channels(self) -> dict[int, int]:
        """Stride → channels of the maps that `features` gives."""
        return self.architecture.feature_channels

    @property
    def condensation_stages(self) -> int:
        """How many pruning stages the network passes; 0 for a condensed one."""
        return 0 if self.form.condensed else self.architecture.condensation_stages

    def masked_convs(self) -> Iterator[MaskedConv]:
        """All learned convolutions, each layer's LGC before its SFR; nothing for a condensed network."""
        for layer in self.dense_layers():
            for conv in (layer.lgc, layer.sfr):
                if isinstance(conv, MaskedConv):
                    yield conv


def _run(layer: DenseLayer, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    return layer(x, mask)


def abstract_network(
    architecture: Architecture,
    form: Form,
    *,
    name: str,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike = jnp.float32,
) -> CondenseNet:
    """A network in evaluation mode whose variables have shapes but no values yet: to be filled in."""
    model = nnx.eval_shape(
        lambda: CondenseNet(architecture, form, name=name, dtype=dtype, param_dtype=param_dtype, rngs=nnx.Rngs(0))
    )
    model.eval()
    return model
