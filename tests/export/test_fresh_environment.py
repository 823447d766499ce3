"""Networks at full size, run in new environments that hold the format's runtime alone; pip fetches it."""

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from cdnv2_jax import condense, create_model, prune
from cdnv2_jax.data.canvas import CanvasPreparation
from cdnv2_jax.data.usage import Usage
from cdnv2_jax.detectors.build import build_detector
from cdnv2_jax.detectors.detector import Classes
from cdnv2_jax.detectors.settings import DetectorSettings
from cdnv2_jax.export.classifier import FORMATS, export_classifier
from cdnv2_jax.export.detector import detect, export_detector
from cdnv2_jax.networks.network import Network
from cdnv2_jax.weights.metadata import usual_preparation
from cdnv2_jax.weights.programs import compiled_forward

# Two environments are made, and eight networks of full size compiled for three sizes of batches: twenty minutes.
pytestmark = pytest.mark.soak

NETWORKS = ["cdnv2_a", "cdnv2_b", "cdnv2_c", "condensenet_86"]
BATCHES = (1, 3, 32)
CANVAS = (320, 512)

RUNTIMES = {"onnx": ("onnxruntime", "numpy"), "stablehlo": ("jax", "flatbuffers")}

RUN = {
    "onnx": """
import numpy, onnxruntime, pathlib
for path in pathlib.Path().glob("*.onnx"):
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    for given in sorted(pathlib.Path().glob(f"{path.stem}.images.*.npz")):
        inputs = dict(numpy.load(given))
        inputs["images"] = numpy.ascontiguousarray(inputs["images"].transpose(0, 3, 1, 2))
        found = session.run(names, inputs)
        numpy.savez(str(given).replace("images", "found"), **dict(zip(names, found)))
""",
    "stablehlo": """
import jax, numpy, pathlib
for path in pathlib.Path().glob("*.stablehlo"):
    program = jax.jit(jax.export.deserialize(path.read_bytes()).call)
    for given in sorted(pathlib.Path().glob(f"{path.stem}.images.*.npz")):
        found = program(*numpy.load(given).values())
        numpy.savez(str(given).replace("images", "found"), **(found if isinstance(found, dict) else {"logits": found}))
""",
}


def trained(name: str, form: str) -> Network:
    """From drawn weights, and statistics that are not those of a fresh network."""
    network = create_model(name, rngs=nnx.Rngs(0))
    network.eval()
    random = np.random.default_rng(0)
    for path, statistic in nnx.to_flat_state(nnx.state(network)):
        if path[-1] in ("mean", "var"):
            statistic.set_value(jax.numpy.asarray(random.uniform(0.3, 1, statistic.shape), statistic.dtype))
            nnx.update(network, nnx.from_flat_state([(path, statistic)]))
    prune(network, network.condensation_stages)
    return condense(network) if form == "condensed" else network


RunThere = Callable[[str, Path], None]


@pytest.fixture(scope="module")
def run_there(tmp_path_factory: pytest.TempPathFactory) -> RunThere:
    """(format, directory) → runs all programs in the directory, in an environment made for the format."""

    @functools.cache
    def environment(format: str) -> Path:
        directory = tmp_path_factory.mktemp(format)
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        python = directory / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", *RUNTIMES[format]], check=True)
        subprocess.run([python, "-I", "-c", "import importlib.util as u; assert not u.find_spec('flax')"], check=True)
        return python

    def run(format: str, directory: Path) -> None:
        command = [environment(format), "-I", "-c", RUN[format]]
        subprocess.run(command, cwd=directory, check=True, env={"JAX_PLATFORMS": "cpu"})

    return run


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("format", RUNTIMES)
def test_classifiers(format: str, name: str, tmp_path: Path, run_there: RunThere) -> None:
    expected = {}
    for form in ("masked", "condensed"):
        network = trained(name, form)
        network.usage = Usage(usual_preparation(network))
        size = network.usage.preparation.size
        found = export_classifier(network, tmp_path / f"{form}{FORMATS[format].suffix}", format=format)
        print(name, form, format, found)
        forward = compiled_forward(network)
        for count in BATCHES:
            images = np.random.default_rng(count).standard_normal((count, size, size, 3), np.float32)
            np.savez(tmp_path / f"{form}.images.{count}.npz", images=images)
            expected[form, count] = np.asarray(forward(images))
    run_there(format, tmp_path)
    for (form, count), logits in expected.items():
        given = np.load(tmp_path / f"{form}.found.{count}.npz")["logits"]
        np.testing.assert_allclose(given, logits, atol=2e-5 * np.abs(logits).max(), err_msg=f"{form} {count}")


@pytest.mark.parametrize("format", RUNTIMES)
def test_retinanet(format: str, tmp_path: Path, run_there: RunThere) -> None:
    """Scores are compared where they are given, logits where not, with those of the detector."""
    settings = DetectorSettings(kind="retinanet", num_classes=80, score_threshold=0.001)
    detector = build_detector(settings, trained("cdnv2_a", "condensed"), rngs=nnx.Rngs(0))
    detector.eval()
    classes = Classes([f"class {number}" for number in range(80)], range(80))
    path = tmp_path / f"retinanet{FORMATS[format].suffix}"
    found = export_detector(detector, classes, CanvasPreparation(), path, format=format, canvas=CANVAS)
    print(format, found)
    expected = {}
    for count in BATCHES:
        images = np.random.default_rng(count).standard_normal((count, *CANVAS, 3), np.float32)
        sizes = np.tile(np.array(CANVAS, np.int32), (count, 1))
        np.savez(tmp_path / f"retinanet.images.{count}.npz", images=images, sizes=sizes)
        expected[count] = detect(detector, images, sizes)
    run_there(format, tmp_path)
    for count, images in expected.items():
        given = np.load(tmp_path / f"retinanet.found.{count}.npz")
        for number, image in enumerate(images):
            if format == "onnx":
                assert image.logits is not None
                np.testing.assert_allclose(given["logits"][number], image.logits, atol=1e-4)
            else:
                np.testing.assert_allclose(given["scores"][number][given["valid"][number]], image.scores, atol=1e-5)
