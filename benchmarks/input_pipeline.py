"""Measure how many training images per second one core prepares, beside a Pillow pipeline of the official operations.

    python -m benchmarks.input_pipeline [--images N] [--rounds N] [--quality Q] [--shrunk DIR] [--output FILE.json]

Work: a JPEG file of 500 × 375 pixels → random resized crop to 224, flip, RandAugment ("rand-m9-mstd0.5") → uint8, as
sent to an accelerator; and on to float32, normalised, with random erasing, as for a CPU. The photographs are those of
scikit-image and scikit-learn. Both sides use the same random numbers, in one thread, in turn in one process
(A B A B …); each round has the same images and new random numbers. A ratio is the median over rounds of the peer's time
over ours, with lowest and highest. Times vary with the machine and its load; quote ratios.

With --shrunk, ours also runs on the JPEG files of a directory, whole and as `cdnv2 prepare --short-side` shrinks them:
images per second, and by how many levels of 255 the same random crop differs.
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table
from skimage import data
from sklearn.datasets import load_sample_images

from benchmarks import pillow_pipeline as pillow
from benchmarks.machine import describe
from cdnv2_jax.data.augment import Augmentation, draw_flip, draw_rectangle, erase, flip, training_image
from cdnv2_jax.data.decode import decode
from cdnv2_jax.data.preparation import Interpolation, normalise
from cdnv2_jax.data.rand_augment import Operation, apply_operation, draw_operations, parse_rand_augment
from cdnv2_jax.data.random_crop import Rectangle, crop_and_resize, draw_box
from cdnv2_jax.data.source import Sample, Source
from cdnv2_jax.data.sources.shrunk import Shrunk
from cdnv2_jax.errors import UserError

SIZE = 224
WIDTH, HEIGHT = 500, 375
POLICY = "rand-m9-mstd0.5"
PARSED_POLICY = parse_rand_augment(POLICY)
AUGMENTATION = Augmentation(SIZE, "random_resized", flip=True, rand_augment=POLICY, erase_probability=0.2)
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
SHORT_SIDES = (320, 256)
STAGES: tuple[str, ...] = ("decode", "crop and resize", "flip", "RandAugment", "normalise and erase")


class Draws(NamedTuple):
    """All random choices for one image, in the order of `training_image`."""

    box: Rectangle
    resample: Interpolation
    flipped: bool
    operations: list[Operation]
    rectangle: Rectangle


def draw(rng: np.random.Generator) -> Draws:
    """Make the random choices of `training_image` for the same state of `rng`."""
    box = draw_box(HEIGHT, WIDTH, rng)
    resample = "bicubic" if rng.random() < 0.5 else "bilinear"
    flipped = draw_flip(rng)
    operations = draw_operations(PARSED_POLICY, rng)
    return Draws(box, resample, flipped, operations, draw_rectangle(SIZE, SIZE, AUGMENTATION.erase_probability, rng))


def our_uint8(file: bytes, rng: np.random.Generator) -> np.ndarray:
    return training_image(decode(file, "photograph"), "photograph", rng, AUGMENTATION).pixels


def our_float32(file: bytes, rng: np.random.Generator) -> np.ndarray:
    pixels, rectangle = training_image(decode(file, "photograph"), "photograph", rng, AUGMENTATION)
    return erase(normalise(pixels, MEAN.tolist(), STD.tolist()), rectangle, rng)


def _pillow_image(file: bytes, draws: Draws) -> Image.Image:
    image = pillow.crop_and_resize(pillow.decode(file), draws.box, SIZE, draws.resample)
    image = pillow.flip(image) if draws.flipped else image
    for operation in draws.operations:
        image = pillow.apply_operation(image, operation)
    return image


def pillow_uint8(file: bytes, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(_pillow_image(file, draw(rng)))


def pillow_float32(file: bytes, rng: np.random.Generator) -> np.ndarray:
    draws = draw(rng)
    pixels = pillow.normalise(_pillow_image(file, draws), MEAN, STD)
    pillow.erase(pixels, draws.rectangle, rng)
    return pixels


PAIRS: dict[str, tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]] = {
    "to uint8": (our_uint8, pillow_uint8),
    "to float32, normalised and erased": (our_float32, pillow_float32),
}


def photographs(quality: int) -> list[bytes]:
    """Make six JPEG files, centre-cropped to 4 : 3 and resized."""
    pictures = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), *load_sample_images().images]
    files = []
    for picture in pictures:
        image = Image.fromarray(picture)
        wide = min(image.width, image.height * WIDTH // HEIGHT)
        tall = min(image.height, image.width * HEIGHT // WIDTH)
        left, top = (image.width - wide) // 2, (image.height - tall) // 2
        image = image.crop((left, top, left + wide, top + tall)).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        files.append(file.getvalue())
    return files


def check_same(files: list[bytes], images: int = 60) -> float:
    """Check that both pipelines agree; return the median difference in levels of 255."""
    differences = []
    for number in range(images):
        file = files[number % len(files)]
        ours, theirs = (make(file, np.random.default_rng([7, number])) for make in (our_float32, pillow_float32))
        differences.append(255 * float(np.sqrt(np.square((ours - theirs) * STD).mean())))
    # Operations such as equalising amplify small differences of single images; a wrong operation affects most images.
    if statistics.median(differences) > 3:
        raise AssertionError(f"the two pipelines differ by {differences} levels")
    return statistics.median(differences)


def measure_pair(work: str, files: list[bytes], images: int, rounds: int) -> dict[str, Any]:
    """Time one pair in turn."""
    times: dict[str, list[float]] = {"ours": [], "pillow": []}
    for round_number in range(rounds + 1):
        for name, make in zip(times, PAIRS[work], strict=True):
            start = time.perf_counter()
            for number in range(images):
                make(files[number % len(files)], np.random.default_rng([round_number, number]))
            times[name].append((time.perf_counter() - start) / images)
    ours, theirs = times["ours"][1:], times["pillow"][1:]  # the first round is not counted
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {
        "work": work,
        "images_per_second_ours": 1 / statistics.median(ours),
        "images_per_second_pillow": 1 / statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
        "rounds": rounds,
        "images_per_round": images,
    }


def measure_stages(files: list[bytes], images: int) -> dict[str, dict[str, float]]:
    """Measure the mean milliseconds per image of each stage, for both sides."""
    spent = {side: dict.fromkeys(STAGES, 0.0) for side in ("ours", "pillow")}

    def timed(side: str, stage: str, function: Callable[..., Any], *arguments: Any) -> Any:
        start = time.perf_counter()
        result = function(*arguments)
        spent[side][stage] += 1e3 * (time.perf_counter() - start) / images
        return result

    for number in range(images):
        file, rng = files[number % len(files)], np.random.default_rng([99, number])
        draws = draw(rng)
        image: Any = timed("ours", "decode", decode, file, "photograph")
        image = timed("ours", "crop and resize", crop_and_resize, image, draws.box, SIZE, draws.resample)
        image = timed("ours", "flip", flip, image) if draws.flipped else image
        for operation in draws.operations:
            image = timed("ours", "RandAugment", apply_operation, image, operation)
        image = timed("ours", "normalise and erase", normalise, image, MEAN.tolist(), STD.tolist())
        timed("ours", "normalise and erase", erase, image, draws.rectangle, rng)

        image = timed("pillow", "decode", pillow.decode, file)
        image = timed("pillow", "crop and resize", pillow.crop_and_resize, image, draws.box, SIZE, draws.resample)
        image = timed("pillow", "flip", pillow.flip, image) if draws.flipped else image
        for operation in draws.operations:
            image = timed("pillow", "RandAugment", pillow.apply_operation, image, operation)
        image = timed("pillow", "normalise and erase", pillow.normalise, image, MEAN, STD)
        timed("pillow", "normalise and erase", pillow.erase, image, draws.rectangle, rng)
    return spent


def measure_shrunk(directory: Path, images: int, rounds: int) -> list[dict[str, Any]]:
    """Time our pipeline on whole and on shrunk images, in turn, and compare their crops."""
    whole = [Sample(path.read_bytes(), 0, path.name) for path in files_of(directory, images)]
    sets = {None: whole} | {side: shrunk_copies(whole, side) for side in SHORT_SIDES}
    times: dict[int | None, list[float]] = {side: [] for side in sets}
    for round_number in range(rounds + 1):
        for side, samples in sets.items():
            start = time.perf_counter()
            for number, sample in enumerate(samples):
                augmented(sample, np.random.default_rng([round_number, number]), AUGMENTATION)
            times[side].append((time.perf_counter() - start) / len(samples))
    rows = []
    for side, samples in sets.items():
        ratios = [b / a for a, b in zip(times[side][1:], times[None][1:], strict=True)]
        rows.append(
            {
                "short_side": side,
                "images": len(samples),
                "mean_bytes": round(statistics.mean(len(bytes(sample.image)) for sample in samples)),
                "images_per_second": 1 / statistics.median(times[side][1:]),
                "ratio": statistics.median(ratios),
                "ratio_lowest": min(ratios),
                "ratio_highest": max(ratios),
                "mean_difference_in_levels": statistics.mean(map(crop_difference, whole, samples)),
            }
        )
    return rows


def files_of(directory: Path, most: int) -> list[Path]:
    """Return JPEG files, evenly spaced in the order of their names."""
    found = sorted(path for path in directory.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if not found:
        raise UserError(f"{directory} holds no JPEG files")
    return found[:: max(len(found) // most, 1)]


def shrunk_copies(samples: list[Sample], short_side: int) -> list[Sample]:
    source = Samples(samples)
    return [Shrunk(source, short_side)[index] for index in range(len(source))]


class Samples(Source[Sample]):
    """Samples in memory."""

    class_names = ("any",)

    def __init__(self, samples: list[Sample]):
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._samples[index]


def augmented(sample: Sample, rng: np.random.Generator, augmentation: Augmentation) -> np.ndarray:
    return training_image(sample.pixels(), sample.name, rng, augmentation, sample.full_size).pixels


def crop_difference(one: Sample, other: Sample) -> float:
    """Return the mean absolute difference of the same random crop, without RandAugment, in levels of 255."""
    crop = Augmentation(SIZE, "random_resized", flip=True)
    pixels = [augmented(sample, np.random.default_rng(len(one.name)), crop).astype(float) for sample in (one, other)]
    return float(np.abs(pixels[0] - pixels[1]).mean())


def show_shrunk(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the table."""
    table = Table(title="Shrunk training images (one core)")
    for column in ("short side", "images/s", "ratio", "lowest to highest", "KB", "difference in levels"):
        table.add_column(column, justify="right")
    for row in rows:
        spread = f"{row['ratio_lowest']:.2f} to {row['ratio_highest']:.2f}"
        figures = (f"{row['images_per_second']:.0f}", f"{row['ratio']:.2f}", spread, f"{row['mean_bytes'] / 1e3:.0f}")
        table.add_row(str(row["short_side"] or "whole"), *figures, f"{row['mean_difference_in_levels']:.1f}")
    console.print(table)


