"""Data sets with features as TensorFlow Datasets writes them, and damaged ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from cdnv2_jax import UserError
from cdnv2_jax.data.sources.generated import SyntheticSource
from cdnv2_jax.data.sources.tf_example import encode_example
from cdnv2_jax.data.sources.tfds import ArrayRecords, read_tfds
from cdnv2_jax.data.sources.write_array_record import write_array_record

LENGTHS = [2, 3, 1]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sources = {"train": SyntheticSource("train", 32, 3, 10), "val": SyntheticSource("val", 32, 3, 4)}
    output = tmp_path_factory.mktemp("original")
    return write_array_record(sources, output, name="made", shard_bytes=6000, overwrite=False)


@pytest.fixture
def made(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "made" / "1.0.0"))


def _edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_directory_or_those_above_it(levels: int, made: Path) -> None:
    assert len(read_tfds([made, *made.parents][levels], "train")) == 10


def test_several_below(made: Path) -> None:
    shutil.copytree(made, made.with_name("2.0.0"))
    with pytest.raises(UserError, match=r"holds several data sets, choose one: .*1\.0\.0, .*2\.0\.0"):
        read_tfds(made.parents[1], "train")


@pytest.mark.parametrize("name", ["validation", "val", "test"])
def test_what_is_held_out(name: str, made: Path) -> None:
    _edit(made / "dataset_info.json", lambda info: info["splits"][1].update(name=name))
    for path in made.glob("made-validation*"):
        path.rename(made / path.name.replace("validation", name))
    assert len(read_tfds(made, "val")) == 4


def test_records_of_several_files(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.array_record" for number in range(len(LENGTHS))]
    expected = []
    for file, length in zip(files, LENGTHS, strict=True):
        writer = ArrayRecordWriter(str(file), "group_size:1")
        for number in range(length):
            expected.append(f"{file.name} {number}".encode())
            writer.write(expected[-1])
        writer.close()
    records = ArrayRecords(files, LENGTHS)
    assert [records[index] for index in range(len(records))] == expected
    assert records[-1] == expected[-1]
    with pytest.raises(IndexError):
        records[len(expected)]


def test_more_files_than_are_kept_open(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdnv2_jax.data.sources.tfds.MOST_OPEN", 2)
    source = read_tfds(made, "train")
    assert len(list(made.glob("made-train*"))) > 3
    first = [source[index].image for index in range(len(source))]
    assert [source[index].image for index in reversed(range(len(source)))] == first[::-1]


def test_features_as_tensorflow_datasets_writes_them(tmp_path: Path) -> None:
    """As CIFAR-100's: two labels, of which one is for supervised training."""
    features = tfds.features.FeaturesDict(
        {
            "coarse_label": tfds.features.ClassLabel(names=["x"]),
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(32, 32, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["a name", "b"]),
        }
    )
    features.save_config(str(tmp_path))
    keys = {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}}
    splits = [{"name": "train", "shardLengths": ["1"]}]
    info = {"name": "few", "fileFormat": "array_record", "supervisedKeys": keys, "splits": splits}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    writer = ArrayRecordWriter(str(tmp_path / "few-train.array_record-00000-of-00001"), "group_size:1")
    writer.write(encode_example({"coarse_label": 0, "id": b"1", "image": b"encoded", "label": 1}))
    writer.close()
    source = read_tfds(tmp_path, "train")
    assert source.class_names == ["a name", "b"]
    assert (source[0].image, source[0].label) == (b"encoded", 1)


def test_classes_without_names(made: Path) -> None:
    (made / "label.labels.txt").unlink()
    assert read_tfds(made, "train").class_names == ["0", "1", "2"]


