"""Files of all formats: what they give, what they say, and that a wrong one is never left behind."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cdnv2_jax import UserError, count_flops
from cdnv2_jax.export.classifier import FORMATS, check_target, export_classifier, write_verified
from cdnv2_jax.export.verify import agreement, refuse_difference
from cdnv2_jax.weights.checksums import sealed
from cdnv2_jax.weights.open import open_classifier
from cdnv2_jax.weights.programs import compiled_forward
from cdnv2_jax.weights.safetensors import KEY
from tests.export.networks import USAGE, images, logits
from tests.weights.networks import contents, network, used

Exported = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """(format, form) → the exported network, alone in a directory; written once, to be read only."""

    @functools.cache
    def file(format: str, form: str) -> Path:
        path = tmp_path_factory.mktemp("exported") / f"network{FORMATS[format].suffix}"
        export_classifier(used(network(form), USAGE), path, format=format)
        return path

    return file


@pytest.fixture
def copied(exported: Exported, tmp_path: Path) -> Callable[[str], Path]:
    """format → a condensed network's file to damage."""

    def file(format: str) -> Path:
        whole = exported(format, "condensed")
        shutil.copytree(whole.parent, tmp_path / "copy")
        return tmp_path / "copy" / whole.name

    return file


@pytest.mark.parametrize("form", ["partly pruned", "condensed"])
@pytest.mark.parametrize("format", FORMATS)
def test_what_a_file_gives(format: str, form: str, exported: Exported) -> None:
    """For batches of other sizes than that it was verified with; nothing else is left in the directory."""
    path = exported(format, form)
    run = FORMATS[format].run(path)
    for count in (1, 3):
        np.testing.assert_allclose(run(images(count)), logits(form, count), atol=1e-5)
    assert set(contents(path.parent)) <= {path.name, f"{path.name}.json"}


def test_what_a_file_says(exported: Exported) -> None:
    """The same in every format, read as anybody would."""
    import onnx

    said = {
        "onnx": {p.key: p.value for p in onnx.load(exported("onnx", "condensed")).metadata_props}[KEY],
        "stablehlo": Path(f"{exported('stablehlo', 'condensed')}.json").read_text(),
        "safetensors": _header(exported("safetensors", "condensed"))[KEY],
    }
    cost = count_flops(network("condensed"), 24)
    for text in said.values():
        values = json.loads(text)
        assert (values["name"], values["form"], values["num_classes"]) == ("cdnv2_cifar_110", "condensed", 3)
        assert (values["flops"], values["params"]) == (cost.flops, cost.params)
        assert values["usage"] == json.loads(json.dumps(USAGE.to_json()))
        assert values["written_by"].startswith("cdnv2-jax")


def _header(path: Path) -> dict[str, str]:
    """Of a safetensors file: its length in eight bytes, then JSON."""
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


@pytest.mark.parametrize("format", ["stablehlo", "onnx"])
def test_opened_to_be_used(format: str, exported: Exported) -> None:
    found = open_classifier(exported(format, "condensed"))
    assert (found.described.name, found.described.form, found.described.usage) == (
        *("cdnv2_cifar_110", "condensed"),
        USAGE,
    )
    np.testing.assert_allclose(found.forward(images(2)), logits("condensed", 2), atol=1e-5)


@pytest.mark.parametrize("format", FORMATS)
def test_another_networks_file_is_refused(format: str, tmp_path: Path) -> None:
    """What is written gives other logits: it is not kept, and what was there before is."""
    kind = FORMATS[format]
    path = tmp_path / f"network{kind.suffix}"
    path.write_text("before")
    before = contents(tmp_path)
    expected, other = network("condensed"), network("condensed", seed=1)

    def verify(written: Path) -> None:
        found = agreement(np.asarray(kind.run(written)(images(4))), np.asarray(compiled_forward(expected)(images(4))))
        refuse_difference(found, str(path))

    with pytest.raises(UserError, match=r"network\.\w+ does not reproduce the network's logits"):
        write_verified(path, kind, lambda to: kind.write(to, other, 24, {}), verify)
    assert contents(tmp_path) == before


def test_agreement() -> None:
    ones = np.ones((4, 3), np.float32)
    expected = ones * [1, 2, 4]
    off = np.array([[0, 0, 0.002], [0, 0, 0], [0, 3, 0], [0, 0, 0]])
    found = agreement(expected + off, expected)
    assert (found.images, found.top1) == (4, 0.75)
    assert found.difference == pytest.approx(3 / 4)
    assert str(found) == "on 4 photographs: same top-1 class for 75%, largest relative difference 0.75"
    for wrong in (agreement(expected * np.nan, expected), agreement(expected[:, :2], expected)):
        with pytest.raises(UserError, match="nothing was written"):
            refuse_difference(wrong, "it")


def test_targets(tmp_path: Path) -> None:
    """Known before any work is done."""
    with pytest.raises(UserError, match="no format is called 'tflite'"):
        check_target(tmp_path / "network.tflite", "tflite", False)
    with pytest.raises(UserError, match=r"has the wrong suffix for ONNX: call it network\.onnx"):
        check_target(tmp_path / "network.pb", "onnx", False)
    (tmp_path / "network.stablehlo.json").write_text("mine")
    with pytest.raises(UserError, match=r"network\.stablehlo\.json exists"):
        check_target(tmp_path / "network.stablehlo", "stablehlo", False)
    (tmp_path / "network.onnx").mkdir()
    with pytest.raises(UserError, match="is a directory"):
        check_target(tmp_path / "network.onnx", "onnx", True)


@pytest.mark.parametrize("format", ["stablehlo", "onnx"])
@pytest.mark.parametrize("length", [0, 100, -100])
def test_cut_off(format: str, length: int, copied: Callable[[str], Path]) -> None:
    path = copied(format)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=str(path)):
        open_classifier(path).forward(images(1))


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not written by this `cdnv2 export`"),
        ('{"format": 1}', "not written by this `cdnv2 export`"),
        ({}, "holds a None, not a classifier"),
        ({"kind": "detector"}, "metadata is invalid"),
        ({"kind": "classifier"}, "metadata is invalid"),
        ({"kind": "classifier", "name": "a", "form": "b", "num_classes": "c"}, "metadata is invalid"),
    ],
)
def test_metadata_that_cannot_be(values: str | dict[str, str], complaint: str, copied: Callable[[str], Path]) -> None:
    path = copied("stablehlo")
    Path(f"{path}.json").write_text(values if isinstance(values, str) else json.dumps(sealed(values)))
    with pytest.raises(UserError, match=complaint):
        open_classifier(path)


def test_metadata_that_is_not_there(copied: Callable[[str], Path]) -> None:
    path = copied("stablehlo")
    Path(f"{path}.json").unlink()
    with pytest.raises(UserError, match=r"network\.stablehlo\.json, which belongs to"):
        open_classifier(path)
