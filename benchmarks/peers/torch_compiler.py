"""`torch.compile` that never falls back to eager execution, without its warnings."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

# PyTorch counts compilations per source line, over all networks and shapes; beyond eight it silently runs eagerly.
COMPILATIONS = 256


def compiled(function: Callable[..., Any], device: str = "cpu", *, autotune: bool = False) -> Callable[..., Any]:
    """Compile a function or module with inductor at its first call, and again for every new shape.

    On "cuda" it is replayed as CUDA graphs. `autotune` times several kernels for each product, which takes minutes.
    """
    mode = "max-autotune" if autotune else "reduce-overhead" if device == "cuda" else None
    with others_warnings_ignored():
        import torch._dynamo.config as config

        config.recompile_limit = config.accumulated_recompile_limit = COMPILATIONS
        config.fail_on_recompile_limit_hit = True
        return torch.compile(function, mode=mode, dynamic=False)


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid a GPU to round float32 operands of products and convolutions to TF32."""
    backends: tuple[Any, Any] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = allowed
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


@contextlib.contextmanager
def others_warnings_ignored() -> Iterator[None]:
    """Ignore warnings: compilers and exporters use deprecated parts of their own libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
