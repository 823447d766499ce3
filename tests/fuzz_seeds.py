"""A small valid example of every file that the package opens, and how it opens it: what `fuzz_openers` mutates."""

import argparse
import contextlib
import dataclasses
import importlib
import json
import pickle
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cdnv2_jax.commands.arguments import read_class_names
from cdnv2_jax.commands.read_config import read_config
from cdnv2_jax.data.decode import decode, encoded_size
from cdnv2_jax.data.source import Source
from cdnv2_jax.data.sources.cifar import read_cifar
from cdnv2_jax.data.sources.generated import SyntheticSource
from cdnv2_jax.data.sources.huggingface import read_huggingface
from cdnv2_jax.data.sources.imagenet_tars import read_imagenet_tars
from cdnv2_jax.data.sources.tf_example import decode_example, decode_lists, encode_example
from cdnv2_jax.data.sources.tfds import read_tfds
from cdnv2_jax.data.sources.webdataset import read_webdataset
from cdnv2_jax.data.sources.write_array_record import write_array_record
from cdnv2_jax.detection.data.coco_json import read_coco
from cdnv2_jax.errors import UserError
from cdnv2_jax.report.mistakes import Predictions, read_predictions, write_predictions
from cdnv2_jax.training.records import read_metrics
from cdnv2_jax.weights.checksums import NO_DIGEST, ONNX_KEY, sealed, sha256, with_onnx_sum
from cdnv2_jax.weights.safetensors import KEY
from cdnv2_jax.weights.state_dicts import is_tensor, official_tensors, select_state_dict, to_numpy
from cdnv2_jax.weights.torch_reading import read_checkpoint
from tests.data.sources import cifar_binaries, cifar_pickles, huggingface_sets, imagenet_archives, webdataset_tars
from tests.detection.data import coco_files
from tests.mutations import Mutation, in_gzip, in_png, in_safetensors, in_tar, in_zip, tokens

SIZES: dict[str, Any] = {"stages": (1, 1), "growth": (8, 8), "groups": 4, "condensation_factor": 4}
IMAGE_SIZE = 8
SPECIAL: Mapping[str, Mutation] = {
    **{".pth": in_zip, ".npz": in_zip, ".tar": in_tar, ".tar.gz": in_gzip(in_tar), ".safetensors": in_safetensors},
    **{".png": in_png, ".json": tokens, ".jsonl": tokens, ".txt": tokens, "metadata": tokens, "_METADATA": tokens},
}
"""Ending of a path → the mutation that knows the format."""


@dataclasses.dataclass(frozen=True)
class Opener:
    """A way to open files.

    Attributes:
      write: writes valid files into an empty folder.
      open: opens them, and reads what is lazy.
      is_python: whether all of it is Python code, which cannot end the process.
    """

    write: Callable[[Path], object]
    open: Callable[[Path], object]
    is_python: bool = False


def _network() -> Any:
    from cdnv2_jax.data.preparation import CIFAR10, ImagePreparation
    from cdnv2_jax.data.usage import Usage
    from tests.weights.networks import network, used

    usage = Usage(ImagePreparation(IMAGE_SIZE, "whole", "bilinear", *CIFAR10), ("a", "b", "c"))
    return used(network("condensed"), usage)


def _torch_contents() -> dict[str, Any]:
    torch = importlib.import_module("torch")
    from cdnv2_jax.weights.torch_file import to_torch_state_dict

    tensors = {key: torch.from_numpy(array.copy()) for key, array in to_torch_state_dict(_network()).items()}
    args = argparse.Namespace(model="cdnv2_a", lr=0.4, stages=[1, 1], best=np.float64(1), mean=np.zeros(3))
    return {"state_dict": tensors, "arch": "cdnv2_cifar_110", "epoch": 3, "args": args}


def _open_weights(path: Path) -> None:
    from cdnv2_jax.weights.open import open_weights

    official = {"model": "cdnv2_cifar_110", "overrides": SIZES} if path.suffix in (".pth", ".pdparams") else {}
    open_weights(path, **official).metadata.items()


def _open_tensors(path: Path) -> None:
    tensors = select_state_dict(read_checkpoint(path), "auto", str(path)).tensors
    for tensor in filter(is_tensor, official_tensors(tensors, (), str(path)).values()):
        try:
            to_numpy(tensor)
        except (TypeError, ValueError, RuntimeError) as error:  # what its callers expect
            raise UserError(str(error)[:100].split("\n")[0]) from error


def _write_pdparams(folder: Path) -> None:
    arrays = {"a.weight": np.ones((3, 4), np.float32), "a.bias": np.zeros(3), "name": np.array(["x"])}
    (folder / "weights.pdparams").write_bytes(pickle.dumps(arrays, protocol=2))


