"""Images that fill their canvases: without masks, and by the CPU kernels where there are any, the maps are the same."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cdnv2_jax import condense, create_model, prune
from cdnv2_jax.detectors.build import build_detector
from cdnv2_jax.detectors.settings import DetectorSettings


def test_maps_are_the_same() -> None:
    network = create_model("cdnv2_a", num_classes=1, rngs=nnx.Rngs(0), stages=(1,) * 5)
    prune(network, 7)
    settings = DetectorSettings(kind="retinanet", num_classes=2, fpn_channels=8)
    detector = build_detector(settings, condense(network), rngs=nnx.Rngs(1))
    detector.eval()
    images = jax.random.normal(jax.random.key(0), (2, 64, 96, 3)).at[:, :, 90:].set(0)
    sizes = jnp.array([[64, 90], [64, 96]])

    def maps(filled: bool) -> dict[int, jax.Array]:
        detector.canvases_filled = filled
        graph, state = nnx.split(detector)
        return jax.jit(lambda state: nnx.merge(graph, state).levels(images, sizes)[0])(state)

    masked, unmasked = maps(False), maps(True)
    for stride, expected in masked.items():
        np.testing.assert_allclose(unmasked[stride], expected, atol=1e-5 * float(jnp.abs(expected).max()))
