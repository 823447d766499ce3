"""A network for your own pictures: fine-tuned, pruned, condensed, tried on new pictures, and exported to ONNX.

    python examples/finetune_own_pictures.py
    python examples/finetune_own_pictures.py --pictures photos --checkpoint cdnv2_a.pth.tar --new holiday/ \
        --config.epochs=20

--pictures is a folder with one folder of images per class, or with `train` and `val` of that kind; without `val`, a
tenth of every class is held out (docs/data.md). Without --pictures, three kinds of pattern are drawn, so that it runs
as it is, within a minute on two CPU cores. --checkpoint is a trained cdnv2_a: an official file
(docs/pytorch-weights.md) or a checkpoint of this package. Without it the network starts from random weights. Any
setting of docs/fine-tune.md can be changed by --config.key=value. Needs the extra `export` (docs/install.md).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import cdnv2_jax
from cdnv2_jax.commands.main import main as cdnv2
from cdnv2_jax.data.image_paths import image_files
from cdnv2_jax.data.sources.open import open_directory
from cdnv2_jax.errors import UserError

CONFIG = "finetune:cdnv2_a"
HELD_OUT = 0.1
"""Fraction of each class that is held out of pictures without a `val` folder, as in the config."""
SMALL = {
    "data.image_size": 64,
    "model.overrides.stages": "(1, 1, 1, 1, 1)",
    "epochs": 12,
    "eval_every_epochs": 3,
    "optimizer.learning_rate": 0.2,
}
"""Settings for the drawn patterns: smaller pictures, a dense layer per block instead of 1-1-4-6-8, a short run."""


def pattern(kind: str, random: np.random.Generator, side: int = 80) -> Image.Image:
    """Draw a pattern with a random period, offset and pair of colours, and some noise."""
    dark, bright = random.integers(0, 110, 3), random.integers(140, 256, 3)
    period = random.integers(10, 21)
    y, x = (np.mgrid[:side, :side] + random.integers(0, period, (2, 1, 1))) % period
    shapes = {
        "striped": y < period / 2,
        "chequered": (y < period / 2) ^ (x < period / 2),
        "dotted": np.hypot(y - period / 2, x - period / 2) < period / 3,
    }
    pixels = np.where(shapes[kind][..., None], bright, dark) + random.normal(0, 12, (side, side, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw_pictures(directory: Path, per_class: int) -> None:
    """Write `directory`/CLASS/*.png, and a new picture of each class in `directory`/../new."""
    random = np.random.default_rng(0)
    new = directory.parent / "new"
    new.mkdir(parents=True, exist_ok=True)
    for kind in ("chequered", "dotted", "striped"):
        (directory / kind).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            pattern(kind, random).save(directory / kind / f"{number:03}.png")
        pattern(kind, random).save(new / f"{kind}.png")


def settings_for(pictures: Path, checkpoint: str) -> dict[str, object]:
    """Return the settings that follow from the pictures and from whether the network is trained already.

    Raises:
      UserError: the pictures are not in folders of classes, or too few.
    """
    train = open_directory("image_folder", pictures, "train", HELD_OUT)
    print(f"{len(train):,} pictures to train on, of {len(train.class_names)} classes: {', '.join(train.class_names)}")
    settings: dict[str, object] = {
        "data.directory": pictures,
        "data.held_out_fraction": HELD_OUT,
        "model.num_classes": len(train.class_names),
        # About ten steps per epoch, also with few pictures; no batch can be larger than the whole training set.
        "data.batch_size": min(len(train), 64, max(8, len(train) // 10)),
        # The moving average of the weights needs some hundred steps to forget those of the start.
        "ema_decay": 0.0,
    }
    if checkpoint:
        return settings | {"model.checkpoint": checkpoint}
    print("No --checkpoint: the network starts from random weights, and so needs many more pictures and epochs.")
    return settings | {"optimizer.learning_rate": 0.1}


def command(verb: str, *arguments: object) -> None:
    """Run `main.py VERB ARGUMENTS`; if it fails it has said why, and the program ends with its exit status."""
    words = [verb, *map(str, arguments)]
    if status := cdnv2(words):
        sys.exit(status)


def new_pictures(given: Sequence[Path] | None, pictures: Path) -> list[Path]:
    """Return the images in what is given; of nothing, four of the held-out pictures, which are ordered by class.

    Raises:
      UserError: one of them does not exist, or a folder has none.
    """
    if given is None:
        held_out = open_directory("image_folder", pictures, "val", HELD_OUT)
        return [Path(held_out[index].name) for index in range(0, len(held_out), -(-len(held_out) // 4))]
    paths = list(image_files(given))
    if missing := [path for path in paths if not path.is_file()]:
        raise UserError(f"--new {missing[0]}: no such file or folder")
    return paths


def fine_tune(options: argparse.Namespace, overrides: Sequence[str]) -> None:
    """Train on the pictures, then use the condensed network and its ONNX file on new ones."""
    pictures, new = options.pictures, options.new
    settings: dict[str, object] = {}
    if pictures is None:
        pictures, new = options.output / "pictures", new or [options.output / "new"]
        draw_pictures(pictures, per_class=60)
        settings = SMALL
    settings = settings_for(pictures, options.checkpoint) | settings
    paths = new_pictures(new, pictures)  # first, because training may take long
    run, onnx = options.output / "run", options.output / "pictures.onnx"
    if (run / "summary.json").exists() and not options.overwrite:
        print(f"{run} holds a finished run: its network is used as it is (--overwrite to train again)")
    else:
        flags = [f"--config.{key}={value}" for key, value in settings.items()]
        overwrite = ["--overwrite"] if options.overwrite else []
        command("train", "--config", CONFIG, "--workdir", run, *overwrite, *flags, *overrides)

    condensed = cdnv2_jax.predict(run / "condensed", paths)
    for path, found in zip(paths, condensed, strict=True):
        print(f"{path}: {found.classes[0].name}, {found.classes[0].probability:.1%}")

    command("export", "--checkpoint", run / "condensed", "--format", "onnx", "--output", onnx, "--overwrite")
    exported = cdnv2_jax.predict(onnx, paths)
    same = sum(a.classes[0].label == b.classes[0].label for a, b in zip(condensed, exported, strict=True))
    print(f"{onnx} says the same of {same} of {len(paths)} pictures")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example and return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="a folder per class (default: drawn patterns)")
    parser.add_argument("--checkpoint", default="", metavar="PATH", help="trained cdnv2_a (default: random weights)")
    parser.add_argument("--new", type=Path, nargs="+", metavar="PATH", help="images to name (default: held-out ones)")
    parser.add_argument("--output", type=Path, default=Path("runs/pictures"), metavar="DIR", help="for all results")
    parser.add_argument("--overwrite", action="store_true", help="train again, removing the earlier run")
    options, rest = parser.parse_known_args(arguments)
    if unknown := [word for word in rest if not word.startswith("--config.")]:
        parser.error(f"unknown argument: {unknown[0]}")
    try:
        fine_tune(options, rest)
    except UserError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
