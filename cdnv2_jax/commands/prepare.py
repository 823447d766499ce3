"""The verb `prepare`: convert images to an array_record data set."""

from pathlib import Path

from cdnv2_jax.data.source import Sample, Source, Split
from cdnv2_jax.data.sources.open import open_directory
from cdnv2_jax.data.sources.shrunk import Shrunk
from cdnv2_jax.data.sources.write_array_record import VERSION, write_array_record
from cdnv2_jax.errors import UserError
from cdnv2_jax.files import refuse_existing
from cdnv2_jax.terminal import say


def prepare(
    source: str,
    directory: Path,
    output: Path,
    *,
    name: str | None,
    shard_mib: int,
    held_out_fraction: float,
    short_side: int | None,
    overwrite: bool,
) -> None:
    """Write both splits of a source as an array_record data set; nothing is written unless all of it succeeds.

    With `short_side`, in pixels, training images are shrunk to it; held-out ones stay whole.
    """
    if not 0 <= held_out_fraction < 1:
        raise UserError(f"--held-out-fraction {held_out_fraction}: must be at least 0 and below 1")
    if shard_mib < 1:
        raise UserError(f"--shard-mib {shard_mib}: must be at least 1")
    name = name or source
    refuse_existing(output / name / VERSION, overwrite)  # checked first, because reading takes minutes
    names: tuple[Split, ...] = ("train", "val")
    splits: dict[str, Source[Sample]] = {
        split: open_directory(source, directory, split, held_out_fraction) for split in names
    }
    for split, images in splits.items():
        for remark in images.remarks:
            say(f"{split}: {remark}")
    if short_side is not None:
        splits["train"] = Shrunk(splits["train"], short_side)
    made = write_array_record(splits, output, name=name, shard_bytes=shard_mib << 20, overwrite=overwrite)
    sizes = ", ".join(f"{len(images)} {split}" for split, images in splits.items())
    say(f"{made}: {sizes} images of {len(splits['train'].class_names)} classes")