def _write_safetensors(folder: Path, layout: Any) -> None:
    from cdnv2_jax.weights.metadata import classifier_metadata
    from cdnv2_jax.weights.safetensors import save_safetensors

    network = _network()
    save_safetensors(folder / "network.safetensors", network, classifier_metadata(network), layout)


def _write_checkpoint(folder: Path) -> None:
    from cdnv2_jax.weights.checkpoint import save

    save(folder / "network", _network())


def _run_state() -> Any:
    from flax import nnx

    from cdnv2_jax.devices import Devices
    from cdnv2_jax.weights.checkpoint import flat_arrays

    return Devices.all().replicate(dict(flat_arrays(nnx.state(_network()))))


def _write_run(folder: Path) -> None:
    from cdnv2_jax.training.checkpoints import RunCheckpoints

    with RunCheckpoints(folder / "checkpoints", keep=2) as checkpoints:
        checkpoints.save(3, _run_state(), {"broken_images": {"5": "a.png"}, "devices": 1, "step": 3})


def _open_run(folder: Path) -> None:
    from cdnv2_jax.devices import Devices
    from cdnv2_jax.training.checkpoints import RunCheckpoints

    with RunCheckpoints(folder / "checkpoints", keep=2) as checkpoints:
        checkpoints.restore(_run_state(), Devices.all())


def _write_predictions(folder: Path) -> None:
    images = np.arange(5)
    write_predictions(folder / "predictions.csv", Predictions(images, images % 3, images % 2, images / 7))


def _write_program(folder: Path, format: str) -> None:
    from cdnv2_jax.export.classifier import export_classifier

    export_classifier(_network(), folder / f"network.{format}", format=format)


def _open_program(path: Path) -> None:
    from cdnv2_jax.weights.open import open_classifier

    opened = open_classifier(path)
    size = opened.described.usage.preparation.size
    np.asarray(opened.forward(np.zeros((1, min(size, 64), min(size, 64), 3), np.float32)))


def _write_images(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6
    for name, options in IMAGES.items():
        kind = image.convert(options.pop("mode")) if "mode" in (options := dict(options)) else image
        kind.save(folder / name, **options)


IMAGES: Mapping[str, dict[str, Any]] = {
    **{"a.jpg": {}, "b.jpg": {"progressive": True}, "c.jpg": {"mode": "CMYK"}, "d.jpg": {"mode": "L"}},
    **{"a.png": {}, "b.png": {"mode": "P"}, "c.png": {"mode": "I;16"}, "a.webp": {}, "b.webp": {"lossless": True}},
    **{"a.bmp": {}, "b.bmp": {"mode": "P"}, "a.gif": {"mode": "P"}, "a.ppm": {}},
    **{"a.tiff": {}, "b.tiff": {"compression": "tiff_lzw"}, "c.tiff": {"compression": "jpeg"}},
}


def _open_images(folder: Path) -> None:
    refusals = []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        for read in (decode, encoded_size):
            try:
                read(data, file.name)
            except UserError as error:
                refusals.append(error)
    if refusals:
        raise refusals[0]


def _all_of(source: Source[Any]) -> None:
    source.fingerprint()
    for index in range(min(len(source), 20)):
        _ = source[index]


def _write_imagenet(folder: Path) -> None:
    imagenet_archives.write_archives(folder)
    for split in ("train", "val"):
        read_imagenet_tars(folder, split)  # writes its index


def _write_tfds(folder: Path) -> None:
    sources = {"train": SyntheticSource("train", 8, 3, 6), "val": SyntheticSource("val", 8, 3, 2)}
    write_array_record(sources, folder / "made", name="made", shard_bytes=600, overwrite=False)


def _open_examples(folder: Path) -> None:
    for file in folder.iterdir():
        data = file.read_bytes()
        try:
            decode_example(data)
            decode_lists(data)
        except ValueError as error:  # what its callers expect
            raise UserError(str(error)) from error


def _write_example(folder: Path) -> None:
    (folder / "record").write_bytes(encode_example({"image": b"\xff\xd8\xff" * 20, "label": 300, "file_name": b"x"}))


def _write_config(folder: Path) -> None:
    config = read_config("configs/digits.py", [])
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config)))


def _write_records(folder: Path) -> None:
    train = {"kind": "train", "step": 3, "epoch": 1, "loss": 0.5, "stage": 0, "sparsity": 0.1, "learning_rate": 0.1}
    lines = (train, {"kind": "eval", "step": 3, "epoch": 1, "top1": 1.0}, {**train, "step": 6})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _only(folder: Path) -> Path:
    return next(iter(sorted(folder.iterdir())), folder / "nothing")


def _save_torch(folder: Path, zipped: bool) -> None:
    importlib.import_module("torch").save(
        _torch_contents(), folder / "network.pth", _use_new_zipfile_serialization=zipped
    )


