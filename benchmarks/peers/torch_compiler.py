"""`torch.compile` that never falls back to eager execution, without its warnings."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

# PyTorch counts compilations per source line, over all networks and shapes; beyond eight it silently runs eagerly.
COMPILATIONS = 256


def compiled(function: Callable[..., Any], mode: str | None = None) -> Callable[..., Any]:
    """Compile a function or module with inductor at its first call, and again for every new shape."""
    with others_warnings_ignored():
        import torch._dynamo.config as config

        config.recompile_limit = config.accumulated_recompile_limit = COMPILATIONS
        config.fail_on_recompile_limit_hit = True
        return torch.compile(function, mode=mode, dynamic=False)


@contextlib.contextmanager
def others_warnings_ignored() -> Iterator[None]:
    """Ignore warnings: compilers and exporters use deprecated parts of their own libraries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
