"""Write any source of images as a TensorFlow Datasets data set in array_record files, without TensorFlow."""

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from cdnv2_jax.data.source import Sample, Source
from cdnv2_jax.data.sources.files import progress_bar
from cdnv2_jax.data.sources.shrunk import Shrunk
from cdnv2_jax.data.sources.tf_example import encode_example
from cdnv2_jax.data.sources.tfds import FEATURES, FULL_SIZE, INFO
from cdnv2_jax.data.storage import at_once
from cdnv2_jax.errors import UserError
from cdnv2_jax.files import refuse_existing, replacing

VERSION = "1.0.0"
WRITER = "group_size:1,uncompressed"  # for random access to single records; encoded images do not shrink further
SPLIT_NAMES = {"train": "train", "val": "validation"}
FORMATS = {b"\xff\xd8\xff": "jpeg", b"\x89PNG\r\n\x1a\n": "png", b"BM": "bmp", b"RIFF": "webp"}
PYTHON_NAMES = {
    "dict": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
    "file_name": "tensorflow_datasets.core.features.text_feature.Text",
    "image": "tensorflow_datasets.core.features.image_feature.Image",
    "label": "tensorflow_datasets.core.features.class_label_feature.ClassLabel",
    "scalar": "tensorflow_datasets.core.features.scalar.Scalar",
}


def write_array_record(
    sources: Mapping[str, Source[Sample]], output: Path, *, name: str, shard_bytes: int, overwrite: bool
) -> Path:
    """Write OUTPUT/NAME/1.0.0, completely or not at all; encoded images keep their bytes, pixels become PNGs.

    Args:
      sources: split, "train" or "val" → its images; all with the same classes.
      output: parent directory of data sets.
      name: name of the data set: a lower-case letter, then lower-case letters, digits and underscores.
      shard_bytes: a new shard begins once the current one has this many bytes of records.
      overwrite: replace the data set if it exists.

    Returns:
      The directory of the data set.

    Raises:
      UserError: the name, the classes or an image cannot be used, or the disk is full.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"--name {name!r}: a lower-case letter first, then lower-case letters, digits, underscores")
    class_names = _common_class_names(sources)
    directory = output / name / VERSION
    refuse_existing(directory, overwrite)
    with replacing(directory, last=INFO) as scratch:
        scratch.mkdir()
        splits, formats, short_side = [], set(), _short_side(sources)
        for split, source in sources.items():
            written, used = _write_split(
                source, scratch, name, SPLIT_NAMES[split], shard_bytes, with_size=bool(short_side)
            )
            splits.append(written)
            formats |= used
        _write_json(scratch / FEATURES, _features(len(class_names), formats, with_size=bool(short_side)))
        (scratch / "label.labels.txt").write_text("\n".join(class_names) + "\n", encoding="utf-8")
        _write_json(scratch / INFO, _info(name, splits, short_side))
    return directory


def _common_class_names(sources: Mapping[str, Source[Sample]]) -> list[str]:
    first, *others = (list(source.class_names) for source in sources.values())
    for other in others:
        if other != first:
            odd = sorted(set(first) ^ set(other))[:3]
            raise UserError(f"the splits have different classes, {len(first)} and {len(other)}: {odd}")
    if odd := [name for name in first if name != name.strip() or "\n" in name or not name]:
        raise UserError(f"class names must be single lines without surrounding spaces, {odd[0]!r} is not")
    return first


def _short_side(sources: Mapping[str, Source[Sample]]) -> int | None:
    return next((source.short_side for source in sources.values() if isinstance(source, Shrunk)), None)


def _write_split(
    source: Source[Sample], directory: Path, name: str, split: str, shard_bytes: int, *, with_size: bool
) -> tuple[dict[str, object], set[str]]:
    """Write the files of a split; return its entry in dataset_info.json and the formats of its images."""
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

    lengths: list[int] = []
    formats: set[str] = set()
    total = in_shard = 0
    threads = source.in_bucket or isinstance(source, Shrunk)  # which decodes and encodes
    writer = None
    with progress_bar(f"writing {split}, {len(source)} images", len(source)) as advance:
        for sample in at_once(source.__getitem__, range(len(source)), in_bucket=threads):
            encoded, kind = _encoded(sample)
            features = {"file_name": _file_name(sample), "image": encoded, "label": sample.label}
            if with_size:
                features |= zip(FULL_SIZE, sample.full_size or (0, 0), strict=True)
            record = encode_example(features)
            if writer is None or in_shard >= shard_bytes:
                if writer is not None:
                    writer.close()
                writer = ArrayRecordWriter(str(directory / f"{split}.{len(lengths)}"), WRITER)
                lengths.append(0)
                in_shard = 0
            writer.write(record)
            formats.add(kind)
            lengths[-1] += 1
            in_shard += len(record)
            total += len(record)
            advance(1)
    if writer is not None:
        writer.close()
    # The number of shards, which is part of their names, is known only now.
    for number, length in enumerate(lengths):
        path = directory / f"{name}-{split}.array_record-{number:05d}-of-{len(lengths):05d}"
        (directory / f"{split}.{number}").rename(path)
        reader = ArrayRecordReader(str(path))
        if not reader.ok() or reader.num_records() != length:
            raise UserError(f"{path.name} was not written completely: is the disk full?")
        reader.close()
    return {
        "name": split,
        "numBytes": str(total),
        "shardLengths": [str(length) for length in lengths],
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }, formats


def _encoded(sample: Sample) -> tuple[bytes, str]:
    """Return an encoded image and its format."""
    if isinstance(sample.image, np.ndarray):
        stream = io.BytesIO()
        Image.fromarray(sample.image).save(stream, "png")
        return stream.getvalue(), "png"
    for start, kind in FORMATS.items():
        if sample.image.startswith(start):
            return sample.image, kind
    raise UserError(f"{sample.name} is not a JPEG, PNG, BMP or WebP file: convert or remove it")


def _file_name(sample: Sample) -> bytes:
    """Return the last two parts of a path, CLASS/IMAGE: the rest would reveal where the data set was made."""
    return "/".join(sample.name.replace("\\", "/").split("/")[-2:]).encode("utf-8", "replace")


def _features(classes: int, formats: set[str], *, with_size: bool) -> dict[str, object]:
    image: dict[str, object] = {"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}}
    if formats in ({"jpeg"}, {"png"}):  # TFDS has no others; without a format, it goes by the bytes of an image
        image["encodingFormat"] = next(iter(formats))
    label = {"numClasses": str(classes)}
    contents = {"file_name": {"text": {}}, "image": {"image": image}, "label": {"classLabel": label}}
    features = {key: {"pythonClassName": PYTHON_NAMES[key], **content} for key, content in contents.items()}
    for key in FULL_SIZE if with_size else ():
        number = {"shape": {}, "dtype": "int64", "encoding": "none"}
        features[key] = {"pythonClassName": PYTHON_NAMES["scalar"], "tensor": number}
    return {"pythonClassName": PYTHON_NAMES["dict"], "featuresDict": {"features": features}}


def _info(name: str, splits: list[dict[str, object]], short_side: int | None) -> dict[str, object]:
    shrunk = f" Training images are shrunk to a short side of {short_side} pixels." if short_side else ""
    return {
        "name": name,
        "version": VERSION,
        "description": "Made by cdnv2_jax." + shrunk,
        "fileFormat": "array_record",
        "splits": splits,
        "supervisedKeys": {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}},
    }


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
