"""CondenseNet and CondenseNetV2, masked and condensed: one network, described by its `Architecture`."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from cdnv2_jax.layers.batch_norm import BatchNorm
from cdnv2_jax.layers.condensed import CondensedLinear
from cdnv2_jax.layers.initializers import kaiming_normal_fan_out, torch_linear
from cdnv2_jax.layers.masked_conv import MaskedConv
from cdnv2_jax.layers.squeeze_excite import SqueezeExcite
from cdnv2_jax.models import kernel_path, kernel_training
from cdnv2_jax.models.architecture import Architecture
from cdnv2_jax.models.dense_layer import DenseLayer, Form


class CondenseNet(nnx.Module):
    """The whole classifier: NHWC images → logits.

    Attributes:
      architecture, form: what it is made of.
      name: its name in the registry.
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
        if self._by_kernel(images):
            x = kernel_path.pooled_features(self.stem, self.blocks, self.norm_last, images)
        else:
            *_, last = self.block_outputs(images)
            x = jax.nn.relu(self.norm_last(last)).mean((1, 2))
        if self.se_last is not None:
            x = self.se_last(x[:, None, None])[:, 0, 0]
        if self.fc is not None:
            x = jax.nn.hard_swish(self.fc(x))
        return self.classifier(x)

    def features(self, images: jax.Array) -> dict[int, jax.Array]:
        """Feature maps by stride, from stride 4 on: the blocks' outputs, the last one after its BatchNorm and ReLU.

        {4: [b, h/4, w/4, c], 8: …, 16: …, 32: …} for the ImageNet networks; a network whose blocks end at a smaller
        stride gives fewer.
        """
        maps = dict(zip(self.architecture.block_strides, self.block_outputs(images), strict=True))
        last = self.architecture.block_strides[-1]
        maps[last] = jax.nn.relu(self.norm_last(maps[last]))
        return {stride: x for stride, x in maps.items() if stride >= 4}

    def block_outputs(self, images: jax.Array) -> Iterator[jax.Array]:
        """Each dense block's output, before the average pool that leads to the next block."""
        if self._by_kernel(images):
            for x in kernel_path.block_outputs(self.stem, self.blocks, images):
                yield x.transpose(0, 2, 3, 1)
            return
        if not self.form.condensed and kernel_training.applies(self.architecture, self._kernel_modules(), images):
            yield from kernel_training.block_outputs(self.stem, self.blocks, images)
            return
        x = self.stem(images)
        for number, block in enumerate(self.blocks):
            if number:
                x = nnx.avg_pool(x, (2, 2), strides=(2, 2))
            for layer in block:
                x = layer(x)
            yield x

    def _by_kernel(self, images: jax.Array) -> bool:
        """Whether the CPU kernels take the layers' place for these images, which are checked first."""
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images must be [batch, height, width, 3], got {list(images.shape)}")
        self.architecture.check_image(*images.shape[1:3])
        return self.form.condensed and kernel_path.applies(self.architecture, self._kernel_modules(), images)

    def _kernel_modules(self) -> list[nnx.Module]:
        return [self.stem, *self.dense_layers(), self.norm_last]

    def dense_layers(self) -> Iterator[DenseLayer]:
        """All dense layers, from the stem to the head."""
        for block in self.blocks:
            yield from block

    def masked_convs(self) -> Iterator[MaskedConv]:
        """All learned convolutions, each layer's LGC before its SFR; nothing for a condensed network."""
        for layer in self.dense_layers():
            for conv in (layer.lgc, layer.sfr):
                if isinstance(conv, MaskedConv):
                    yield conv


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
