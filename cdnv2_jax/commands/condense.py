"""The verb `condense`: convert a masked checkpoint to a condensed one."""

from pathlib import Path

from cdnv2_jax.commands.arguments import print_chosen, print_taken
from cdnv2_jax.files import refuse_existing
from cdnv2_jax.pruning.condense import condense
from cdnv2_jax.terminal import say
from cdnv2_jax.training.workdir import TO_CONDENSE, network_of_run
from cdnv2_jax.weights.checkpoint import save
from cdnv2_jax.weights.open import open_network
from cdnv2_jax.weights.state_dicts import Weights


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
    """Load, condense and save a network; nothing is written unless all of it succeeds."""
    refuse_existing(output, overwrite)
    given, checkpoint = checkpoint, network_of_run(checkpoint, TO_CONDENSE)
    masked = open_network(checkpoint, model=model, weights=weights, num_classes=num_classes)
    condensed = condense(masked.network, halve_classifier=halve_classifier)
    save(output, condensed, metadata={"condensed_from": str(checkpoint)}, overwrite=overwrite)
    print_chosen(given, checkpoint)
    print_taken(masked.taken)
    say(f"{condensed.name} condensed: {output}")
