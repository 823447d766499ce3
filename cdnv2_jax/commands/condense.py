"""`main.py condense`."""

from pathlib import Path

from cdnv2_jax.checkpoint.model import save
from cdnv2_jax.checkpoint.open import open_checkpoint
from cdnv2_jax.checkpoint.usage import KEY, usage_of
from cdnv2_jax.condensation.condense import condense
from cdnv2_jax.files import refuse_existing
from cdnv2_jax.torch_io.read import Weights


def condense_checkpoint(
    checkpoint: Path,
    output: Path,
    *,
    model: str | None,
    weights: Weights,
    num_classes: int | None,
    halve_classifier: bool,
    overwrite: bool,
) -> None:
    """Loads, condenses, saves; nothing is written unless all of it succeeds."""
    refuse_existing(output, overwrite)
    masked = open_checkpoint(checkpoint, model=model, weights=weights, num_classes=num_classes)
    condensed = condense(masked, halve_classifier=halve_classifier)
    usage = usage_of(checkpoint, masked).to_json()
    save(output, condensed, metadata={"condensed_from": str(checkpoint), KEY: usage}, overwrite=overwrite)
    print(f"{masked.name} condensed: {output}")
