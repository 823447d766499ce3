"""What is in an exported program: nothing of this project's, and what each platform computes fastest."""

import re

import jax
import numpy as np
import pytest
from flax import nnx

from cdnv2_jax.export.stablehlo import PLATFORMS, classifier_to_stablehlo
from cdnv2_jax.networks.zoo import architecture_of
from cdnv2_jax.weights.torch_file import model_from_state_dict
from tests.export.networks import SIZE, images, logits
from tests.plain_models import random_twin
from tests.weights.networks import network


@pytest.mark.parametrize("form", ["dense", "condensed", "halved"])
def test_it_holds_no_call_of_ours(form: str) -> None:
    """On this platform the network itself may go by kernels of this project."""
    program = jax.export.deserialize(bytearray(classifier_to_stablehlo(network(form), SIZE)))
    text = program.mlir_module()
    assert not re.findall(r"cdnv2", text)
    assert not re.findall(r"custom_call @(?!Sharding|shape_assertion)\w+", text)
    assert program.platforms == PLATFORMS
    assert str(program.in_avals[0]) == f"float32[batch,{SIZE},{SIZE},3]"
    np.testing.assert_allclose(program.call(images(2)), logits(form, 2), atol=1e-5)


def test_weights_are_stored_once() -> None:
    """Not once for each platform."""
    architecture = architecture_of("shufflenet_v2_x0_5")
    plain = model_from_state_dict(random_twin(architecture).state_dict(), architecture, name="shufflenet_v2_x0_5")
    arrays = sum(array.nbytes for array in jax.tree.leaves(nnx.state(plain)))
    assert arrays < len(classifier_to_stablehlo(plain, 32)) < 1.6 * arrays
