"""Models and families from outside of the package."""

from pathlib import Path

import pytest
from flax import nnx

import cdnv2_jax
from cdnv2_jax.commands.main import main
from cdnv2_jax.errors import UserError
from cdnv2_jax.networks.family import FAMILIES, MODELS, Family, ModelEntry, Published, count_flops
from cdnv2_jax.networks.mobilenet_v2 import MobileNetV2, MobileNetV2Architecture
from cdnv2_jax.networks.network import Architecture
from tests.plain_models import SMALL_MOBILENET


class OwnArchitecture(MobileNetV2Architecture):
    """Of a family of one's own."""


OWN = Family("own", OwnArchitecture, MobileNetV2)


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    for registry in (FAMILIES, MODELS):
        for name in ("own", "other"):
            monkeypatch.setitem(registry, name, None)
            del registry[name]


def entry(architecture: Architecture, published: Published | None = None) -> ModelEntry:
    return ModelEntry(architecture, 32, published=published)


def test_known_by_name_and_twice_is_once() -> None:
    for _ in range(2):
        cdnv2_jax.register("own", entry(OwnArchitecture(num_classes=3)), family=OWN)
    model = cdnv2_jax.create_model("own", rngs=nnx.Rngs(0), num_classes=5)
    assert (model.architecture.num_classes, cdnv2_jax.list_models("ow*")) == (5, ["own"])
    with pytest.raises(UserError, match="own"):
        count_flops(model, 32)


def test_refusals() -> None:
    with pytest.raises(UserError, match="no family has architectures of type OwnArchitecture"):
        cdnv2_jax.register("own", entry(OwnArchitecture()))
    cdnv2_jax.register("own", entry(OwnArchitecture()), family=OWN)
    with pytest.raises(UserError, match="there is a model 'own' already"):
        cdnv2_jax.register("own", entry(OwnArchitecture(num_classes=3)))
    with pytest.raises(UserError, match="there is a family 'own' already"):
        cdnv2_jax.register("other", entry(SMALL_MOBILENET), family=Family("own", MobileNetV2Architecture, MobileNetV2))
    with pytest.raises(UserError, match="there is a model 'cdnv2_a' already"):
        cdnv2_jax.register("cdnv2_a", entry(SMALL_MOBILENET))
    assert "other" not in MODELS


@pytest.mark.slow  # a page with pictures of a whole network
def test_published_figures_of_a_new_source_leave_reports_whole(tmp_path: Path) -> None:
    changed = MODELS["condensenet_50"].architecture.override({"growth": (8, 8, 8)})
    cdnv2_jax.register("own", entry(changed, published=Published("our paper", {"cifar10": 5.0}, "1M", "0.1M")))
    network = cdnv2_jax.create_model("condensenet_50", rngs=nnx.Rngs(0))
    cdnv2_jax.save(tmp_path / "network", network)
    page = tmp_path / "page.html"
    assert main(["report", "--checkpoint", str(tmp_path / "network"), "--output", str(page)]) == 0
    assert "our paper" in page.read_text(encoding="utf-8")
