"""The Python on the pages runs, and does what its comments say."""

import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from cdnv2_jax import ImagePreparation, Usage, create_model, save
from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.weights.checkpoint import flat_arrays
from tests.data.image_files import write_noise
from tests.data.sources.cifar_binaries import image_and_label, write_folder
from tests.docs.markdown import PAGES, ROOT, name_of, python_blocks
from tests.export.detectors import write_retinanet
from tests.weights.networks import network, used
from tests.weights.official_files import save as save_official
from tests.weights.official_files import training_file, twin_in_form

TRIED_ELSEWHERE = {"docs/extend.md": "tests/docs/test_extend.py", "docs/export.md": "tests/export/test_alone.py"}


def run_page(page: str, names: dict[str, Any] | None = None) -> dict[str, Any]:
    """Runs all Python blocks of a page one after the other, as a reader would; what they define."""
    namespace: dict[str, Any] = {"__name__": "page", **(names or {})}
    for block in python_blocks(ROOT / page):
        # Lines count as on the page, so that a traceback points there.
        code = compile("\n" * block.line + block.text, str(block.page), "exec")
        exec(code, namespace)
    return namespace


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that a page reads or writes are in a directory of their own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def official_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the official training script leaves of cdnv2_a, fully pruned, with drawn weights."""
    twin = twin_in_form(architecture_of("cdnv2_a"), 7)
    contents = training_file(twin, ema=twin, arch="cdnv2_a")
    return save_official(tmp_path_factory.mktemp("official") / "model_best.pth.tar", contents)


def test_layers() -> None:
    page = run_page("docs/layers.md")
    assert float(page["difference"]) < 1e-5


def test_results() -> None:
    page = run_page("docs/results.md")
    assert page["network"].usage.class_names[9] == "ankle boot" and page["small"].form.condensed


@pytest.mark.slow  # cdnv2_a at full size: some seconds each to prune it and to run it layer by layer
def test_readme(official_file: Path) -> None:
    shutil.copy(official_file, ".")
    usage = Usage(ImagePreparation(16, "whole", "bilinear", (0.5,) * 3, (0.25,) * 3), ("0", "1", "2"))
    save("runs/digits/condensed", used(network("condensed"), usage))
    Path("runs/digits/pictures").mkdir()
    Image.new("RGB", (16, 16)).save("runs/digits/pictures/7.png")
    page = run_page("README.md")
    assert page["image"].path == Path("runs/digits/pictures/7.png")
    assert page["logits"].shape == (1, 1000)
    assert {stride: maps.shape[1] for stride, maps in page["maps"].items()} == {4: 56, 8: 28, 16: 14, 32: 7}
    assert (page["cost"].flops, page["cost"].params) == (45_874_350, 2_038_444)
    assert page["tensors"]["features.init_conv.weight"].shape == (16, 3, 3, 3)


@pytest.mark.soak  # the same network, read from a file: half a minute
def test_pytorch_weights(official_file: Path) -> None:
    shutil.copy(official_file, ".")
    page = run_page("docs/pytorch-weights.md", {"images": jnp.ones((1, 224, 224, 3))})
    np.testing.assert_allclose(
        page["small"](page["images"]), page["logits"], atol=1e-4 * float(jnp.abs(page["logits"]).max())
    )
    assert any(key.endswith("sfr.index") for key in page["tensors"])


def test_concepts() -> None:
    page = run_page("docs/concepts.md")
    assert float(page["difference"]) < 1e-5
    # Of a layer that reads n channels, n · 32 weights of LGC and 8 · n of SFR, at 16 × 16 pixels.
    learned = sum(n * (32 + 8) * 16 * 16 for n in (16, 24, 32, 40))
    assert page["before"] - page["after"] == learned * 3 // 4


def test_data() -> None:
    write_folder(Path("data"), "cifar10")
    page = run_page("docs/data.md")
    image, label = image_and_label("cifar10", "train", 0)
    assert page["sample"].image.shape == (32, 32, 3)
    assert np.array_equal(page["sample"].image, image) and page["sample"].label == label
    assert page["sample"].name == "cifar10 train image 0"


def test_fine_tune() -> None:
    save("photos_small", network("condensed"))
    Image.new("RGB", (40, 30)).save("photo.jpg")
    page = run_page("docs/fine-tune.md")
    assert page["small"].form_name == "condensed"
    assert (len(page["prediction"].classes), page["prepared"].shape) == (3, (1, 32, 32, 3))


def test_predict() -> None:
    usage = Usage(ImagePreparation(32, "whole", "bilinear", (0.5,) * 3, (0.25,) * 3), ("daisy", "rose", "tulip"))
    save("runs/flowers/condensed", used(network("condensed"), usage))
    write_noise(Path(), ["album"], 2)
    Image.new("RGB", (40, 30)).save("photo.jpg")
    page = run_page("docs/predict.md")
    assert page["prediction"].path == Path("album/1.png") and page["best"].name in page["names"]
    assert (len(page["found"]), page["logits"].shape) == (2, (1, 3))


def test_report() -> None:
    save("runs/digits/condensed", network("condensed"))
    page = run_page("docs/report.md")
    assert page["heat"].shape == (2, 2)
    assert np.isnan(page["heat"][1, 0])


def test_detection() -> None:
    write_retinanet(Path("retinanet.onnx"))
    Image.new("RGB", (96, 64)).save("photo.jpg")
    write_noise(Path(), ["album"], 1)
    boxes = jnp.array([[0, 0, 32, 32], [1, 1, 33, 33], [100, 80, 300, 290.0]])
    maps = [jnp.ones((320 // stride, 320 // stride, 4)) for stride in (4, 8, 16, 32)]
    names = {"boxes": boxes, "scores": jnp.array([0.9, 0.8, 0.7]), "labels": jnp.array([1, 1, 2]), "maps": maps}
    page = run_page("docs/detection.md", names)
    assert page["image"].path == Path("album/0.png")
    assert page["keep"].tolist() == [True, False, True]
    assert page["pooled"].shape == (3, 7, 7, 4)


def test_own_training_loop() -> None:
    """It learns, prunes to the last stage, and what it saves is used as it says."""
    page = run_page("docs/own-training-loop.md")
    assert np.mean(page["losses"][-8:]) < 0.2 < np.mean(page["losses"][:4])
    assert page["stage"] == page["last_stage"] == 3
    names = page["model"].usage.class_names
    right = [one.classes[0].name == names[label] for one, label in zip(page["found"], page["labels"], strict=True)]
    assert np.mean(right) > 0.95


def test_backbone() -> None:
    """It learns where the squares are; what is frozen stays as it was."""
    page = run_page("docs/backbone.md")
    assert np.mean(page["losses"][-10:]) < 0.5 * np.mean(page["losses"][:10])
    assert page["found"].mean() >= 0.75
    sizes = {"stages": (1, 1), "growth": (8, 8), "stem_stride": 4, "groups": 4, "condensation_factor": 4}
    fresh = create_model("cdnv2_cifar_110", rngs=nnx.Rngs(0), **sizes)
    before, after = (flat_arrays(nnx.state(network)) for network in (fresh, page["backbone"]))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert not [name for name in changed if name.startswith(("stem", "blocks/0", "classifier", "fc"))]
    assert not [name for name in changed if name.endswith(("mean", "var", "batches", "mask"))]
    assert "blocks/1/0/lgc/kernel" in changed and "blocks/1/0/conv/kernel" in changed


def test_every_page_with_python_is_run() -> None:
    tried = Path(__file__).read_text(encoding="utf-8")
    for page in PAGES:
        if python_blocks(page) and name_of(page) not in TRIED_ELSEWHERE:
            assert f'run_page("{name_of(page)}"' in tried, f"{name_of(page)} has Python that nothing runs"
    for page, file in TRIED_ELSEWHERE.items():
        assert Path(page).name in (ROOT / file).read_text(encoding="utf-8"), f"{file} does not run {page}"
