"""The kernels' tests run where they can be compiled and one CPU is all there is."""

import jax
import pytest

from cdnv2_jax.kernels import library


@pytest.fixture
def kernels() -> None:
    """Skips where there is no compiler, or more than one device."""
    if jax.default_backend() != "cpu" or jax.device_count() > 1 or not library.available():
        pytest.skip("no kernels here")
