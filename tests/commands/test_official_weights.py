"""An official checkpoint's whole way: file → our checkpoint → logits on images → file, nothing lost anywhere."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cdnv2_jax.data.class_names import imagenet_classes
from cdnv2_jax.data.preparation import ImagePreparation
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.zoo import architecture_of
from tests.commands.shell import IMAGENET, Shell
from tests.data.image_files import write_noise
from tests.torch_twin import CondenseNetTwin
from tests.twin_models import assert_near
from tests.weights.official_files import assert_same_bits, converted_file, training_file, twin_in_form
from tests.weights.official_files import save as save_official

PUBLISHED = {"cdnv2_a": "64.40%", "cdnv2_b": "71.90%", "cdnv2_c": "75.90%"}

# B and C: some 20 and 40 s of compiling and of building the twins; A goes through the same code.
MODELS = [
    "cdnv2_a",
    pytest.param("cdnv2_b", marks=pytest.mark.soak),
    pytest.param("cdnv2_c", marks=pytest.mark.soak),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images of several sizes, held out, of two classes of ImageNet: the others have nothing but a name."""
    directory = tmp_path_factory.mktemp("images")
    write_noise(directory / "val", ["n01440764"], each=3)
    write_noise(directory / "val", ["n01443537"], each=2, seed=1)
    for name in imagenet_classes():
        (directory / "train" / name).mkdir(parents=True)
    return directory


def _expected_logits(twin: CondenseNetTwin, folder: Path, name: str) -> np.ndarray:
    method = "bilinear" if name == "cdnv2_c" else "bicubic"  # as the official test script chooses
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    preparation = ImagePreparation(224, "centre", method, mean, std)
    images = []
    for path in sorted(folder.glob("val/*/*.png")):
        with Image.open(path) as image:
            images.append(preparation.resized(np.asarray(image)))
    normalised = ((np.stack(images) / 255 - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2).astype(np.float32)
    with torch.no_grad():
        return twin(torch.from_numpy(normalised)).numpy()


def _official_file(name: str, form: str) -> tuple[CondenseNetTwin, Path]:
    """The network that a file's evaluation is about, and the file as the official scripts name and fill it."""
    architecture = architecture_of(name)
    if form == "converted":
        twin = twin_in_form(architecture, "converted")
        return twin, save_official(Path(f"converted_model_{name}.pth.tar"), converted_file(twin))
    assert isinstance(architecture, CondenseNetArchitecture)
    averaged = twin_in_form(architecture, architecture.condensation_stages)
    live = twin_in_form(architecture, 1, "live weights")
    return averaged, save_official(Path("model_best.pth.tar"), training_file(live, ema=averaged, arch=name))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("form", ["masked", pytest.param("converted", marks=pytest.mark.soak)])
def test_there_and_back(name: str, form: str, folder: Path, shell: Shell) -> None:
    twin, path = _official_file(name, form)
    convert = ("convert_torch_weights.py", "--model", name)
    printed = shell.succeeds(*convert, "--input", path, "--output", "ours")
    taken = "" if form == "converted" else "weights: EMA weights (state_dict_ema); the file also holds state_dict\n"
    assert printed == f"{taken}{name} ({'condensed' if form == 'converted' else 'masked'}): ours\n"

    evaluation = ("--config", f"{IMAGENET}:{name}", f"--config.data.directory={folder}")
    evaluation += ("--config.data.eval_batch_size=2", "--config.data.workers=0", "--output", "logits.npz")
    printed = shell.succeeds("main.py", "eval", *evaluation, "--checkpoint", "ours")
    assert f"published ImageNet top-1: {PUBLISHED[name]}" in printed
    with np.load("logits.npz") as saved:
        logits, labels = saved["logits"], saved["labels"]
    np.testing.assert_array_equal(labels, [0, 0, 0, 1, 1])
    assert_near(logits, _expected_logits(twin, folder, name), 1e-5)

    shell.succeeds(*convert, "--input", "ours", "--output", "back.pth.tar", "--to-torch")
    back = torch.load("back.pth.tar", weights_only=True)
    assert_same_bits(back["state_dict"], twin.state_dict())
    twin.load_state_dict(back["state_dict"], strict=True)
