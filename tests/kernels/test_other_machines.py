"""Kernels on processors without AVX-512, on several devices, and in programs that are to run elsewhere."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

from cdnv2_jax.layers.lowering import override, tracing_for
from tests.kernels.networks import condensed_network, program, random_images, run
from tests.twin_models import assert_near

pytestmark = pytest.mark.usefixtures("kernels")

ROOT = Path(__file__).parents[2]
EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"

COMMON = """
import jax, numpy as np
from flax import nnx
from tests.kernels.networks import condensed_network, program, random_images, run
model, images = condensed_network(), random_images(8, 21, 12)
"""

ALONE = """
assert "cdnv2." in program(model, images)
np.save(file, run(model, images, condensed_block="kernel"))
"""

SHARDED = """
from jax.sharding import Mesh, NamedSharding, PartitionSpec
mesh = Mesh(np.asarray(jax.devices()), ("batch",))
assert mesh.size == 8
images = jax.device_put(images, NamedSharding(mesh, PartitionSpec("batch")))
assert "cdnv2." not in program(model, images)
np.save(file, run(model, images, condensed_block="kernel"))
"""


def logits_of_a_process(directory: Path, code: str, **environment: str) -> np.ndarray:
    file = directory / "logits.npy"
    code = f"{COMMON}\nfile = {str(file)!r}\n{code}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, check=True)
    return np.load(file)


# Each is a process of its own, and the first compiles the kernels, which takes most of a minute.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "environment"),
    [
        pytest.param(ALONE, {"CDNV2_KERNEL_FLAGS": "-march=x86-64-v3"}, id="AVX2", marks=pytest.mark.soak),
        pytest.param(SHARDED, {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {EIGHT_DEVICES}"}, id="8 devices"),
    ],
)
def test_the_same_logits(code: str, environment: dict[str, str], tmp_path: Path) -> None:
    if "-march" in environment.get("CDNV2_KERNEL_FLAGS", "") and os.uname().machine != "x86_64":
        pytest.skip("another processor")
    expected = run(condensed_network(), random_images(8, 21, 12), condensed_block="layers")
    assert_near(logits_of_a_process(tmp_path, code, **environment), expected, 1e-5)


def test_no_kernels_for_other_platforms() -> None:
    model, images = condensed_network(), random_images(1, 8, 8)
    assert "cdnv2." in program(model, images)
    for platform in ("tpu", "gpu"):
        with tracing_for(platform):
            assert "cdnv2." not in program(model, images)
    with override(condensed_block="layers"):
        assert "cdnv2." not in program(model, images)


def exported(images: Any) -> str:
    graph, state = nnx.split(condensed_network())
    forward = jax.jit(lambda images: nnx.merge(graph, state)(images))
    return str(export.export(forward)(images).mlir_module())


def test_exported_programs_have_no_kernels() -> None:
    """Those for batches of any size never, others under an override."""
    batch = export.symbolic_shape("batch, 8, 8, 3")
    assert "cdnv2." not in exported(jax.ShapeDtypeStruct(batch, jnp.float32))
    with override(condensed_block="layers"):
        assert "cdnv2." not in exported(random_images(1, 8, 8))