def show(pairs: list[dict[str, Any]], stages: dict[str, dict[str, float]], console: Console) -> None:
    """Print the tables."""
    table = Table(title="Images per second on one core (ratio above 1: ours is faster)")
    for column in ("work", "ours", "Pillow", "ratio", "lowest to highest"):
        table.add_column(column, justify="left" if column == "work" else "right")
    for pair in pairs:
        spread = f"{pair['ratio_lowest']:.2f} to {pair['ratio_highest']:.2f}"
        rates = (f"{pair['images_per_second_ours']:.0f}", f"{pair['images_per_second_pillow']:.0f}")
        table.add_row(pair["work"], *rates, f"{pair['ratio']:.2f}", spread)
    console.print(table)
    table = Table(title="Milliseconds per image")
    for column in ("stage", "ours", "Pillow"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage in STAGES:
        table.add_row(stage, *(f"{stages[side][stage]:.3f}" for side in ("ours", "pillow")))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.input_pipeline", description=__doc__)
    parser.add_argument("--images", type=int, default=300, help="per side and round")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--quality", type=int, default=90, help="of the JPEG files")
    parser.add_argument(
        "--shrunk", type=Path, metavar="DIR", help="directory of JPEG files to compare shrunk copies of"
    )
    parser.add_argument("--output", type=Path, help="also write the results there, as JSON")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    files = photographs(options.quality)
    difference = check_same(files)
    pairs = [measure_pair(work, files, options.images, options.rounds) for work in PAIRS]
    stages = measure_stages(files, options.images)
    show(pairs, stages, Console())
    shrunk = measure_shrunk(options.shrunk, options.images, options.rounds) if options.shrunk else []
    if shrunk:
        show_shrunk(shrunk, Console())
    if options.output:
        packages = ("numpy", "pillow", "opencv-python-headless")
        record = {
            "machine": describe() | {"input_versions": {package: version(package) for package in packages}},
            "files": {"quality": options.quality, "mean_bytes": round(statistics.mean(map(len, files)))},
            "median_difference_in_levels": round(difference, 3),
            "pairs": pairs,
            "milliseconds_per_stage": stages,
            "shrunk": shrunk,
        }
        options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