METADATA: dict[str, tuple[str, Callable[[Any], object], str]] = {
    "tfrecord": ("dataset_info.json", lambda info: info.update(fileFormat="tfrecord"), "file_format='array_record'"),
    "no split": ("dataset_info.json", lambda info: info["splits"].pop(0), "has no split"),
    "no records": ("dataset_info.json", lambda info: info["splits"][0].pop("shardLengths"), "has no records"),
    "another length": (
        "dataset_info.json",
        lambda info: info["splits"][0]["shardLengths"].append("1"),
        r"lacks made-train\.array_record-00000-of-0000\d, .* rebuild the data set",
    ),
    "splits of another kind": ("dataset_info.json", lambda info: info.update(splits=7), "cannot be understood"),
    "outside": (
        "dataset_info.json",
        lambda info: info["splits"][0].update(filepathTemplate="../{SPLIT}-{SHARD_INDEX}"),
        "names a file outside",
    ),
    "outside by its name": ("dataset_info.json", lambda info: info.update(name="/etc/x"), "names a file outside"),
    "unknown variable": (
        "dataset_info.json",
        lambda info: info["splits"][0].update(filepathTemplate="{WHAT}"),
        "cannot be understood",
    ),
    "no label": (
        "features.json",
        lambda features: features["featuresDict"]["features"].pop("label"),
        "0 features 'classLabel', a classification set has one",
    ),
    "no features": ("features.json", lambda features: features.clear(), "cannot be understood"),
    "more classes": (
        "features.json",
        lambda features: features["featuresDict"]["features"]["label"]["classLabel"].update(numClasses="4"),
        "names 3 classes, features.json says 4",
    ),
}


@pytest.mark.parametrize(("file", "change", "complaint"), METADATA.values(), ids=METADATA)
def test_metadata_that_will_not_do(file: str, change: Callable[[Any], object], complaint: str, made: Path) -> None:
    _edit(made / file, change)
    with pytest.raises(UserError, match=complaint):
        read_tfds(made, "train")


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000])
def test_no_json(content: str, made: Path) -> None:
    (made / "features.json").write_text(content)
    with pytest.raises(UserError, match=r"features\.json cannot be read"):
        read_tfds(made, "train")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no dataset_info\.json: let DIRECTORY be"):
        read_tfds(tmp_path / "none", "train")


def _first_file(made: Path) -> Path:
    return min(made.glob("made-train*"))


def _cut(made: Path) -> None:
    _first_file(made).write_bytes(_first_file(made).read_bytes()[:1000])


def _flip(made: Path) -> None:
    content = bytearray(_first_file(made).read_bytes())
    content[200] ^= 0xFF
    _first_file(made).write_bytes(content)


def _remove(made: Path) -> None:
    _first_file(made).unlink()


def _swap(made: Path) -> None:
    shutil.copy(max(made.glob("made-train*")), _first_file(made))
    _edit(made / "dataset_info.json", lambda info: info["splits"][0]["shardLengths"].__setitem__(0, "7"))


def _record(features: dict[str, bytes | int] | bytes) -> Callable[[Path], None]:
    def replace(made: Path) -> None:
        length = json.loads((made / "dataset_info.json").read_text())["splits"][0]["shardLengths"][0]
        writer = ArrayRecordWriter(str(_first_file(made)), "group_size:1")
        for _ in range(int(length)):
            writer.write(features if isinstance(features, bytes) else encode_example(features))
        writer.close()

    return replace


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (_cut, "00000-of-0000. is damaged"),
    "bits": (_flip, "00000-of-0000. is damaged"),
    "gone": (_remove, "00000-of-0000. is missing"),
    "other length": (_swap, r"records, its dataset_info\.json says 7"),
    "other features": (_record({"picture": b"x"}), "has no 'image' and 'label'"),
    "other label": (_record({"image": b"x", "label": 3}), "has label 3 of 3 classes"),
    "no example": (_record(b"\xff" * 30), "image 0 is damaged"),
}


@pytest.mark.parametrize(("damage", "complaint"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_records(damage: Callable[[Path], None], complaint: str, made: Path) -> None:
    if damage is _swap:
        damage(made)
        source = read_tfds(made, "train")
    else:
        source = read_tfds(made, "train")
        damage(made)
    with pytest.raises(UserError, match=complaint):
        source[0]
