"""How a state_dict differs from what is expected, in one line that ends with what to do."""

from collections.abc import Collection, Mapping
from typing import Any

from cdnv2_jax.errors import shorten
from cdnv2_jax.weights.state_dicts import is_tensor, shape_of


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
    rows = [tensors[key].shape[:1] for key in classifier if key in misshapen and is_tensor(tensors[key])]
    if not missing and not unexpected and set(misshapen) <= set(classifier) and len(set(map(tuple, rows))) == 1:
        count = int(rows[0][0]) if len(rows[0]) else 0
        return f"its classifier has {count} classes: give num_classes={count} (--num-classes {count})"
    if any("fake_quant" in key or "activation_post_process" in key for key in unexpected):
        return "it comes from quantisation-aware training: save the state_dict of the float network"
    if any(key.endswith(("running_mean", "running_var")) for key in missing):
        return "save model.state_dict(), which holds buffers too, not only the parameters"
    if any(key.endswith("_mask") for key in missing):
        return "the layers may have been pruned: save model.state_dict(), which holds the masks"
    return "give the model and the sizes that the file was saved from"
