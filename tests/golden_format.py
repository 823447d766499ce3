"""The golden files' format: what is in one, and the deterministic weights it was measured with.

NumPy alone, so that the JAX model, the PyTorch twin and the command line can all start from the same bytes.
`tests/golden/README.md` describes the format in words.
"""

import dataclasses
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class GoldenFile:
    """One golden file: `meta` (the JSON object) and `arrays` (everything else)."""

    path: Path
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def is_trajectory(self) -> bool:
        """True for a training run, False for a single forward pass."""
        return "loss" in self.arrays


def read_golden(path: str | Path) -> GoldenFile:
    """Reads an `.npz` file of the golden format (arrays only; pickled objects are refused by NumPy)."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    meta = json.loads(arrays.pop("meta").tobytes())
    return GoldenFile(Path(path), meta, arrays)


def uniform(key: str, salt: str, shape: Sequence[int]) -> np.ndarray:
    """Uniform float64 numbers in [0, 1) that depend on nothing but `salt`, `key` and `shape`."""
    raw = np.random.PCG64(zlib.crc32(f"{salt}/{key}".encode())).random_raw(math.prod(shape))
    return ((raw >> np.uint64(11)) * 2.0**-53).reshape(shape)


def deterministic_tensor(key: str, salt: str, shape: Sequence[int]) -> np.ndarray:
    """The value of the state_dict tensor `key`: float32, except int64 for the number of batches."""
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "_mask":
        return np.ones(shape, np.float32)
    if leaf in ("_count", "_stage"):
        return np.zeros(shape, np.float32)
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    u = uniform(key, salt, shape)
    if leaf == "running_var":
        value = 0.5 + u
    elif leaf in ("running_mean", "bias"):
        value = 0.4 * (u - 0.5)
    elif len(shape) == 1:
        value = 0.5 + u
    else:
        value = (2 * u - 1) * math.sqrt(6 / math.prod(shape[1:]))
    return value.astype(np.float32)


def deterministic_state_dict(shapes: Mapping[str, Sequence[int]], salt: str) -> dict[str, np.ndarray]:
    """The whole state_dict of `meta["state_dict"]` (key → shape), official keys and layouts."""
    return {key: deterministic_tensor(key, salt, shape) for key, shape in shapes.items()}


def deterministic_input(shape: Sequence[int], salt: str) -> np.ndarray:
    """The input images, NCHW float32."""
    return (4 * (uniform("input", salt, shape) - 0.5)).astype(np.float32)


def architecture_config(golden: GoldenFile) -> dict[str, Any]:
    """The architecture of a golden file in the official code's own terms.

    Keys: `name` (None unless `meta` names a CondenseNetV2), `stages`, `growth`, `condense_factor`, `trans_factor`,
    `group_1x1`, `group_3x3`, `group_trans`, `bottleneck`, `last_se_reduction`, `HS_start_block`, `SE_start_block`,
    `fc_channel`, `init_stride`, `num_classes`; the keys of SFR, SE and the wide head are None for CondenseNet v1.
    A named CondenseNetV2 (`cdnv2_a`, …) carries its name, stride and classes only: its numbers are the paper's.
    """
    meta = golden.meta
    if "config" in meta:
        return {**meta["config"], "name": None, "init_stride": 1, "num_classes": golden.arrays["logits_final"].shape[1]}
    num_classes = meta.get("num_classes", golden.arrays["logits_dense"].shape[1])
    if "stages" not in meta:
        return {"name": meta["model"], "init_stride": 2, "num_classes": num_classes}
    # The official network fits one image size: its last map is 7 x 7 with stem stride 2, 8 x 8 with stride 1.
    last_side = meta["input_shape"][-1] // 2 ** (len(meta["stages"]) - 1)
    factor = meta.get("condense_factor", meta["groups"])
    v1 = dict.fromkeys(
        ("trans_factor", "group_trans", "last_se_reduction", "HS_start_block", "SE_start_block", "fc_channel")
    )
    return {
        **v1,
        "name": None,
        "stages": meta["stages"],
        "growth": meta["growth"],
        "condense_factor": factor,
        "group_1x1": meta["groups"],
        "group_3x3": meta["groups"],
        "bottleneck": meta.get("bottleneck", 4),
        "init_stride": 1 if last_side == 8 else 2,
        "num_classes": num_classes,
    }


def crc32(tensor: np.ndarray, dtype: type) -> int:
    """CRC of the tensor's C-order bytes after a cast to `dtype` (masks uint8, weights float32, indices int64)."""
    return zlib.crc32(np.ascontiguousarray(tensor, dtype).tobytes())
