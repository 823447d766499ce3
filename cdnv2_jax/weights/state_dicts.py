"""From the contents of a file to one state_dict under the original code's keys: which one, and what is not in it."""

import dataclasses
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Literal

import numpy as np

from cdnv2_jax.errors import UserError, one_line, shorten
from cdnv2_jax.weights.foreign_layouts import official_layout
from cdnv2_jax.weights.torch_reading import SAVE

Weights = Literal["auto", "ema", "model"]

EMA_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema")
LIVE_KEYS = (
    *("state_dict", "model_state_dict", "model", "model_state", "net", "network"),
    *("params", "weights", "weight", "module"),
)
"""Where training scripts keep averaged and live weights, in order of preference; one may lie in another."""
DEEPEST = 3

WRAPPERS = ("model", "net", "network", "backbone", "encoder", "head")
"""Prefixes that are removed if every key has one."""
MOST_WRAPPERS = 8
_PRIVATE = "_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module"
_ALWAYS_WRAPPERS = re.compile(rf"^(?:(?:module|{_PRIVATE})\.)+|(?<=\.)(?:{_PRIVATE})\.")
"""Those of DataParallel at the beginning, and of `torch.compile` and FSDP, which may wrap inner modules, anywhere."""
COUNTED = ("total_ops", "total_params")
"""What thop leaves in every module."""


@dataclasses.dataclass(frozen=True)
class Chosen:
    """One state_dict of a file.

    Attributes:
      tensors: key → tensor.
      taken: which weights these are, for the user; "" if the file has one state_dict of live weights.
    """

    tensors: Mapping[str, Any]
    taken: str


def is_tensor(value: object) -> bool:
    """Return whether a value is a PyTorch tensor, a NumPy array or a stand-in for one that holds numbers."""
    return hasattr(value, "__array__") and hasattr(type(value), "shape") and getattr(value, "array", value) is not None


def select_state_dict(checkpoint: Mapping[str, Any], weights: Weights, source: str) -> Chosen:
    """Choose among a file's state_dicts: EMA weights for "ema", live ones for "model", EMA if there are any for "auto".

    A file that is itself a state_dict counts as live weights.

    Raises:
      UserError: the file has no such state_dict.
    """
    found = list(_state_dicts(checkpoint, {}))
    averaged = [where for where, _ in found if not set(where).isdisjoint(EMA_KEYS)]
    wanted = [(where, tensors) for where, tensors in found if (where in averaged) == (weights == "ema")]
    if weights == "auto" and averaged:
        wanted = [(where, tensors) for where, tensors in found if where in averaged]
    if not wanted:
        there = shorten([repr(_as_text(key)) for key in checkpoint]) or "nothing"
        advice = f'choose weights "{"model" if weights == "ema" else "ema"}"' if found else SAVE
        raise UserError(f"{source} has no {'EMA ' if weights == 'ema' else ''}state_dict; it holds {there}: {advice}")
    where, tensors = wanted[0]
    taken = f"{'EMA' if where in averaged else 'live'} weights ({'.'.join(where)})"
    if others := [".".join(other) for other, _ in found if other != where]:
        taken += f"; the file also holds {shorten(others)}"
    elif not averaged:
        taken = ""
    return Chosen({_as_text(key): tensor for key, tensor in tensors.items()}, taken)


def _as_text(key: object) -> str:
    """Return a key, or the type of one that is not text: others may be of any size."""
    return key if isinstance(key, str) else f"<{type(key).__name__}>"


def _state_dicts(
    contents: Mapping[Any, Any], verdicts: dict[int, bool], where: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping]]:
    """Yield (keys that lead there, state_dict) in order of preference.

    Many keys may lead to one object, so `verdicts` remembers which ones are state_dicts.
    """
    inner = [key for key in (*EMA_KEYS, *LIVE_KEYS) if isinstance(contents.get(key), Mapping)]
    if inner and len(where) < DEEPEST:
        for key in inner:
            yield from _state_dicts(contents[key], verdicts, (*where, key))
        return
    if id(contents) not in verdicts:
        # Beside the tensors there may be an epoch; a single metric among other things is no state_dict.
        verdicts[id(contents)] = sum(map(is_tensor, contents.values())) * 2 > len(contents)
    if verdicts[id(contents)]:
        yield where, contents


