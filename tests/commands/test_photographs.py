"""Real photographs in folders, at full size: train, interrupt, resume, evaluate; the same from array_record."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as skimage_data
from sklearn.datasets import load_sample_images

from cdnv2_jax.training.records import RunLog
from tests.commands.shell import REPOSITORY, Shell

CLASSES = ("astronaut", "china", "chelsea", "coffee", "flower", "rocket")
COUNTS = {"train": 8, "val": 3}
FINETUNE = (
    *("--config", f"{REPOSITORY}/configs/finetune.py:cdnv2_a", f"--config.model.num_classes={len(CLASSES)}"),
    *("--config.epochs=2", "--config.data.batch_size=16", "--config.data.eval_batch_size=8"),
    *("--config.data.rand_augment=rand-m9-mstd0.5", "--config.data.erase_probability=0.2"),
    "--config.log_every_steps=1",
)
ON_FOLDER = (*FINETUNE, "--config.data.directory=photographs")
ON_RECORDS = (*FINETUNE, "--config.data.directory=records", "--config.data.source=tfds")
"""Two epochs of three steps each."""


def _photographs() -> dict[str, np.ndarray]:
    temple, flower = load_sample_images().images
    named = {name: getattr(skimage_data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")}
    return {**named, "china": temple, "flower": flower}


def _write_folder(directory: Path) -> None:
    """A class for each photograph: random parts of it, of many sizes, as JPEG files."""
    random = np.random.default_rng(0)
    for name, pixels in _photographs().items():
        height, width = pixels.shape[:2]
        for split, count in COUNTS.items():
            (directory / split / name).mkdir(parents=True)
            for number in range(count):
                tall, wide = random.integers(240, height + 1), random.integers(260, width + 1)
                top, left = random.integers(height - tall + 1), random.integers(width - wide + 1)
                part = Image.fromarray(pixels[top : top + tall, left : left + wide])
                part.save(directory / split / name / f"{number}.jpg", quality=90)


def _interrupt(patch: pytest.MonkeyPatch, after: int) -> None:
    write = RunLog.train

    def stop(log: RunLog, **record) -> None:
        write(log, **record)
        if record["step"] == after:
            raise KeyboardInterrupt

    patch.setattr(RunLog, "train", stop)


@pytest.mark.soak  # compiles the train step of a real network, some forty seconds, and trains it at 224 pixels
def test_photographs(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    _write_folder(Path("photographs"))
    with monkeypatch.context() as patch:
        _interrupt(patch, after=4)
        assert shell.run("main.py", "train", *ON_FOLDER, "--workdir", "run").status == 130
    assert "resuming after step 3" in shell.succeeds("main.py", "train", *ON_FOLDER, "--workdir", "run")
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["stages_passed"] == 7
    assert summary["max_logit_difference"] < 1e-3

    printed = shell.succeeds(
        *("main.py", "eval", *ON_FOLDER, "--checkpoint", "run/condensed"),
        *("--output", "folder.npz", "--per-class", "classes.csv"),
    )
    images = len(CLASSES) * COUNTS["val"]
    assert f"{images} images of image_folder" in printed
    assert f"top-1 {summary['condensed']['accuracy']:.4%}" in printed
    lines = Path("classes.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in lines[1:]] == [[name, "3"] for name in sorted(CLASSES)]

    prepare = ("prepare", "--source", "image_folder", "--directory", "photographs", "--output", "records")
    shell.succeeds("main.py", *prepare)
    shell.succeeds("main.py", "eval", *ON_RECORDS, "--checkpoint", "run/condensed", "--output", "records.npz")
    with np.load("folder.npz") as folder, np.load("records.npz") as records:
        np.testing.assert_array_equal(records["labels"], folder["labels"])
        np.testing.assert_array_equal(records["logits"], folder["logits"])

    # Same images in the same order: the same run, to the last bit of its losses.
    shell.succeeds("main.py", "train", *ON_RECORDS, "--workdir", "from_records")
    assert _losses(Path("from_records")) == _losses(Path("run"))


def _losses(workdir: Path) -> list[float]:
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    last = {record["step"]: record["loss"] for record in records if record["kind"] == "train"}
    return [last[step] for step in sorted(last)]
