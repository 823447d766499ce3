"""Single flipped bits in everything that is written and read back: refused in one line, or without any effect."""

import collections
import dataclasses
import functools
import gc
import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import pytest
from flax import nnx
from jax import export

from cdnv2_jax import UserError, save
from cdnv2_jax.devices import Devices
from cdnv2_jax.export.classifier import FORMATS as EXPORTS
from cdnv2_jax.training.checkpoints import RunCheckpoints, enumerate_leaves
from cdnv2_jax.weights.checkpoint import flat_arrays, load_detector, read_description, save_detector
from cdnv2_jax.weights.metadata import classifier_metadata
from cdnv2_jax.weights.open import open_classifier, open_network
from cdnv2_jax.weights.programs import read_exported
from tests.export.detectors import CLASSES, detector
from tests.export.networks import SIZE, USAGE, images
from tests.weights.networks import network, used

# When one array cannot be read, Orbax leaves the readers of the others behind without asking how they fared.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module", autouse=True)
def no_readers_left_behind() -> Iterator[None]:
    """Python complains about them when it collects them: here, not in some later test."""
    yield
    gc.collect()


SIZES = {"stages": (1, 1), "growth": (8, 8), "groups": 4, "condensation_factor": 4}
METADATA = {"note": "möhre"}


def _bits(arrays: dict[str, Any]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    whole = {name: np.asarray(array) for name, array in arrays.items()}
    return {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in whole.items()}


def _opened(path: Path) -> Any:
    """With everything said that an official file needs: a file of ours must not pass for one."""
    found = open_network(path, model="cdnv2_cifar_110", overrides=SIZES)
    described = (found.network.name, found.network.architecture, found.network.form)
    return described, found.usage, dict(found.metadata), _bits(flat_arrays(nnx.state(found.network)))


def _open_detector(path: Path) -> Any:
    found, classes = load_detector(path)
    return classes, found.settings, read_description(path)["metadata"], _bits(flat_arrays(nnx.state(found)))


def _run_state() -> Any:
    return Devices.all().replicate(dict(flat_arrays(nnx.state(network("partly pruned")))))


def _save_run(path: Path) -> None:
    with RunCheckpoints(path, keep=2) as checkpoints:
        checkpoints.save(3, _run_state(), {"broken_images": {"5": "möhre.png"}, "devices": 1, "step": 3})


def _resume(path: Path) -> Any:
    with RunCheckpoints(path, keep=2) as checkpoints:
        state, description = checkpoints.restore(cast(Any, _run_state()), Devices.all())
    return description, _bits(dict(enumerate_leaves(state)))


def _classify(path: Path) -> Any:
    found = open_classifier(path)
    return found.described, np.asarray(found.forward(images(1))).tobytes()


def _program(path: Path) -> Any:
    """Not run, because it is the same program whenever its bytes are the same."""
    return open_classifier(path).described, read_exported(path).mlir_module_serialized


def _exported(format: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        model = used(network("condensed"), USAGE)
        EXPORTS[format].write(path, model, SIZE, classifier_metadata(model))

    return write


FORMATS: dict[str, tuple[str, Callable[[Path], object], Callable[[Path], Any]]] = {
    "run": ("checkpoints", _save_run, _resume),
    "masked": ("masked", lambda path: save(path, used(network("partly pruned"), USAGE), metadata=METADATA), _opened),
    "condensed": ("condensed", lambda path: save(path, used(network("condensed"), USAGE), metadata=METADATA), _opened),
    "detector": ("best", lambda path: save_detector(path, detector("retinanet"), CLASSES), _open_detector),
    "safetensors": ("network.safetensors", _exported("safetensors"), _opened),
    "safetensors-official": ("network.safetensors", _exported("safetensors-official"), _opened),
    "onnx": ("network.onnx", _exported("onnx"), _classify),
    "stablehlo": ("network.stablehlo", _exported("stablehlo"), _program),
}
"""Format → (name of its file or directory, what writes it, what reads everything in it)."""


@dataclasses.dataclass
class Specimen:
    """A whole file or directory of a format, and what is in it."""

    path: Path
    read: Callable[[Path], Any]

    @functools.cached_property
    def whole(self) -> Any:
        return self.read(self.path)

    @functools.cached_property
    def files(self) -> list[Path]:
        return sorted(file for file in self.path.parent.rglob("*") if file.is_file() and file.stat().st_size)

    def flip(self, chance: random.Random) -> str:
        """What reading says with one bit flipped: "refused" or "unharmed"; an AssertionError for anything else.

        Half of the flips hit files by their size, half of them any file, and so the small ones too.
        """
        assert self.whole  # read before anything is damaged
        weights = [file.stat().st_size for file in self.files] if chance.random() < 0.5 else None
        file = chance.choices(self.files, weights)[0]
        content = file.read_bytes()
        damaged = bytearray(content)
        place, bit = chance.randrange(len(content)), chance.randrange(8)
        damaged[place] ^= 1 << bit
        file.write_bytes(damaged)
        try:
            assert self.read(self.path) == self.whole, f"other values with bit {bit} of byte {place} of {file} flipped"
        except UserError as error:
            assert str(self.path.parent) in str(error) and "\n" not in str(error), error
            return "refused"
        finally:
            file.write_bytes(content)
        return "unharmed"


def specimen(format: str, folder: Path) -> Specimen:
    name, write, read = FORMATS[format]
    (folder / format).mkdir()
    write(folder / format / name)
    return Specimen(folder / format / name, read)


@pytest.mark.parametrize("format", ["run", "masked", "safetensors", "safetensors-official", "onnx", "stablehlo"])
def test_a_flipped_bit(format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, parsed = specimen(format, tmp_path), []
    monkeypatch.setattr(export, "deserialize", _noting(export.deserialize, parsed))
    monkeypatch.setattr(onnxruntime, "InferenceSession", _noting(onnxruntime.InferenceSession, parsed))
    chance = random.Random(7)
    outcomes = collections.Counter(found.flip(chance) for _ in range(6))
    # Two thirds of a run's bits mean nothing, so that six flips may all be harmless.
    assert outcomes["refused"] or "refused" in (found.flip(chance) for _ in range(60))
    # A changed program can end the process inside its parser: none may get that far.
    assert set(parsed) == ({found.path.read_bytes()} if format in ("onnx", "stablehlo") else set())


def _noting(parse: Callable[..., Any], seen: list[bytes]) -> Callable[..., Any]:
    def noting(data: bytes, *more: Any, **named: Any) -> Any:
        seen.append(bytes(data))
        return parse(data, *more, **named)

    return noting


@pytest.mark.soak  # minutes: every flip in a checkpoint is a checkpoint to read
@pytest.mark.parametrize("format", FORMATS)
def test_many_flipped_bits(format: str, tmp_path: Path) -> None:
    found, chance = specimen(format, tmp_path), random.Random(zlib.crc32(format.encode()))
    outcomes = collections.Counter(found.flip(chance) for _ in range(200))
    print(f"{format}: {dict(outcomes)}")
    assert outcomes["refused"] >= 50
