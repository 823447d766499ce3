"""The verb `prepare`: convert images to an array_record data set."""

from pathlib import Path

from cdnv2_jax.data.sources.open import open_directory
from cdnv2_jax.data.sources.write_array_record import VERSION, write_array_record
from cdnv2_jax.errors import UserError
from cdnv2_jax.files import refuse_existing


def prepare(source: str, directory: Path, output: Path, *, name: str | None, shard_mib: int, overwrite: bool) -> None:
    """Write both splits of a source as an array_record data set; nothing is written unless all of it succeeds."""
    if shard_mib < 1:
        raise UserError(f"--shard-mib {shard_mib}: must be at least 1")
    name = name or source
    refuse_existing(output / name / VERSION, overwrite)  # checked first, because reading takes minutes
    splits = {"train": open_directory(source, directory, "train"), "val": open_directory(source, directory, "val")}
    made = write_array_record(splits, output, name=name, shard_bytes=shard_mib << 20, overwrite=overwrite)
    sizes = ", ".join(f"{len(images)} {split}" for split, images in splits.items())
    print(f"{made}: {sizes} images of {len(splits['train'].class_names)} classes")
