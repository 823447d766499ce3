"""When to prune: progress through training → condensation stage. Plain Python numbers, nothing else."""

from collections.abc import Iterable


def due_stage(progress: float, condensation_factor: int) -> int:
    """The stage (0 … C − 1) a layer must have reached once `progress` of the training is done.

    The C − 1 stages share the first half of the training evenly: stage s is due from 2 · progress ≥ s / (C − 1) on,
    the last one at one half; the second half trains the final sparsity (CondenseNet, section 3.3).

    Args:
      progress: steps done / all steps, in [0, 1].
      condensation_factor: C.
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress must be in [0, 1], got {progress}")
    last = condensation_factor - 1
    # Compared as the official code compares, so that both prune in the same step for every length of run.
    return sum(2 * progress >= stage / last for stage in range(1, last + 1))


def due_stages(progress: float, condensation_factors: Iterable[int]) -> dict[int, int]:
    """`due_stage` for every condensation factor that occurs in a network: {factor: stage}."""
    return {factor: due_stage(progress, factor) for factor in sorted(set(condensation_factors))}


def pruning_steps(total_steps: int, condensation_factor: int) -> dict[int, int]:
    """The step before which each stage is first due, {stage: step}, over a run of `total_steps`.

    Several stages may fall on one step of a short run. What is not due before the last step is due after it, as
    step `total_steps`: no stage is ever left out.
    """
    steps: dict[int, int] = {}
    for step in range(total_steps + 1):
        progress = step / total_steps if total_steps else 1.0
        for stage in range(len(steps) + 1, due_stage(progress, condensation_factor) + 1):
            steps[stage] = step
    return steps
