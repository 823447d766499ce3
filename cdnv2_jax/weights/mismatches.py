"""How a state_dict differs from what is expected, in one line that ends with what to do."""

from collections.abc import Collection, Mapping
from typing import Any

from cdnv2_jax.errors import shorten
from cdnv2_jax.weights.state_dicts import is_tensor, shape_of

BUFFERS = ("running_mean", "running_var", "_mask")


def mismatches(
    tensors: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]], classifier: Collection[str] = ()
) -> str:
    """Describe all mismatches of keys and shapes in one line; empty if there are none.

    Args:
      tensors: key → tensor.
      expected: key → shape.
      classifier: keys whose tensors have one row per class.
    """
    missing = [key for key in expected if key not in tensors]
    unexpected = [key for key in tensors if key not in expected and is_tensor(tensors[key])]
    wrong = [key for key, shape in expected.items() if key in tensors and shape_of(tensors[key]) != list(shape)]
    misshapen = [f"{key} {shape_of(tensors[key])} instead of {list(expected[key])}" for key in wrong]
    found = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    lists = [f"{len(keys)} {kind}: {shorten(keys, longest=110)}" for kind, keys in found.items() if keys]
    if not lists:
        return ""
    return "; ".join([*lists, _advice(tensors, missing, unexpected, wrong, classifier)])


def _advice(
    tensors: Mapping[str, Any],
    missing: list[str],
    unexpected: list[str],
    misshapen: list[str],
    classifier: Collection[str],
) -> str:
    if not missing and not unexpected and set(misshapen) <= set(classifier):
        rows = {tensors[key].shape[0] for key in misshapen if is_tensor(tensors[key]) and len(tensors[key].shape) > 0}
        if len(rows) == 1 and (count := int(rows.pop())):
            python = f"num_classes={count} in Python and configs"
            return f"its classifier has {count} classes: give --num-classes {count}, or {python}"
    if any("fake_quant" in key or "activation_post_process" in key for key in unexpected):
        return "it comes from quantisation-aware training: save the state_dict of the float network"
    if missing and not unexpected and not misshapen and all(key.endswith(BUFFERS) for key in missing):
        return "save model.state_dict(), which holds the buffers too; without its masks, a pruned layer looks whole"
    return "give the model and the sizes that the file was saved from"
