"""ShuffleNetV2 files of its authors and of torchvision, MobileNetV2 files of torchvision: read, refused, written."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cdnv2_jax import UserError, condense, load_torch_checkpoint, to_torch_state_dict
from cdnv2_jax.weights.open import open_network
from cdnv2_jax.weights.torch_file import model_from_state_dict, save_torch_checkpoint
from tests.plain_models import NAMES, SMALL, plain_twin, random_twin
from tests.tables import table
from tests.weights.official_files import assert_same_bits, overrides_of, save

EVERY = table("kind", list(SMALL))


def loaded(path: Path, kind: str, **options: Any) -> Any:
    """As a user would load the file; the variant of a ShuffleNetV2 is for the file to tell."""
    overrides = overrides_of(SMALL[kind]) | options
    overrides.pop("variant", None)
    return load_torch_checkpoint(path, NAMES[kind], **{"num_classes": 5, **overrides})


@EVERY
def test_theirs_ours_theirs(kind: str, tmp_path: Path) -> None:
    """Bare, as torchvision's files are."""
    state = random_twin(SMALL[kind]).state_dict()
    model = loaded(save(tmp_path / "file.pth", dict(state)), kind)
    assert (model.name, model.architecture) == (NAMES[kind], SMALL[kind])
    assert model.stem.norm.use_running_average
    assert_same_bits(to_torch_state_dict(model), state)


@EVERY
def test_files_of_data_parallel(kind: str, tmp_path: Path) -> None:
    """In a dict, keys prefixed, as the authors' files are."""
    state = random_twin(SMALL[kind]).state_dict()
    file = save(tmp_path / "file.pth.tar", {"state_dict": {f"module.{key}": t for key, t in state.items()}})
    assert_same_bits(to_torch_state_dict(loaded(file, kind)), state)


@EVERY
def test_what_we_write_is_loaded_strictly(kind: str, tmp_path: Path) -> None:
    state = random_twin(SMALL[kind]).state_dict()
    model = model_from_state_dict(state, SMALL[kind], name=NAMES[kind])
    save_torch_checkpoint(tmp_path / "back.pth", model)
    file = torch.load(tmp_path / "back.pth")
    twin = plain_twin(SMALL[kind])
    twin.load_state_dict(file["state_dict"], strict=True)
    assert_same_bits(twin.state_dict(), state)
    assert file["arch"] == NAMES[kind]


@EVERY
def test_files_from_before_there_were_counters(kind: str, tmp_path: Path) -> None:
    state = random_twin(SMALL[kind]).state_dict()
    old = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    found = to_torch_state_dict(loaded(save(tmp_path / "file.pth", old), kind))
    expected = {k: torch.zeros_like(t) if k.endswith("num_batches_tracked") else t for k, t in state.items()}
    assert_same_bits(found, expected)


@EVERY
def test_everything_wrong_is_listed(kind: str, tmp_path: Path) -> None:
    state = dict(random_twin(SMALL[kind]).state_dict())
    first, *_, one, other = [key for key in state if not key.startswith(("classifier", "fc.")) and "batches" not in key]
    del state[one], state[other]
    state["extra"] = torch.zeros(1)
    state[first] = state[first].flatten()
    with pytest.raises(UserError) as refusal:
        loaded(save(tmp_path / "file.pth", state), kind)
    message = str(refusal.value)
    assert "\n" not in message and f"file.pth is not a {NAMES[kind]} with 5 classes" in message
    assert f"2 missing: {one}, {other}; 1 unexpected: extra; 1 misshapen: {first} [" in message


@EVERY
def test_one_missing_counter_is_zero(kind: str, tmp_path: Path) -> None:
    state = random_twin(SMALL[kind]).state_dict()
    counter = next(key for key in state if key.endswith("num_batches_tracked"))
    expected = {**state, counter: torch.zeros_like(state[counter])}
    del state[counter]
    assert_same_bits(to_torch_state_dict(loaded(save(tmp_path / "file.pth", state), kind)), expected)


@EVERY
def test_other_networks_are_refused(kind: str, tmp_path: Path) -> None:
    """Of another family, and of this family but of the registry's size."""
    other = next(other for other in SMALL if NAMES[other] != NAMES[kind])
    path = save(tmp_path / "file.pth", random_twin(SMALL[other]).state_dict())
    with pytest.raises(UserError, match=r"is not a .* with 5 classes: \d+ missing: .*; \d+ unexpected: "):
        loaded(path, kind)
    path = save(tmp_path / "file.pth", random_twin(SMALL[kind]).state_dict())
    with pytest.raises(UserError, match=r"is not a .* with 1000 classes: \d+"):
        load_torch_checkpoint(path, NAMES[kind])


@EVERY
@table("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(kind: str, value: float, tmp_path: Path) -> None:
    state = dict(random_twin(SMALL[kind]).state_dict())
    key = next(key for key in state if key.endswith("running_var"))
    state[key][1] = value
    with pytest.raises(UserError, match=f"file.pth: {key}: holds NaN or infinity"):
        loaded(save(tmp_path / "file.pth", state), kind)


@EVERY
def test_opening_counts_the_classes(kind: str, tmp_path: Path) -> None:
    state = random_twin(SMALL[kind]).state_dict()
    overrides = {key: value for key, value in overrides_of(SMALL[kind]).items() if key != "variant"}
    path = save(tmp_path / "file.pth", {"state_dict": state, "arch": NAMES[kind]})
    model = open_network(path, overrides=overrides).network
    assert model.architecture == SMALL[kind]
    with pytest.raises(UserError, match=f"{NAMES[kind]} has nothing to condense"):
        condense(model)
    with pytest.raises(UserError, match=r"with 3 classes: \d misshapen: "):
        open_network(path, overrides=overrides, num_classes=3)


PUBLISHED_KEYS = {
    "shufflenet_v2, megvii": (
        "first_conv.0.weight features.0.branch_main.0.weight features.0.branch_proj.0.weight "
        "features.2.branch_main.4.running_mean features.3.branch_proj.3.bias "
        "features.4.branch_main.6.num_batches_tracked conv_last.0.weight conv_last.1.bias classifier.0.weight"
    ),
    "shufflenet_v2, torchvision": (
        "conv1.0.weight stage2.0.branch1.0.weight stage2.0.branch2.0.weight stage2.1.branch2.5.weight "
        "stage4.0.branch1.3.running_var stage4.0.branch2.6.running_var conv5.0.weight fc.weight fc.bias"
    ),
    "mobilenet_v2": (
        "features.0.0.weight features.1.conv.0.0.weight features.1.conv.1.weight features.1.conv.2.running_mean "
        "features.2.conv.0.1.weight features.2.conv.1.0.weight features.2.conv.2.weight features.2.conv.3.bias "
        "features.7.0.weight classifier.1.weight"
    ),
}


@table("kind, keys", PUBLISHED_KEYS.items())
def test_keys_of_the_published_files(kind: str, keys: str) -> None:
    """A few of each, written down by hand: the twins and we could have the same mistake."""
    model = model_from_state_dict(random_twin(SMALL[kind]).state_dict(), SMALL[kind], name="small")
    assert set(keys.split()) <= set(to_torch_state_dict(model))
