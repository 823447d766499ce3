"""Which kind of device a layer is traced for; layers choose their lowerings by it."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_other: ContextVar[str | None] = ContextVar("platform", default=None)


def traced_platform() -> str:
    """ "cpu", "gpu" or "tpu": that of the default devices, unless inside of `tracing_for`."""
    return _other.get() or jax.default_backend()


@contextlib.contextmanager
def tracing_for(name: str) -> Iterator[None]:
    """Layers traced inside choose as on that platform: for programs compiled here to run elsewhere."""
    token = _other.set(name)
    try:
        yield
    finally:
        _other.reset(token)
