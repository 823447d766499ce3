"""Programs as GPUs and TPUs compute them: products with rounded factors, all else in float32."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.extend.core import Literal as Constant

BackEnd = Literal["gpu", "tpu"]

MANTISSA_BITS: dict[BackEnd, int] = {"gpu": 10, "tpu": 7}
"""Of TF32 and of bfloat16, which both have float32's eight bits of exponent."""

PARTS: dict[BackEnd, dict[lax.Precision, int]] = {
    "gpu": {lax.Precision.DEFAULT: 1, lax.Precision.HIGH: 1, lax.Precision.HIGHEST: 0},
    "tpu": {lax.Precision.DEFAULT: 1, lax.Precision.HIGH: 2, lax.Precision.HIGHEST: 3},
}
"""How many rounded numbers a factor is the sum of; 0 if it is not rounded."""

PRODUCTS = ("dot_general", "conv_general_dilated")
CALLS = ("jit", "pjit", "custom_jvp_call", "custom_vjp_call", "checkpoint")


def as_on(back_end: BackEnd, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, compiled, with products of float32 as on an H100 or on a TPU."""

    @jax.jit
    def run(*arguments: Any) -> Any:
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
        outputs = _run(traced.jaxpr, traced.consts, jax.tree.leaves(arguments), back_end)
        return jax.tree.unflatten(jax.tree.structure(shapes), outputs)

    return run


def _run(program: Jaxpr, constants: Sequence[Any], inputs: Sequence[Any], back_end: BackEnd) -> list[Any]:
    values = dict(zip([*program.constvars, *program.invars], [*constants, *inputs], strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Constant) else values[atom]

    for equation in program.eqns:
        given, parameters = [read(atom) for atom in equation.invars], equation.params
        bind, name = functools.partial(equation.primitive.bind, **parameters), equation.primitive.name
        if name in PRODUCTS:
            outputs = [_product(bind, given[0], given[1], parameters["precision"], back_end)]
        elif name in CALLS:
            inner: Any = parameters.get("jaxpr", parameters.get("call_jaxpr"))
            whole = inner if isinstance(inner, ClosedJaxpr) else ClosedJaxpr(inner, ())
            outputs = _run(whole.jaxpr, whole.consts, given, back_end)
        else:
            assert not any(product in str(parameters) for product in PRODUCTS), f"products inside of {name}"
            found = bind(*given)
            outputs = found if equation.primitive.multiple_results else [found]
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in program.outvars]


def _product(multiply: Callable[..., Any], a: jax.Array, b: jax.Array, precision: Any, back_end: BackEnd) -> jax.Array:
    """The sum of the products of parts that matter: 1, 3 or 6 of them."""
    count = PARTS[back_end][precision[0] if precision else lax.Precision.DEFAULT]
    if not count or a.dtype != "float32":
        return multiply(a, b)
    ours, theirs = (_parts(x, MANTISSA_BITS[back_end], count) for x in (a, b))
    products = (multiply(ours[i], theirs[j]) for i in reversed(range(count)) for j in reversed(range(count - i)))
    return functools.reduce(jax.numpy.add, products)


def _parts(x: jax.Array, bits: int, count: int) -> list[jax.Array]:
    parts = []
    for _ in range(count):
        parts.append(lax.reduce_precision(x, exponent_bits=8, mantissa_bits=bits))
        x = x - parts[-1]
    return parts
