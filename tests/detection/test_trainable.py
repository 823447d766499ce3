"""Which parameters train and which BatchNorms follow the batches."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from cdnv2_jax.detectors.detector import set_training_mode, trainable_parameters
from cdnv2_jax.errors import UserError
from cdnv2_jax.layers.norm import BatchNorm
from cdnv2_jax.networks.condensenet.network import CondenseNet
from cdnv2_jax.networks.family import build_network, model_entry
from tests.detection.tiny import TinyBackbone, tiny_detector
from tests.tables import table
from tests.twin_models import SMALL_V2


def frozen_convs(**changes: Any) -> list[int]:
    """Numbers of the backbone's convolutions that do not train; their BatchNorms must do the same."""
    trains = trainable_parameters(tiny_detector("faster_rcnn", **changes))
    backbone = trains["backbone"]
    frozen = []
    for number in range(5):
        parts = jax.tree.leaves((backbone["convs"][number], backbone["norms"][number]))
        assert len(parts) == 4 and len(set(parts)) == 1
        if not parts[0]:
            frozen.append(number)
    return frozen


@table("stages, convs", [(0, []), (1, [0, 1]), (2, [0, 1, 2]), (4, [0, 1, 2, 3, 4])])
def test_frozen_stages(stages: int, convs: list[int]) -> None:
    """The stem belongs to the first stage; scale and bias of a BatchNorm train, whatever becomes of statistics."""
    for norm in ("frozen", "trained"):
        assert frozen_convs(frozen_stages=stages, norm=norm) == convs


@table("kind", ["retinanet", "faster_rcnn"])
def test_pyramid_and_heads_train_and_the_classifier_does_not(kind: Any) -> None:
    detector = tiny_detector(kind, frozen_stages=0)
    trains = trainable_parameters(detector)
    parameters = nnx.state(detector, nnx.Param)
    assert jax.tree.structure(trains) == jax.tree.structure(parameters)
    frozen = [path for path, trained in jax.tree.leaves_with_path(trains) if not trained]
    assert len(frozen) == 2
    assert all("classifier" in jax.tree_util.keystr(path) for path in frozen)


def test_more_frozen_stages_than_there_are() -> None:
    with pytest.raises(UserError, match="frozen_stages must be 4 or less for this backbone, got 5"):
        tiny_detector("retinanet", frozen_stages=5)


@table(
    "norm, stages, kept",
    [
        ("frozen", 0, [True] * 5),
        ("frozen", 1, [True] * 5),
        ("trained", 0, [False] * 5),
        ("trained", 2, [True, True, True, False, False]),
    ],
)
def test_statistics_in_training(norm: Any, stages: int, kept: list[bool]) -> None:
    """By the flags, and by which statistics a batch has changed."""
    detector = tiny_detector("retinanet", norm=norm, frozen_stages=stages)
    assert isinstance(detector.backbone, TinyBackbone)
    norms = list(detector.backbone.norms)
    set_training_mode(detector)
    assert [norm.use_running_average for norm in norms] == kept
    images = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
    graph, state = nnx.split(detector.backbone)

    @jax.jit
    def after(state):
        backbone = nnx.merge(graph, state, copy=True)
        backbone.features(images, jnp.asarray([[64, 64]] * 2))
        return nnx.state(backbone, nnx.BatchStat)

    nnx.update(detector.backbone, after(state))
    assert [bool((norm.mean[...] == 0).all()) for norm in norms] == kept
    detector.eval()
    assert all(module.use_running_average for _, module in nnx.iter_modules(detector) if isinstance(module, BatchNorm))


def test_stages_of_condensenetv2() -> None:
    """The stem and the first dense block come first, the last BatchNorm with the last block."""
    network = CondenseNet(SMALL_V2, name="small", rngs=nnx.Rngs(0))
    assert network.stage_modules() == [[("stem",), ("blocks", 0)], [("blocks", 1)], [("blocks", 2), ("norm_last",)]]


@table("name, last_units", [("shufflenet_v2_x0_5", [4, 12, 16]), ("mobilenet_v2_x1_0", [1, 3, 6, 13, 17])])
def test_stages_of_plain_networks(name: str, last_units: list[int]) -> None:
    """A stage for each stride, of the paper's tables; what follows the units leads to no map."""
    entry = model_entry(name)
    network = nnx.eval_shape(lambda: build_network(entry.architecture, name=name, rngs=nnx.Rngs(0)))
    stages = network.stage_modules()
    assert stages[0][:2] == [("stem",), ("units", 0)]
    assert [path for stage in stages for path in stage][1:] == [("units", n) for n in range(last_units[-1])]
    assert [stage[-1] for stage in stages] == [("units", last - 1) for last in last_units]