def _cifar(name: Any) -> Callable[[Path], None]:
    return lambda folder: _all_of(read_cifar(name, folder, "val"))


OPENERS: Mapping[str, Opener] = {
    "pth": Opener(lambda folder: _save_torch(folder, True), lambda folder: _open_weights(_only(folder))),
    "pth, tensors": Opener(lambda folder: _save_torch(folder, True), lambda folder: _open_tensors(_only(folder))),
    "pth, legacy": Opener(lambda folder: _save_torch(folder, False), lambda folder: _open_tensors(_only(folder))),
    "pdparams": Opener(_write_pdparams, lambda folder: _open_tensors(_only(folder)), is_python=True),
    "safetensors": Opener(lambda f: _write_safetensors(f, "ours"), lambda folder: _open_weights(_only(folder))),
    "safetensors, official": Opener(
        lambda f: _write_safetensors(f, "official"), lambda folder: _open_weights(_only(folder))
    ),
    "checkpoint": Opener(_write_checkpoint, lambda folder: _open_weights(_only(folder))),
    "run's checkpoint": Opener(_write_run, _open_run),
    "onnx": Opener(lambda f: _write_program(f, "onnx"), lambda folder: _open_program(folder / "network.onnx")),
    "stablehlo": Opener(
        lambda f: _write_program(f, "stablehlo"), lambda folder: _open_program(folder / "network.stablehlo")
    ),
    "images": Opener(_write_images, _open_images),
    "imagenet tars": Opener(
        _write_imagenet,
        lambda folder: [_all_of(read_imagenet_tars(folder, split)) for split in ("val", "train")],
        is_python=True,
    ),
    "webdataset": Opener(
        webdataset_tars.write_tars, lambda folder: _all_of(read_webdataset(folder, "train")), is_python=True
    ),
    "cifar, pickles": Opener(
        lambda folder: cifar_pickles.write_folder(folder, "cifar10"), _cifar("cifar10"), is_python=True
    ),
    "cifar, tar.gz": Opener(
        lambda folder: cifar_pickles.write_archive(folder, "cifar10"), _cifar("cifar10"), is_python=True
    ),
    "cifar, binary": Opener(
        lambda folder: cifar_binaries.write_folder(folder, "cifar10"), _cifar("cifar10"), is_python=True
    ),
    "parquet": Opener(huggingface_sets.write_parquet, lambda folder: _all_of(read_huggingface(folder, "val"))),
    "arrow": Opener(huggingface_sets.write_saved, lambda folder: _all_of(read_huggingface(folder, "val"))),
    "array_record": Opener(_write_tfds, lambda folder: _all_of(read_tfds(folder, "train"))),
    "tf.train.Example": Opener(_write_example, _open_examples, is_python=True),
    "coco": Opener(
        lambda folder: coco_files.write(folder, coco_files.content()),
        lambda folder: read_coco(folder, "train").fingerprint(),
        is_python=True,
    ),
    "class names": Opener(
        lambda folder: (folder / "names.txt").write_text("cat\ndog\n"),
        lambda folder: read_class_names(_only(folder)),
        is_python=True,
    ),
    "config.json": Opener(_write_config, lambda folder: read_config(str(folder / "config.json"), []), is_python=True),
    "metrics.jsonl": Opener(_write_records, read_metrics, is_python=True),
    "predictions.csv": Opener(
        _write_predictions, lambda folder: read_predictions(folder / "predictions.csv", 3), is_python=True
    ),
}


def sealed_again(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files with their checksums and seals as if they had been written so, as a forger would."""
    found = dict(files)
    for path, data in files.items():
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError, struct.error):
            if path.endswith(".onnx"):
                start = data.index(ONNX_KEY.encode()) + len(ONNX_KEY) + 2
                found[path] = with_onnx_sum(data[:start] + NO_DIGEST.encode() + data[start + len(NO_DIGEST) :])
            elif path.endswith(".stablehlo.json"):
                values = {**json.loads(data), "sha256": sha256(files[path.removesuffix(".json")])}
                found[path] = json.dumps(sealed(values)).encode()
            elif path.endswith("description/metadata"):
                found[path] = json.dumps(sealed(json.loads(data))).encode()
            elif path.endswith(".safetensors"):
                size = int.from_bytes(data[:8], "little")
                header = json.loads(data[8 : 8 + size])
                header["__metadata__"][KEY] = json.dumps(sealed(json.loads(header["__metadata__"][KEY])))
                text = json.dumps(header).encode()
                found[path] = struct.pack("<Q", len(text)) + text + data[8 + size :]
    return found


def read_tree(folder: Path) -> dict[str, bytes]:
    """The files in a folder by path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def write_tree(folder: Path, tree: Mapping[str, bytes]) -> None:
    """Writes files into a folder, which is emptied before."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path, data in tree.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
