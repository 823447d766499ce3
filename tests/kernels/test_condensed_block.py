"""The kernel's own manners: NaN, wrong calls, its independence of threads and instruction sets."""

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdnv2_jax.kernels.inference import Layer, condensed_block
from cdnv2_jax.networks.condensenet.kernels import _arrays
from cdnv2_jax.networks.condensenet.network import DenseLayer
from cdnv2_jax.weights.programs import compiled_forward
from tests.kernels.networks import V2, condensed_network, random_images, run
from tests.tables import table

pytestmark = pytest.mark.usefixtures("kernels")

ROOT = Path(__file__).parents[2]
REFUSED = (ValueError, jax.errors.JaxRuntimeError)  # JAX raises one or the other


def block() -> Layer:
    """A layer of growth 8 that reads 8 channels, has SE and SFR, and groups of 2 in its 3×3 convolution."""
    small = V2.override({"stages": (1,), "growth": (4,), "squeeze_excite_from": 0, "head_width": None})
    (layer,) = condensed_network(small).dense_layers()
    assert isinstance(layer, DenseLayer)
    return _arrays(layer)


def call(layer: Layer, channels: int = 8) -> np.ndarray:
    x = jnp.ones((1, channels, 3, 4))
    return np.asarray(condensed_block(x, [layer], conv_groups=2, hard_swish=False, pooling="none"))


def test_a_right_call() -> None:
    assert call(block()).shape == (1, 12, 3, 4)


@table(
    "change, message",
    [
        (lambda layer: layer._replace(lgc_index=layer.lgc_index.at[1, 0].set(8)), "an index is out of range"),
        (lambda layer: layer._replace(lgc_index=layer.lgc_index.at[0, 0].set(-1)), "an index is out of range"),
        (lambda layer: layer._replace(sfr_index=layer.sfr_index.at[0, 1].set(2**30)), "an index is out of range"),
        (lambda layer: layer._replace(lgc_kernel=layer.lgc_kernel[:, :-1]), "kernel and index of LGC do not fit"),
        (lambda layer: layer._replace(sfr_kernel=layer.sfr_kernel[:-1]), "kernel and index of SFR do not fit"),
        (lambda layer: layer._replace(squeeze=layer.squeeze[:-1]), "squeeze-and-excitation do not fit"),
        (lambda layer: layer._replace(conv_kernel=layer.conv_kernel[:2]), "the 3×3 kernel does not fit"),
        (lambda layer: layer._replace(conv_norm=layer.sfr_norm), "a vector has the wrong length"),
        (lambda layer: layer._replace(lgc_index=layer.lgc_index[:, :0]), "is empty"),
        (lambda layer: layer._replace(lgc_index=layer.lgc_index.astype(jnp.float32)), "wrong dtype"),
        (lambda layer: layer._replace(lgc_kernel=layer.lgc_kernel[0]), "wrong number of axes"),
        (lambda layer: layer._replace(squeeze=None, sfr_norm=None), "wrong number of axes|wrong dtype"),
    ],
)
def test_wrong_calls_are_refused(change: Callable[[Layer], Layer], message: str) -> None:
    with pytest.raises(REFUSED, match=message):
        call(change(block()))


def test_too_few_channels_are_refused() -> None:
    with pytest.raises(REFUSED, match="an index is out of range"):
        call(block(), channels=4)


def test_any_width_of_squeeze_and_excitation() -> None:
    layer = block()
    assert layer.squeeze is not None and layer.excite is not None
    halved = layer._replace(squeeze=layer.squeeze[:, :2], excite=layer.excite[:2])
    zeroed = layer._replace(squeeze=layer.squeeze.at[:, 2:].set(0))
    np.testing.assert_allclose(call(halved), call(zeroed), rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("activation", ["relu", "hard_swish"])
def test_what_is_not_a_number_stays_so(value: float, activation: str) -> None:
    """In the image that holds it, as with the layers, and in no other."""
    model = condensed_network(V2.override({"hard_swish_from": 0 if activation == "hard_swish" else None}))
    images = random_images(3, 9, 9).at[1, 4, 4, 0].set(value)
    by_kernel, by_layers = (run(model, images, condensed_block=lowering) for lowering in ("kernel", "layers"))
    assert np.isnan(by_layers[1]).all()
    np.testing.assert_array_equal(np.isnan(by_kernel), np.isnan(by_layers))


def test_the_same_bits_again_and_again() -> None:
    model, images = condensed_network(), random_images(5, 20, 24)
    first = run(model, images, condensed_block="kernel")
    for _ in range(5):
        np.testing.assert_array_equal(run(model, images, condensed_block="kernel"), first)


def test_calls_from_several_threads_at_once() -> None:
    """They share XLA's threads, and more helpers are asked for than there are."""
    forward, images = compiled_forward(condensed_network()), np.asarray(random_images(1, 26, 21))
    expected = np.asarray(forward(images))
    with ThreadPoolExecutor(6) as pool:
        for logits in pool.map(lambda _: np.asarray(forward(images)), range(60)):
            np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)


CODE = """
import numpy as np
from tests.kernels.networks import condensed_network, random_images, run_with
maps = []
for batch in (1, 2, 5):
    images = random_images(batch, 26, 21)
    maps += run_with(condensed_network(), lambda model, images: list(model.block_outputs(images)), images)
np.save({file!r}, np.concatenate([np.ravel(m) for m in maps]))
"""


def maps_of_a_process(file: Path, **environment: str) -> np.ndarray:
    code = CODE.format(file=str(file))
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, check=True)
    return np.load(file)


@pytest.mark.soak  # each number of threads takes a process of its own: most of a minute
def test_the_same_bits_on_any_number_of_threads(tmp_path: Path) -> None:
    """More threads than cores among them: most helpers come when there is nothing left to do."""
    one, *others = (maps_of_a_process(tmp_path / "maps.npy", NPROC=str(threads)) for threads in (1, 2, 5))
    for other in others:
        np.testing.assert_array_equal(other, one)
