"""The documentation's own programs, each in a process that has the format's runtime and not this package."""

import re
import textwrap
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cdnv2_jax.detection.predict import DetectedImage, predict_boxes
from cdnv2_jax.export.classifier import export_classifier
from cdnv2_jax.export.verify import whole_photographs
from cdnv2_jax.weights.open import DetectorProgram, open_predictor
from tests.export.alone import OURS, run_alone
from tests.export.detectors import write_retinanet
from tests.export.networks import USAGE, images, logits
from tests.weights.networks import network, used

DOCUMENTATION = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")


def documented(name: str) -> str:
    """The code that follows the marker `<!-- runs: name -->`."""
    found = re.search(rf"<!-- runs: {name} -->\n```python\n(.*?)```", DOCUMENTATION, re.DOTALL)
    assert found is not None
    return found[1]


def test_stablehlo(tmp_path: Path) -> None:
    export_classifier(used(network("condensed"), USAGE), tmp_path / "cdnv2_a.stablehlo", format="stablehlo")
    np.savez(tmp_path / "images.npz", *(images(count) for count in (1, 3, 32)))
    each = textwrap.indent(documented("stablehlo") + "results.append(logits)\n", "    ")
    code = f"import numpy\nresults = []\nfor images in numpy.load('images.npz').values():\n{each}"
    run_alone(code + "numpy.savez('logits.npz', *results)\n", tmp_path)
    for count, given in zip((1, 3, 32), np.load(tmp_path / "logits.npz").values(), strict=True):
        np.testing.assert_allclose(given, logits("condensed", count), atol=1e-5)


def test_onnx(tmp_path: Path) -> None:
    """Preparation is part of it: from an image file to logits."""
    export_classifier(used(network("condensed"), USAGE), tmp_path / "cdnv2_a.onnx", format="onnx")
    Image.fromarray(whole_photographs()[0]).save(tmp_path / "photo.png")
    code = documented("onnx").replace("photo.jpg", "photo.png") + "np.save('logits.npy', logits)\n"
    run_alone(code, tmp_path, without=(*OURS, "jax", "cv2", "onnx"))
    expected = network("condensed")(jnp.asarray(USAGE.preparation(whole_photographs()[0])[None]))
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-5)


def test_onnx_detector(tmp_path: Path) -> None:
    """From an image file to boxes in its pixels, on a canvas too low for it: what `predict` finds with these files."""
    write_retinanet(tmp_path / "retinanet.onnx", (32, 96))
    Image.fromarray(whole_photographs()[0]).save(tmp_path / "photo.png")
    code = documented("onnx-detector").replace("photo.jpg", "photo.png")
    code += "np.savez('found.npz', scores=[s for _, s, _ in found], boxes=[b for *_, b in found])\n"
    run_alone(code, tmp_path, without=(*OURS, "jax", "onnx"))
    program = open_predictor(tmp_path / "retinanet.onnx")
    assert isinstance(program, DetectorProgram)
    (image,) = predict_boxes(program, [tmp_path / "photo.png"], threshold=0.005, batch_size=1)
    assert isinstance(image, DetectedImage) and len(image.objects) > 10
    found = np.load(tmp_path / "found.npz")
    np.testing.assert_allclose(found["scores"], [one.score for one in image.objects], atol=1e-5)
    np.testing.assert_allclose(found["boxes"], [one.box for one in image.objects], atol=1e-2)


def test_safetensors(tmp_path: Path) -> None:
    export_classifier(used(network("condensed"), USAGE), tmp_path / "cdnv2_a.safetensors", format="safetensors")
    code = documented("safetensors") + "assert tensors['blocks/0/0/lgc/kernel'].ndim == 3\n"
    run_alone(code, tmp_path, without=("cdnv2_jax", "flax", "torch", "jax"))


def test_it_is_alone(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="cdnv2_jax is not there"):
        run_alone("import cdnv2_jax", tmp_path)
