"""The C++ functions called as no Python of ours does: each wrong call is an error, and none writes out of bounds."""

import contextlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdnv2_jax.kernels.inference import Layer, Norm, condensed_block
from cdnv2_jax.kernels.training import positions
from tests.tables import table

pytestmark = pytest.mark.usefixtures("kernels")

REFUSED = (ValueError, jax.errors.JaxRuntimeError)
HUGE = (2**32, 2**58)
H, W = 3, 4
MASK = np.ones((2, 4), bool)
P = positions(H, W)


def call(target: str, results: Any, *arguments: Any, **attributes: Any) -> None:
    """A custom call with float32 arguments and results of these shapes; arrays and other values are passed as they are.

    Numbers among the attributes become 64-bit.
    """
    given = [jnp.ones(a, jnp.float32) if isinstance(a, tuple) else a for a in arguments]
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in results]
    numbers = {k: np.int64(v) if type(v) is int else v for k, v in attributes.items()}
    jax.block_until_ready(jax.ffi.ffi_call(f"cdnv2.{target}", shapes)(*given, **numbers))


def stem(stride: Any = 2, images: Any = (1, 8, 8, 3), kernel: Any = (3, 3, 3, 4), out: Any = (1, 4, 4, 4)) -> None:
    call("Stem", [out], images, kernel, stride=stride)