def official_tensors(tensors: Mapping[str, Any], known: Collection[str], source: str) -> dict[str, Any]:
    """Return a state_dict under the original code's keys, without wrappers' prefixes and what other tools added.

    Args:
      tensors: key → tensor, perhaps in one of the `foreign_layouts`.
      known: keys of the network that are never wrapped, see `without_wrappers`.
      source: name of the state_dict in errors.

    Raises:
      UserError: a tensor that cannot be read, or two different ones for the same key.
    """
    for key, tensor in tensors.items():
        if complaint := _unreadable(tensor):
            raise UserError(f"{source}: {shorten([key])}: {complaint}")
    kept = {key: t for key, t in tensors.items() if key.rsplit(".", 1)[-1] not in COUNTED and key != "n_averaged"}
    try:
        return _without_pruning(official_layout(without_wrappers(kept, known, source)), source)
    except UserError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:  # numbers of a kind that NumPy does not have
        raise UserError(f"{source} holds tensors that cannot be read ({one_line(error, 120)}): {SAVE}") from error


def without_wrappers(
    tensors: Mapping[str, Any], known: Collection[str] = (), source: str = "state_dict"
) -> dict[str, Any]:
    """Return the state_dict without the prefixes of wrappers, such as `module.`, in any order and number.

    Args:
      tensors: key → tensor.
      known: keys that the network itself uses; if one is there, only DataParallel's and `torch.compile`'s prefixes go.
      source: name of the state_dict in errors.

    Raises:
      UserError: two keys become the same, with different tensors.
    """
    found = _renamed(tensors, lambda key: _ALWAYS_WRAPPERS.sub("", key), source)
    for _ in range(MOST_WRAPPERS):
        keys = [key for key in found if is_tensor(found[key])]
        if any(key in found for key in known) or not all(_is_wrapped(key) for key in keys):
            break
        found = _renamed(found, _unwrapped, source)
    return found


def _is_wrapped(key: str) -> bool:
    return "." in key and key.partition(".")[0] in WRAPPERS


def _unwrapped(key: str) -> str:
    return _ALWAYS_WRAPPERS.sub("", key.partition(".")[2]) if _is_wrapped(key) else key


def _renamed(tensors: Mapping[str, Any], rename: Callable[[str], str], source: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, tensor in tensors.items():
        name = rename(key)
        if name in found and not _same(found[name], tensor):
            raise UserError(
                f"{source} holds {shorten([name])} twice, with and without a prefix, and with different values: "
                "delete one of the two sets of keys"
            )
        found.setdefault(name, tensor)
    return found


def _same(one: Any, other: Any) -> bool:
    if not (is_tensor(one) and is_tensor(other)):
        return one is other
    ours, theirs = to_numpy(one), to_numpy(other)
    return (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes())


def _without_pruning(tensors: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Multiply the `X_orig` and `X_mask` of `torch.nn.utils.prune` to X, as its forward pass does."""
    found = dict(tensors)
    for key in tensors:
        name = key.removesuffix("_orig")
        parts = (tensors.get(key), tensors.get(f"{name}_mask"))
        if name == key or name in tensors or not all(map(is_tensor, parts)):
            continue
        original, mask = found.pop(key), found.pop(f"{name}_mask")
        if shape_of(original) != shape_of(mask):
            raise UserError(f"{source}: {shorten([name])}_mask has another shape than {shorten([key])}")
        found[name] = to_numpy(original) * to_numpy(mask)
    return found


def _unreadable(tensor: Any) -> str:
    """Return why a PyTorch tensor cannot be read, and what to do; "" if it can."""
    if not hasattr(tensor, "untyped_storage"):
        return ""
    if tensor.is_nested or str(tensor.layout) != "torch.strided":
        return "is a sparse or nested tensor: save tensor.to_dense()"
    if tensor.is_quantized:
        return "is a quantised tensor: save the state_dict of the float network"
    if tensor.device.type == "meta":
        return "has a shape but no data (device meta): save the weights after they are loaded"
    stored = tensor.untyped_storage().nbytes() // tensor.element_size()
    if tensor.numel() > stored:  # a few bytes can claim any number of classes
        return f"claims {tensor.numel():,} numbers, but the file stores {stored:,}: save tensor.contiguous()"
    return ""


def shape_of(tensor: Any) -> list[int] | str:
    """Return the shape as a list, or the type's name for anything but a tensor."""
    return [int(side) for side in tensor.shape] if is_tensor(tensor) else type(tensor).__name__


def to_numpy(tensor: Any) -> np.ndarray:
    """Convert a PyTorch tensor or anything array-like, of a shape already checked, to a NumPy array."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
        if str(tensor.dtype) == "torch.bfloat16" or "float8" in str(tensor.dtype):
            tensor = tensor.float()
        return tensor.numpy()
    return np.asarray(tensor)
