"""`main.py condense`."""

from pathlib import Path

from cdnv2_jax.files import refuse_existing
from cdnv2_jax.pruning.condense import condense
from cdnv2_jax.weights.checkpoint import save
from cdnv2_jax.weights.open import open_checkpoint
from cdnv2_jax.weights.torch_file import Weights
from cdnv2_jax.weights.usage import KEY, usage_of


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