def pool(target: str, height: int = H, width: int = W, large: int = P, small: int = positions(H // 2, W // 2)) -> None:
    maps = (2, 5, large), (2, 5, small)
    given, result = maps if target == "PoolForward" else maps[::-1]
    call(target, [result], given, height=height, width=width)


def conv(groups: int = 2, height: int = H, width: int = W, size: int = P, scale: int = 4, outputs: int = 6) -> None:
    out = [(2, outputs, P), (4,), (4,)]
    attributes: dict[str, Any] = {"height": height, "width": width, "hard_swish": False, "groups": groups}
    call("ConvForward", out, (2, 4, size), (scale,), (4,), (3, 3, 2, 6), **attributes)


def conv_backward(groups: int = 2, height: int = H, dy: Any = (2, 6, P), dkernel: Any = (3, 3, 2, 6)) -> None:
    attributes: dict[str, Any] = {"height": height, "width": W, "hard_swish": True, "groups": groups}
    vectors = [(4,)] * 4
    call("ConvBackward", [(2, 4, P), (4,), (4,), dkernel], dy, (2, 4, P), *vectors, (3, 3, 2, 6), **attributes)


def pointwise(height: int = H, mask: Any = MASK, residual: Any = (2, 6, P), out: int = 10) -> None:
    attributes: dict[str, Any] = {"height": height, "width": W, "hard_swish": False, "outputs_grouped": True}
    call("PointwiseForward", [(2, out, P), (4,), (4,)], (2, 4, P), (4,), (4,), (4, 6), mask, residual, **attributes)


def pointwise_backward(height: int = H, direct_from: int = 6, direct: Any = (2, 10, P), dy: Any = (2, 6, P)) -> None:
    attributes: dict[str, Any] = {"height": height, "width": W, "hard_swish": False, "outputs_grouped": True}
    given = dy, (2, 4, P), (4,), (4,), (4,), (4,), (4, 6), MASK, direct
    results = [(2, 4, P), (4,), (4,), (4, 6)]
    call("PointwiseBackward", results, *given, **attributes, direct_from=direct_from)


def block(
    layers: int = 1, conv_groups: int = 2, pooling: str = "none", out: Any = (1, 12, H, W), index: int = 7
) -> None:
    """A layer that reads 8 channels: LGC of 2 groups of 4 inputs to 16 channels, growth 4, no SE and no SFR."""
    indices = jnp.array([[0, 1, 2, index], [3, 4, 5, 6]], jnp.int32)
    given = (1, 8, H, W), indices, (2, 4, 8), *[(8,)] * 4, *[(16,)] * 4, (3, 3, 8, 4)
    flags: dict[str, Any] = {"hard_swish": True, "se": False, "sfr": False, "pooling": pooling}
    call("CondensedBlock", [out], *given, layers=layers, conv_groups=conv_groups, **flags)


def head(channels: int = 4, out: Any = (1, 4)) -> None:
    call("Head", [out], (1, 4, H, W), (channels,), (4,), (4,), (4,))


def test_right_calls() -> None:
    """So that the wrong ones are refused for what is wrong with them."""
    stem()
    pool("PoolForward")
    pool("PoolBackward")
    conv()
    conv_backward()
    pointwise()
    pointwise_backward()
    block()
    head()


@table(
    "function, wrong",
    [
        (stem, {"stride": [0, -1, 65, *HUGE], "images": [(1, 8, 8, 4)], "kernel": [(5, 3, 3, 4)]}),
        (stem, {"out": [(1, 4, 5, 4), (2, 4, 4, 4), (1, 5, 4, 4)]}),
        (lambda **wrong: pool("PoolForward", **wrong), {"height": [0, -1, 4, *HUGE], "width": [0, 5, *HUGE]}),
        (lambda **wrong: pool("PoolBackward", **wrong), {"height": [0, *HUGE], "small": [16], "large": [8, 32]}),
        (conv, {"groups": [0, -1, 3, 4, *HUGE], "height": [0, -3, *HUGE], "width": HUGE, "size": [8, 24]}),
        (conv, {"scale": [3, 5], "outputs": [5, 7]}),
        (conv_backward, {"groups": [0, 3, *HUGE], "height": HUGE, "dy": [(2, 5, P), (1, 6, P)]}),
        (conv_backward, {"dkernel": [(3, 3, 1, 6), (1, 3, 2, 6)]}),
        (
            pointwise,
            {"height": [0, *HUGE], "mask": [MASK[:0], np.ones((4, 4), bool), np.ones((2, 5), bool)], "out": [6, 9]},
        ),
        (pointwise, {"residual": [(2, 5, P), (1, 6, P), (2, 6, 8), np.ones((2, 6, P), bool)]}),
        (pointwise_backward, {"direct_from": [-1, 7, 2**63 - 1], "direct": [(2, 9, P), (1, 10, P)], "dy": [(2, 5, P)]}),
        (block, {"layers": [0, -1, 2, *HUGE], "conv_groups": [0, -2, 3, 4, *HUGE], "pooling": ["", "beside"]}),
        (block, {"out": [(1, 12, 3, 3), (1, 11, 3, 4), (2, 12, 3, 4)], "index": [8, -1, 2**31 - 1]}),
        (head, {"channels": [1, 5], "out": [(1, 5), (2, 4)]}),
    ],
)
def test_wrong_calls(function: Any, wrong: dict[str, Any]) -> None:
    """Each argument in turn."""
    accepted = []
    for name, value in ((name, value) for name, values in wrong.items() for value in values):
        with contextlib.suppress(*REFUSED):
            function(**{name: value})
            accepted.append((name, value))
    assert accepted == []


def test_too_little_memory_is_an_error_in_every_thread() -> None:
    """Working memory of a terabyte for arguments of 20 MB; a failed allocation would end the process."""
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "1":
        pytest.skip("this system promises memory that it does not have")
    hidden, size = 2**18, 2**18
    layer = Layer(
        jnp.zeros((1, 1), jnp.int32),
        jnp.ones((1, 1, hidden)),
        Norm(*[jnp.ones(1)] * 4),
        Norm(*[jnp.ones(hidden)] * 4),
        jnp.ones((3, 3, hidden, 1)),
        *[None] * 5,
    )
    with pytest.raises(REFUSED, match="out of memory"):
        x = jnp.ones((4, 1, 2, size))
        jax.block_until_ready(condensed_block(x, [layer], conv_groups=1, hard_swish=False, pooling="none"))
