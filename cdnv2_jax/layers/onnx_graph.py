"""A thin builder of ONNX graphs, and weights in ONNX's layout."""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from cdnv2_jax.errors import import_optional
from cdnv2_jax.layers.learned import MaskedConv
from cdnv2_jax.layers.norm import EPSILON, BatchNorm
from cdnv2_jax.layers.valid_region import MULTIPLE

if TYPE_CHECKING:
    import onnx


class Norm(NamedTuple):
    """A batch normalisation in evaluation mode: (x − mean) / √(var + ε) · scale + bias; each array is [c]."""

    scale: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    var: np.ndarray

    def of(self, channels: np.ndarray) -> "Norm":
        """Return the normalisation of the given channels, in that order."""
        return Norm(*(part[channels] for part in self))


def values(array: Any) -> np.ndarray:
    """Return the values of a variable or array of any type as float64."""
    return np.asarray(array[...]).astype(np.float64)


def norm_of(module: BatchNorm) -> Norm:
    """Return the values of a BatchNorm."""
    return Norm(values(module.scale), values(module.bias), values(module.mean), values(module.var))


def fold(kernel: np.ndarray, norm: Norm | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Fold the normalisation that follows, if any, into a kernel [out, in, h, w]; return the kernel and bias [out]."""
    if norm is None:
        return kernel, None
    factor = norm.scale / np.sqrt(norm.var + EPSILON)
    return kernel * factor[:, None, None, None], norm.bias - norm.mean * factor


def window_kernel(kernel: Any) -> np.ndarray:
    """Transpose a convolution kernel: [h, w, in / groups, out] → [out, in / groups, h, w]."""
    return values(kernel).transpose(3, 2, 0, 1)


def pointwise_kernel(kernel: Any) -> np.ndarray:
    """Transpose a 1×1 kernel: [in, out] → [out, in, 1, 1]."""
    return values(kernel).T[:, :, None, None]


def masked_kernel(layer: MaskedConv) -> np.ndarray:
    """Return the kernel [out, in, 1, 1], zero where connections were removed."""
    return pointwise_kernel(layer.kernel) * pointwise_kernel(np.asarray(layer.kernel_mask()))


def merge_groups(kernel: np.ndarray, groups: int, merged: int) -> np.ndarray:
    """Merge groups of a kernel: [out, in, h, w] → [out, merged · in, h, w] with groups / merged groups and zeros."""
    outputs, inputs, *window = kernel.shape
    blocks = kernel.reshape(groups // merged, merged, outputs // groups, inputs, *window)
    wide = np.zeros((groups // merged, merged, outputs // groups, merged, inputs, *window))
    for member in range(merged):
        wide[:, member, :, member] = blocks[:, member]
    return wide.reshape(outputs, merged * inputs, *window)


OPSET, IR_VERSION = 17, 8
"""Old enough for everything that reads ONNX files today."""

Side = int | str
"""One dimension of a shape: a number, or a name if it is known only when the model runs."""


@dataclasses.dataclass(frozen=True)
class Map:
    """A feature map [batch, channels, height, width], or [batch, channels].

    Attributes:
      name: name of the value in the graph.
      channels: number of channels.
      stride: pixels of the images between its cells.
    """

    name: str
    channels: int
    stride: int = 1

    def then(self, name: str, channels: int | None = None, stride: int = 1) -> "Map":
        """Return a map computed from this one, with the same channels or others, `stride` times as coarse."""
        return Map(name, self.channels if channels is None else channels, self.stride * stride)


@dataclasses.dataclass(frozen=True)
class Canvas:
    """What a batch of images of several sizes lies on; each is at the top left and zero elsewhere.

    Attributes:
      sizes: name of an input, int32 [batch, 2], height and width of each image.
      height: of the canvas in pixels.
      width: of the canvas in pixels.
    """

    sizes: str
    height: int
    width: int


class Graph:
    """A graph under construction: nodes in the order of computation, and constants, each stored once.

    Nodes and constants are named after the scope that adds them, so the same network always gives the same file.

    With a `canvas`, whatever reads several cells of a map reads zeros beyond an image, padded to a multiple of 32, as
    in `layers.valid_region`: convolutions, pools with overlapping windows and means.
    """

    def __init__(self, canvas: Canvas | None = None) -> None:
        self.canvas = canvas
        self._regions: dict[int, str] = {}
        self._onnx = import_optional("onnx", "export")
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], onnx.TensorProto] = {}
        self._scopes: list[str] = []
        self._names: Counter[str] = Counter()

    @contextlib.contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix the names added inside with `name/`."""
        self._scopes.append(name)
        yield
        self._scopes.pop()

    def constant(self, array: np.ndarray, name: str = "constant") -> str:
        """Return the name of a constant, stored as float32 if floating-point; equal constants are stored once."""
        array = np.asarray(array, np.float32 if array.dtype.kind == "f" else array.dtype)
        key = str(array.dtype), array.shape, array.tobytes()
        if key not in self._constants:
            self._constants[key] = self._onnx.numpy_helper.from_array(array, self._unique(name))
        return self._constants[key].name

    def _unique(self, name: str) -> str:
        path = "/".join([*self._scopes, name])
        self._names[path] += 1
        return path if self._names[path] == 1 else f"{path}_{self._names[path]}"

    def integers(self, *numbers: int) -> str:
        """Return the name of a constant int64 [n], such as a shape, axes or a limit."""
        return self.constant(np.array(numbers, np.int64))

    def number(self, value: float) -> str:
        """Return the name of a constant float32 scalar."""
        return self.constant(np.array(value, np.float32))

    def add(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        (name,) = self.add_many(op, inputs, [output or self._unique(op)], **attributes)
        return name

    def add_many(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Sequence[str]:
        """Add a node with several outputs and return their names."""
        self._nodes.append(self._onnx.helper.make_node(op, inputs, outputs, name=outputs[0], **attributes))
        return outputs

    def cast(self, x: str, kind: DTypeLike) -> str:
        """Convert x to another type."""
        return self.add("Cast", x, to=self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)))

    def split(self, x: str, parts: int, axis: int) -> Sequence[str]:
        """Split x into equal parts along an axis and return their names."""
        return self.add_many("Split", [x], [self._unique("part") for _ in range(parts)], axis=axis)

    def top_k(self, x: str, k: str, axis: int, *, largest: bool = True) -> tuple[str, str]:
        """Return (values, indices) of the k largest or smallest of x along an axis, sorted; ties go to the first."""
        names = [self._unique("best"), self._unique("indices")]
        values, indices = self.add_many("TopK", [x, k], names, axis=axis, largest=int(largest), sorted=1)
        return values, indices

    def conv(
        self, x: Map, kernel: np.ndarray, bias: np.ndarray | None = None, *, groups: int = 1, stride: int = 1
    ) -> Map:
        """Add a convolution by a kernel [out, in / groups, k, k], k odd, with padding k // 2."""
        outputs, _, *window = kernel.shape
        x = x if window == [1, 1] else self.inside(x)
        inputs = [x.name, self.constant(kernel, "kernel")]
        if bias is not None:
            inputs.append(self.constant(bias, "bias"))
        pads = 2 * [side // 2 for side in window]
        name = self.add("Conv", *inputs, kernel_shape=window, pads=pads, strides=[stride, stride], group=groups)
        return x.then(name, outputs, stride)

    def norm(self, x: Map, norm: Norm) -> Map:
        """Add a batch normalisation."""
        constants = [self.constant(part, name) for name, part in norm._asdict().items()]
        return x.then(self.add("BatchNormalization", x.name, *constants, epsilon=EPSILON))

    def apply(self, op: str, *maps: Map, **attributes: Any) -> Map:
        """Add an operation, other than a convolution, whose result has as many channels as the first of its maps."""
        first, strides = maps[0], attributes.get("strides", [1, 1])
        if op == "GlobalAveragePool" and self.canvas:
            # The mean over the image is that over the canvas, with zeros beyond the image, by its share of the canvas.
            mean = self.add(op, self.inside(first).name)
            return first.then(self.add("Div", mean, self.add(op, self.region(first.stride))))
        if attributes.get("kernel_shape", strides) != strides:
            maps = tuple(self.inside(each) for each in maps)
        return first.then(self.add(op, *(each.name for each in maps), **attributes), stride=strides[0])

    def inside(self, x: Map) -> Map:
        """Zero a map beyond each image, padded to a multiple of 32; without a canvas, x itself."""
        return x.then(self.add("Mul", x.name, self.region(x.stride))) if self.canvas else x

    def region(self, stride: int) -> str:
        """Return the name of the canvas's cells of that stride, float32 [batch, 1, h, w]: 1 inside an image, else 0."""
        assert self.canvas is not None
        if stride not in self._regions:
            with self.scope(f"region_{stride}"):
                sizes = self.add("Unsqueeze", self.canvas.sizes, self.integers(2, 3))
                # [batch, 1, 1, 1] against [h, 1] and [1, w]
                covered = [
                    self.add("Less", self.constant(_multiples(side, stride).reshape(shape), "pixels"), size)
                    for side, shape, size in zip(
                        (self.canvas.height, self.canvas.width),
                        ((-1, 1), (1, -1)),
                        self.split(sizes, 2, axis=1),
                        strict=True,
                    )
                ]
                self._regions[stride] = self.cast(self.add("And", *covered), np.float32)
        return self._regions[stride]

    def concatenate(self, *maps: Map) -> Map:
        """Concatenate the channels of all maps."""
        name = self.add("Concat", *(each.name for each in maps), axis=1)
        return maps[0].then(name, sum(each.channels for each in maps))

    def gather(self, x: Map, channels: np.ndarray) -> Map:
        """Select the channels with the given numbers, in that order."""
        index = self.constant(channels.astype(np.int64), "channels")
        return x.then(self.add("Gather", x.name, index, axis=1), len(channels))

    def linear(self, x: Map, kernel: np.ndarray, bias: np.ndarray | None, output: str | None = None) -> Map:
        """Multiply x [batch, in] by a kernel [in, out] and add a bias [out], if any."""
        inputs = [x.name, self.constant(kernel, "kernel")]
        if bias is not None:
            inputs.append(self.constant(bias, "bias"))
        return x.then(self.add("Gemm", *inputs, output=output), kernel.shape[1])

    def model(
        self,
        name: str,
        *,
        inputs: Mapping[str, tuple[DTypeLike, Sequence[Side]]],
        outputs: Mapping[str, tuple[DTypeLike, Sequence[Side]]],
        description: str,
    ) -> "onnx.ModelProto":
        """Build the model, infer all shapes in it, and check it.

        Args:
          name: name of the graph.
          inputs, outputs: name → (dtype, shape).
          description: the file's doc string.
        """
        helper = self._onnx.helper
        given, returned = (
            [
                helper.make_tensor_value_info(each, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape)
                for each, (kind, shape) in ends.items()
            ]
            for ends in (inputs, outputs)
        )
        graph = helper.make_graph(self._nodes, name, given, returned, initializer=list(self._constants.values()))
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="cdnv2_jax",
            producer_version=_version(),
            doc_string=description,
        )
        model = self._onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        self._onnx.checker.check_model(model, full_check=True)
        return model


def _multiples(side: int, stride: int) -> np.ndarray:
    """Return for each cell of a row the first of the 32 pixels that an image covers together: int32 [side / stride]."""
    return (np.arange(0, side, stride) // MULTIPLE * MULTIPLE).astype(np.int32)


def _version() -> str:
    try:
        return version("cdnv2-jax")
    except PackageNotFoundError:  # run from the sources, not installed
        return ""
