"""Which kind of device a layer is traced for; layers choose their lowerings by it."""

import contextlib
from collections.abc import Iterator

import jax

# Part of what JAX's caches of traced functions go by: a function traced for one platform is traced again for another.
_other = jax.make_user_context(None)


def traced_platform() -> str:
    """ "cpu", "gpu" or "tpu": that of the default devices, unless inside of `tracing_for`."""
    return _other.value or jax.default_backend()


@contextlib.contextmanager
def tracing_for(name: str) -> Iterator[None]:
    """Layers traced inside choose as on that platform: for programs compiled here to run elsewhere."""
    with _other(name):
        yield
