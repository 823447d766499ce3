"""The config schema and the files in configs/."""

from pathlib import Path

import pytest

from cdnv2_jax.commands.read_config import check_config, read_config
from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.family import MODELS
from cdnv2_jax.report.published import PUBLISHED

MINIMAL = {
    "model": {"name": "cdnv2_a", "num_classes": 10},
    "data": {"source": "digits", "image_size": 32, "batch_size": 8, "eval_batch_size": 8},
    "optimizer": {"learning_rate": 0.1},
    "epochs": 1,
}


def changed(**values) -> dict:
    return {**MINIMAL, **values}


def test_defaults_fill_what_is_left_out():
    config = check_config(MINIMAL)
    assert config.optimizer.momentum == 0.9 and config.model.overrides == {}


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (changed(epoch=3), "config has no 'epoch', did you mean 'epochs'?"),
        (
            changed(optimizer={"learning_rte": 1.0}),
            "config.optimizer has no 'learning_rte', did",
        ),
        (changed(optimizer={}), "lacks config.optimizer.learning_rate"),
        (changed(epochs="three"), "config.epochs must be an integer >= 1, got"),
        (changed(epochs=True), "config.epochs must be an integer >= 1, got"),
        (changed(epochs=0), "config.epochs must be an integer >= 1, got 0"),
        (changed(label_smoothing=1.5), "config.label_smoothing must be a number in [0, 1], got 1.5"),
        (changed(model=None), "config.model must be a mapping of fields"),
        (changed(task="segmentation"), "config.task must be one of classification"),
        (
            changed(optimizer={"learning_rate": 1.0, "decay_epochs": (8, -1)}),
            "config.optimizer.decay_epochs must be an integer >= 0",
        ),
        (
            changed(optimizer={"learning_rate": 1.0, "decay_epochs": 8}),
            "decay_epochs must be a sequence of numbers",
        ),
    ],
)
def test_mistakes_are_named(values: dict, complaint: str):
    with pytest.raises(UserError) as error:
        check_config(values)
    assert complaint in str(error.value)


PLAIN = ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "mobilenet_v2_x1_0")
CIFAR = (50, 74, 86, 98, 110, 122, 182)
CONFIGS = [
    "configs/digits.py",
    "configs/digits.py:smoke",
    "configs/fashion_mnist.py",
    "configs/fashion_mnist.py:smoke",
    *(
        f"configs/{file}.py:{name}{smoke}"
        for file in ("imagenet", "finetune")
        for name in ("cdnv2_a", "cdnv2_b", "cdnv2_c", "condensenet_imagenet_74_c4", "condensenet_imagenet_74_c8")
        for smoke in ("", ",smoke")
    ),
    *(f"configs/finetune.py:{name}{smoke}" for name in PLAIN for smoke in ("", ",smoke")),
    *(
        f"configs/coco.py:{detector},{backbone}{smoke}"
        for detector, backbones in PUBLISHED.items()
        for backbone in backbones
        for smoke in ("", ",smoke")
    ),
    *(
        f"configs/shapes.py:{detector},{backbone}{smoke}"
        for detector in PUBLISHED
        for backbone in PUBLISHED["faster_rcnn"]
        for smoke in ("", ",smoke")
    ),
    *(
        f"configs/cifar.py:{name},{dataset}{smoke}"
        for name in (*(f"condensenet_{depth}" for depth in CIFAR), "cdnv2_cifar_110", "cdnv2_cifar_146")
        for dataset in ("cifar10", "cifar100")
        for smoke in ("", ",smoke")
    ),
]


@pytest.mark.parametrize("spec", CONFIGS)
def test_every_config_file_fits_the_schema(spec: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    config = read_config(spec, [])
    variant = spec.partition(":")[2].split(",")
    if variant[0] in MODELS:
        assert config.model.name == variant[0]
    if variant[0] in PUBLISHED:
        assert (config.model.detector, config.model.backbone) == tuple(variant[:2])
    if "smoke" not in variant and "imagenet.py" in spec:
        assert config.model.num_classes == 1000
    if "smoke" not in variant and "cifar100" in variant:
        assert (config.model.num_classes, config.data.source) == (100, "cifar100")


def test_no_config_file_is_left_out():
    files = {f"configs/{path.name}" for path in (Path(__file__).parents[2] / "configs").glob("*.py")}
    assert files == {spec.split(":")[0] for spec in CONFIGS}


def test_no_model_is_left_out():
    """Whatever the registry has can be trained with a config file."""
    used = {spec.partition(":")[2].split(",")[0] for spec in CONFIGS if ":" in spec}
    assert used - set(PUBLISHED) >= set(MODELS)


@pytest.mark.parametrize(
    ("spec", "there"),
    [
        ("configs/cifar.py:condensenet_86", "MODEL,DATASET"),
        ("configs/cifar.py:condensenet_86,cifar10,smoke,now", "MODEL,DATASET"),
        ("configs/coco.py:retinanet,cdnv2_a", "DETECTOR,BACKBONE"),
        ("configs/shapes.py:retinanet", "DETECTOR,BACKBONE"),
    ],
)
def test_variants_that_there_are_none_of(spec: str, there: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(UserError, match=there):
        read_config(spec, [])


def test_overrides_change_single_fields(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    config = read_config("configs/digits.py", ["--config.data.batch_size=32", "--config.optimizer.learning_rate=0.2"])
    assert (config.data.batch_size, config.optimizer.learning_rate) == (32, 0.2)


def test_home(monkeypatch: pytest.MonkeyPatch):
    """In the config file's own path, in a file's values and on the command line."""
    monkeypatch.setenv("HOME", str(Path(__file__).parents[2]))
    arguments = ["--config.data.directory=~/images", "--config.model.checkpoint=~"]
    config = read_config("~/configs/finetune.py:cdnv2_a", arguments)
    home = Path(__file__).parents[2]
    assert (config.data.directory, config.model.checkpoint) == (f"{home}/images", str(home))
