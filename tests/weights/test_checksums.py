"""Checksums and seals against what is computed by hand, and files that carry none or wrong ones."""

import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from cdnv2_jax import UserError, load, save
from cdnv2_jax.export.onnx_file import save_onnx
from cdnv2_jax.export.stablehlo import write_program
from cdnv2_jax.layers.lowering import multiplying, tracing_for
from cdnv2_jax.versions import changes, versions
from cdnv2_jax.weights.checksums import ONNX_KEY, checksum, seal_fault, sealed
from cdnv2_jax.weights.open import open_network
from cdnv2_jax.weights.programs import PLATFORMS, open_session, read_exported
from cdnv2_jax.weights.safetensors import KEY, load_safetensors, read_metadata, save_safetensors
from tests.tables import table
from tests.weights.networks import assert_same_network, description, network, rewrite_description

ARRAYS = [
    (np.array([[1.5, -2.0], [0.0, 3.25]], np.float32), struct.pack("<4f", 1.5, -2.0, 0.0, 3.25)),
    (np.array([[1.5, -2.0], [0.0, 3.25]], np.float32).T, struct.pack("<4f", 1.5, 0.0, -2.0, 3.25)),
    (np.array(7, np.int32), struct.pack("<i", 7)),
    (np.array([True, False]), b"\x01\x00"),
    (np.zeros((0, 3), np.float32), b""),
    (np.array([1.0, -2.0], ml_dtypes.bfloat16), bytes.fromhex("803f00c0")),
    (jnp.array([258], jnp.uint16), b"\x02\x01"),
]


def test_checksums() -> None:
    for array, data in ARRAYS:
        assert checksum(array) == zlib.crc32(data)


def _hand_sealed(text: str) -> dict[str, Any]:
    return {**json.loads(text), "seal": hashlib.sha256(text.encode()).hexdigest()}


def test_seals() -> None:
    """SHA-256 of the JSON without spaces, keys in order, all but ASCII escaped."""
    assert sealed({"b": [1, (2.5, None)], "a": "ö"}) == _hand_sealed('{"a":"\\u00f6","b":[1,[2.5,null]],"format":2}')
    assert seal_fault(_hand_sealed('{"format":2,"x":1}')) == ""
    assert "newer version" in seal_fault(_hand_sealed('{"format":3,"x":1}'))


@table(
    "values",
    [
        {"format": 2, "x": 1},
        {"format": 1, "x": 1, "seal": "0" * 64},
        {"x": 1, "seal": "0" * 64},
        {**sealed({"x": 1}), "x": 2},
        {**sealed({"x": 1}), "y": 2},
        {**sealed({"x": 1}), "format": 1},
        {"x": 1, "seal": sealed({"x": 1})["seal"]},
    ],
)
def test_broken_seals(values: dict[str, Any]) -> None:
    assert "has changed" in seal_fault(values)


def test_what_older_versions_wrote(tmp_path: Path) -> None:
    """Checkpoints and safetensors files without seals are read; exported programs are to be exported again."""
    save(tmp_path / "network", network("pruned"))
    old = {**description(tmp_path / "network"), "format": 1}
    del old["seal"]
    rewrite_description(tmp_path / "network", json.dumps(old).encode())
    assert_same_network(load(tmp_path / "network"), network("pruned"))

    path = tmp_path / "network.safetensors"
    save_safetensors(path, network("pruned"), {}, "ours")
    values = {**read_metadata(path), "format": 1}
    del values["seal"], values["crc32"]
    safetensors.numpy.save_file(safetensors.numpy.load_file(path), path, {KEY: json.dumps(values)})
    assert_same_network(load_safetensors(path), network("pruned"))

    (tmp_path / "network.onnx").write_bytes(b"\x08\x08")
    with pytest.raises(UserError, match=r"onnx is not an ONNX file written by this .*no checksum, so export it again"):
        open_session(tmp_path / "network.onnx")
    (tmp_path / "network.stablehlo").write_bytes(b"")
    (tmp_path / "network.stablehlo.json").write_text('{"format": 1, "kind": "classifier"}')
    with pytest.raises(UserError, match=r"stablehlo\.json: .* export it again"):
        read_exported(tmp_path / "network.stablehlo")


