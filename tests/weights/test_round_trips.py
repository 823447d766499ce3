"""Official state_dict ↔ model: bit for bit in both directions and every form, and the same logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from cdnv2_jax import UserError, condense, create_model, prune, to_torch_state_dict
from cdnv2_jax.layers.condensed import with_gathered_norms
from cdnv2_jax.layers.norm import BatchNorm
from cdnv2_jax.networks.condensenet.architecture import CondenseNetArchitecture
from cdnv2_jax.networks.condensenet.family import condensenet_form
from cdnv2_jax.networks.network import Architecture, Form, Network
from cdnv2_jax.weights.checkpoint import flat_arrays
from cdnv2_jax.weights.torch_file import model_from_state_dict
from tests.tables import table
from tests.torch_twin import CondenseNetTwin, build_twin, converted, prune_to_stage
from tests.twin_models import SMALL_V1, SMALL_V2, assert_near, forward, nhwc, random_images, twin_config
from tests.weights.official_files import assert_same_bits, overrides_of, twin_in_form

ARCHITECTURES = {"v2": SMALL_V2, "v1": SMALL_V1}
FORMS = [
    (generation, form)
    for generation, architecture in ARCHITECTURES.items()
    for form in [*range(architecture.condensation_stages + 1), "converted"]
]
EVERY_FORM = table("generation, form", FORMS)
EVERY_KIND = table("generation, form", [("v2", 3), ("v2", "converted"), ("v1", "converted")])


def _model(twin: CondenseNetTwin, architecture: Architecture) -> Network:
    return model_from_state_dict(twin.state_dict(), architecture, name="cdnv2_cifar_110")


def _skeleton(architecture: Architecture, form: int | str) -> CondenseNetTwin:
    """A twin of the right structure with weights of its own."""
    twin = build_twin(twin_config(architecture)).eval()
    assert isinstance(architecture, CondenseNetArchitecture)
    if form == "converted":
        prune_to_stage(twin, architecture.condensation_stages)
        return converted(twin)
    return twin


@EVERY_FORM
def test_theirs_ours_theirs(generation: str, form: int | str) -> None:
    twin = twin_in_form(ARCHITECTURES[generation], form)
    model = _model(twin, ARCHITECTURES[generation])
    assert model.form.condensed == (form == "converted")
    assert_same_bits(to_torch_state_dict(model), twin.state_dict())


def _randomised(model: Network) -> Network:
    """Every float of the model redrawn, so that no two of its arrays are alike; counters set."""
    random = np.random.default_rng(0)
    state = nnx.state(model)
    for _, variable in nnx.to_flat_state(state):
        value = variable.get_value()
        if jnp.issubdtype(value.dtype, jnp.floating):
            variable.set_value(jnp.asarray(random.standard_normal(value.shape), value.dtype))
        elif value.shape == ():
            variable.set_value(jnp.asarray(random.integers(1, 2**31), value.dtype))
    nnx.update(model, state)
    return model


@EVERY_FORM
def test_ours_theirs_ours(generation: str, form: int | str) -> None:
    architecture = ARCHITECTURES[generation]
    model = create_model(
        "cdnv2_cifar_110", num_classes=architecture.num_classes, rngs=nnx.Rngs(0), **overrides_of(architecture)
    )
    prune(_randomised(model), architecture.condensation_stages if form == "converted" else int(form))
    models: list[Network] = [model]
    if form == "converted":
        alike = condense(model, halve_classifier=generation == "v1")
        models = [alike, _randomised(with_gathered_norms(alike))]  # the groups of the second normalise differently
    for model in models:
        back = model_from_state_dict(to_torch_state_dict(model), architecture, name=model.name)
        assert back.form == model.form
        assert_same_bits(flat_arrays(nnx.state(back)), flat_arrays(nnx.state(model)))


@EVERY_KIND
def test_same_logits_both_ways(generation: str, form: int | str) -> None:
    architecture = ARCHITECTURES[generation]
    twin = twin_in_form(architecture, form)
    model = _model(twin, architecture)
    images = random_images(3, 32, 32).astype(np.float32)
    logits = forward(model, nhwc(images))
    received = _skeleton(architecture, form)
    received.load_state_dict({key: torch.from_numpy(a) for key, a in to_torch_state_dict(model).items()}, strict=True)
    with torch.no_grad():
        assert_near(logits, twin(torch.from_numpy(images)), 1e-5, "theirs → ours")
        assert_near(received(torch.from_numpy(images)), logits, 1e-5, "ours → theirs")


@table("generation", list(ARCHITECTURES))
def test_our_condensed_network_is_their_converted_one(generation: str) -> None:
    architecture = ARCHITECTURES[generation]
    twin = twin_in_form(architecture, architecture.condensation_stages)
    condensed = condense(_model(twin, architecture), halve_classifier=generation == "v1")
    assert_same_bits(to_torch_state_dict(condensed), converted(twin).state_dict())


@EVERY_KIND
def test_keys_of_data_parallel(generation: str, form: int | str) -> None:
    architecture = ARCHITECTURES[generation]
    state = twin_in_form(architecture, form).state_dict()
    prefixed = {f"module.{key}": tensor for key, tensor in state.items()}
    model = model_from_state_dict(prefixed, architecture, name="cdnv2_cifar_110")
    assert_same_bits(to_torch_state_dict(model), state)


def test_numpy_arrays_do_as_well_as_tensors() -> None:
    state = {key: tensor.numpy() for key, tensor in twin_in_form(SMALL_V2, 2).state_dict().items()}
    model = model_from_state_dict(state, SMALL_V2, name="cdnv2_cifar_110")
    assert_same_bits(to_torch_state_dict(model), state)


def test_stage_and_count_follow_the_mask() -> None:
    """The official code leaves wrong numbers there after short runs; the mask is what the network computes with."""
    state = twin_in_form(SMALL_V2, 5).state_dict()
    stale = {key: torch.zeros(1) if key.endswith(("._stage", "._count")) else t for key, t in state.items()}
    model = model_from_state_dict(stale, SMALL_V2, name="cdnv2_cifar_110")
    assert_same_bits(to_torch_state_dict(model), state)


@table("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_cast(dtype: torch.dtype) -> None:
    state = twin_in_form(SMALL_V2, 1).state_dict()
    other = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    model = model_from_state_dict(other, SMALL_V2, name="cdnv2_cifar_110")
    expected = {key: tensor.to(state[key].dtype) for key, tensor in other.items()}
    assert_same_bits(to_torch_state_dict(model), expected)


def test_loaded_network_evaluates() -> None:
    model = _model(twin_in_form(SMALL_V2, "converted"), SMALL_V2)
    norms = [module for _, module in nnx.iter_modules(model) if isinstance(module, BatchNorm)]
    assert norms and all(norm.use_running_average for norm in norms)
    assert all(isinstance(array, jax.Array) for array in flat_arrays(nnx.state(model)).values())


def test_form_is_told_by_the_keys() -> None:
    assert condensenet_form(twin_in_form(SMALL_V2, 0).state_dict()) == Form()
    assert condensenet_form(twin_in_form(SMALL_V2, "converted").state_dict()) == Form(condensed=True)
    assert condensenet_form(twin_in_form(SMALL_V1, "converted").state_dict()) == Form(
        condensed=True, halved_classifier=True
    )


def test_condensed_v1_with_its_whole_classifier_cannot_be_theirs() -> None:
    model = condense(_model(twin_in_form(SMALL_V1, 3), SMALL_V1))
    with pytest.raises(UserError, match="halve_classifier=True"):
        to_torch_state_dict(model)
