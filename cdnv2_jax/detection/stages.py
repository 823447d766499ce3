"""The stages of a backbone, of which the first may be frozen."""

from typing import Any

from cdnv2_jax.models.condensenet import CondenseNet

Path = tuple[Any, ...]


def stage_paths(backbone: Any) -> list[list[Path]]:
    """For each stage the paths of its modules within the backbone, as `[("stem",), ("blocks", 0)]`.

    A stage is a dense block or the units of one stride; the stem belongs to the first and what follows the last block
    to the last. Modules in none, a classifier say, do not lead to a feature map. A backbone of one's own says it
    itself, by an attribute `stage_paths`.
    """
    if hasattr(backbone, "stage_paths"):
        return [list(stage) for stage in backbone.stage_paths]
    if isinstance(backbone, CondenseNet):
        stages: list[list[Path]] = [[("blocks", number)] for number in range(len(backbone.blocks))]
        stages[-1].append(("norm_last",))
    else:
        strides = backbone.architecture.unit_strides
        stages = [[("units", n) for n, s in enumerate(strides) if s == stride] for stride in sorted(set(strides))]
    stages[0].insert(0, ("stem",))
    return stages