@table("layout", ["ours", "official"])
def test_a_file_of_ours_does_not_pass_for_one_of_others(layout: Any, tmp_path: Path) -> None:
    """Even when its name and sizes are given: as a file of others its tensors would be believed."""
    path = tmp_path / "network.safetensors"
    save_safetensors(path, network("pruned"), {}, layout)
    key = f'"{KEY}":'.encode()
    content = path.read_bytes()
    assert content.count(key) == 1
    path.write_bytes(content.replace(key, key.replace(b"c", b"b")))
    sizes = {"stages": (1, 1), "growth": (8, 8), "groups": 4, "condensation_factor": 4}
    with pytest.raises(UserError, match=f"damaged .it lacks the key {KEY}.: download it again"):
        open_network(path, model="cdnv2_cifar_110", overrides=sizes)


def test_checksum_of_an_onnx_file(tmp_path: Path) -> None:
    """The SHA-256 of the file with its own digits zero, wherever protobuf puts them; a second one is one too many."""
    import onnx

    path, info = tmp_path / "network.onnx", onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    model = onnx.helper.make_model(onnx.helper.make_graph([], "none", [info], [info]), ir_version=10)
    save_onnx(path, model, {"note": 1})
    (said,) = (entry.value for entry in onnx.load(path).metadata_props if entry.key == ONNX_KEY)
    content = path.read_bytes()
    assert said == hashlib.sha256(content.replace(said.encode(), b"0" * 64)).hexdigest()
    assert open_session(path).get_inputs()[0].name == "x"
    twice = onnx.load(path)
    twice.metadata_props.append(twice.metadata_props[-1])
    path.write_bytes(twice.SerializeToString())
    with pytest.raises(UserError, match="export it again"):
        open_session(path)


def _program(function: Any, *, platforms: tuple[str, ...] = PLATFORMS) -> bytes:
    argument = jax.ShapeDtypeStruct((4, 4), jnp.float32)
    return bytes(jax.export.export(jax.jit(function), platforms=platforms)(argument).serialize())


@table(
    "function, platforms, complaint",
    [
        (jnp.linalg.cholesky, PLATFORMS, "calls .*lapack_spotrf"),
        (jnp.sin, ("cpu",), "for 1 devices of cpu"),
    ],
)
def test_programs_that_no_export_writes(function: Any, platforms: Any, complaint: str, tmp_path: Path) -> None:
    """Whoever writes a program can write its checksum: custom calls reach native code, so only known ones are run."""
    path = tmp_path / "network.stablehlo"
    write_program(path, _program(function, platforms=platforms), {})
    with pytest.raises(UserError, match=rf"was not written by `cdnv2 export` \({complaint}.*\): it is not run"):
        read_exported(path)


@table(
    "product",
    {"dot": lambda x: x @ x, "convolution": lambda x: jax.lax.conv(x[None, None], x[None, None], (1, 1), "SAME")},
)
def test_programs_whose_results_depend_on_the_platform(product: Any, tmp_path: Path) -> None:
    """As earlier versions wrote them; on a CPU they are right."""
    path = tmp_path / "network.stablehlo"
    with jax.default_matmul_precision("high"):
        write_program(path, _program(product), {})
    read_exported(path)
    with tracing_for("gpu"), pytest.raises(UserError, match=r"network.stablehlo .* rounded on a GPU: export it again"):
        read_exported(path)
    write_program(path, _program(multiplying("highest")(product)), {})
    with tracing_for("tpu"):
        read_exported(path)


def test_versions() -> None:
    now = versions("jax", "numpy", "no-such-package")
    assert (now["jax"], now["numpy"]) == (jax.__version__, np.__version__) and "no-such-package" not in now
    assert changes(now, now) == ""
    assert changes({**now, "numpy": "1.0", "no-such-package": "1.0"}, now) == f"numpy {np.__version__}, before 1.0"
