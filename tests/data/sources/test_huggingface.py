"""Data sets that Hugging Face's own library wrote, and what else may lie in their place."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cdnv2_jax import UserError
from cdnv2_jax.data.source import Source, Split
from tests.data.sources.huggingface_sets import LABELS, NAMES, make_set, png, write_parquet, write_saved

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the library's own making

from cdnv2_jax.data.sources.huggingface import read_huggingface  # noqa: E402


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet files are copied there instead of into the home directory."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def _contents(source: Source) -> list[tuple[int, bytes]]:
    samples = [source[index] for index in range(len(source))]
    return [(sample.label, sample.image) for sample in samples]


@pytest.mark.parametrize("write", [write_saved, write_parquet])
def test_images_and_labels(write: Callable[[Path], Path], tmp_path: Path) -> None:
    """The bytes that were written, in the same order as the library's own."""
    directory = write(tmp_path / "set")
    splits: dict[Split, str] = {"train": "train", "val": "validation"}
    for split, name in splits.items():
        source = read_huggingface(directory, split)
        assert source.class_names == NAMES
        assert _contents(source) == [(label, png(name, index)) for index, label in enumerate(LABELS[name])]
        assert "validation row 1 (1.png)" in source[1].name or name == "train"
        assert list(source.remarks) == (["only train and validation used, not extra"] if write is write_saved else [])
        with pytest.raises(IndexError):
            source[len(source)]


def test_without_a_split(tmp_path: Path) -> None:
    make_set("train").save_to_disk(str(tmp_path / "set"))
    whole = read_huggingface(tmp_path / "set", "val")
    assert (len(whole), list(whole.remarks)) == (8, ["no split: all images are held out"])
    train, val = (read_huggingface(tmp_path / "set", split, 0.3) for split in ("train", "val"))
    assert sorted(_contents(train) + _contents(val)) == sorted(_contents(whole))
    assert [label for label, _ in sorted(_contents(val))] == [0, 1, 2]
    assert len({source.fingerprint() for source in (whole, train, val)}) == 3
    with pytest.raises(UserError, match=r"no split called train.*held_out_fraction=0\.1"):
        read_huggingface(tmp_path / "set", "train")


def _no_split(directory: Path) -> None:
    shutil.rmtree(directory / "validation")


def _no_labels(directory: Path) -> None:
    make_set("validation").remove_columns("label").save_to_disk(str(directory / "validation"))


def _unlabelled(directory: Path) -> None:
    made = make_set("validation").remove_columns("label")
    made = made.add_column("label", [-1] * 3).cast_column("label", datasets.ClassLabel(names=NAMES))
    made.save_to_disk(str(directory / "validation"))


def _other_classes(directory: Path) -> None:
    made = make_set("validation").cast_column("label", datasets.ClassLabel(names=NAMES[::-1]))
    made.save_to_disk(str(directory / "validation"))


def _two_images(directory: Path) -> None:
    images = [{"bytes": png("train", index), "path": None} for index in range(3)]
    make_set("validation", mask=(datasets.Image(), images)).save_to_disk(str(directory / "validation"))


def _cut(directory: Path) -> None:
    file = next((directory / "validation").glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:300])


def _json(directory: Path) -> None:
    (directory / "validation" / "dataset_info.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (_no_split, "no split called val or validation"),
        (_no_labels, r"needs a column ClassLabel, has 0 \(image: Image\)"),
        (_unlabelled, "rows without one of its 3 classes in 'label'"),
        (_other_classes, "other classes in train than in validation"),
        (_two_images, "needs a column Image, has 2"),
        (_cut, "cannot be read by the library datasets"),
        (_json, "cannot be read by the library datasets"),
    ],
)
def test_refusals(damage: Callable[[Path], None], complaint: str, tmp_path: Path) -> None:
    directory = write_saved(tmp_path / "set")
    shutil.rmtree(directory / "validation") if damage not in (_no_split, _cut, _json) else None
    damage(directory)
    with pytest.raises(UserError, match=complaint) as error:
        read_huggingface(directory, "val")
    assert "\n" not in str(error.value)


def test_a_missing_shard(tmp_path: Path) -> None:
    directory = write_parquet(tmp_path / "set")
    (directory / "data" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(UserError, match=r"lacks train-00001-of-00002\.parquet: download it again"):
        read_huggingface(directory, "train")


def test_a_path_instead_of_an_image(tmp_path: Path) -> None:
    """No file that a data set names is opened."""
    (tmp_path / "secret").write_bytes(png("train", 0))
    made = make_set("train").cast_column("image", datasets.Image(decode=False))
    named = made.map(
        lambda row: {"image": {"bytes": None, "path": str(tmp_path / "secret")}}, load_from_cache_file=False
    )
    (tmp_path / "data").mkdir()
    named.to_parquet(str(tmp_path / "data" / "train.parquet"))
    with pytest.raises(UserError, match="row 0 holds no image"):
        read_huggingface(tmp_path, "train")[0]
