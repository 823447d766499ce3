"""What training scripts store beside the tensors: it is read past, by stand-ins that run nothing."""

import argparse
import collections
import datetime
import io
import pathlib
import pickle
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cdnv2_jax import UserError
from cdnv2_jax.inert_pickle import STAND_INS, Ignored
from cdnv2_jax.weights.state_dicts import select_state_dict, to_numpy
from cdnv2_jax.weights.torch_reading import read_checkpoint
from tests.tables import table

STATE = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).state_dict()
BESIDE: dict[str, Any] = {
    "float64": np.float64(3.2),
    "float32": np.float32(3.2),
    "int64": np.int64(-7),
    "flag": np.bool_(True),
    "history": np.arange(6, dtype=np.int16).reshape(2, 3),
    "by columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big-endian": np.arange(3, dtype=">f4"),
    "counts": collections.defaultdict(list, a=[1, 2]),
    "counter": collections.Counter("aab"),
    "ordered": collections.OrderedDict(x=1),
    "args": argparse.Namespace(lr=0.4, out=pathlib.PurePosixPath("/x"), device=torch.device("cuda:0")),
    "simple": types.SimpleNamespace(a=1),
    "path": Path("/data"),
    "time": datetime.datetime(2021, 6, 1, 12, 30),
    "took": datetime.timedelta(days=3),
    "names": np.array(["cat", "dog"]),
    "objects": np.array([None, "x"], dtype=object),
}


def _saved(path: Path, contents: object, zipped: bool) -> Path:
    torch.save(contents, path, _use_new_zipfile_serialization=zipped)
    return path


@table("zipped", [True, False])
def test_what_is_read(zipped: bool, tmp_path: Path) -> None:
    found = read_checkpoint(_saved(tmp_path / "file.pth", {"state_dict": STATE, **BESIDE}, zipped))
    tensors = select_state_dict(found, "auto", "file.pth").tensors
    assert all(torch.equal(tensors[key], tensor) for key, tensor in STATE.items())
    for name in ("float64", "float32", "int64", "flag", "history", "by columns", "big-endian"):
        value = np.asarray(found[name])
        np.testing.assert_array_equal(value, BESIDE[name])
        assert value.dtype.kind == np.asarray(BESIDE[name]).dtype.kind
    assert found["counts"] == {"a": [1, 2]} and type(found["counts"]) is dict
    assert found["counter"] == {"a": 2, "b": 1} and found["ordered"] == {"x": 1}
    assert found["args"].lr == 0.4 and found["simple"].a == 1
    assert all(isinstance(found[name], Ignored) for name in ("path", "time", "took"))


@table("write", {"torch": torch.save, "pickle": lambda contents, path: path.write_bytes(pickle.dumps(contents))})
def test_weights_that_are_arrays(write: Callable[[object, Path], None], tmp_path: Path) -> None:
    write({key: tensor.numpy() for key, tensor in STATE.items()}, tmp_path / "file.pkl")
    found = read_checkpoint(tmp_path / "file.pkl")
    for key, tensor in STATE.items():
        np.testing.assert_array_equal(to_numpy(found[key]), tensor.numpy())


def test_weights_of_numpy_in_python_2(tmp_path: Path) -> None:
    """Its text is bytes: written down by hand, one float32 array [1.0, -2.0]."""
    data = np.array([1.0, -2.0], "<f4").tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
    kind = b"cnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    state = b"(K\x01K\x02\x85" + kind + b"\x89U\x08" + data + b"tb"
    (tmp_path / "file.pkl").write_bytes(b"\x80\x02}U\x01w" + array + state + b"s.")
    np.testing.assert_array_equal(np.asarray(read_checkpoint(tmp_path / "file.pkl")["w"]), [1, -2])


class _Calls:
    """Pickled as a call of a name with any arguments, and any state for its result."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None):
        self.parts = (function, arguments, state) if state is not None else (function, arguments)

    def __reduce__(self) -> Any:
        return self.parts


def _dtype(*arguments: Any, state: Any = None) -> _Calls:
    return _Calls(np.dtype, *arguments, state=state)


RECONSTRUCT: Any = np.zeros(1).__reduce__()[0]
SCALAR: Any = np.float32(1).__reduce__()[0]
F4 = _dtype("f4")
ABUSES: dict[str, Any] = {
    "array of a terabyte": _Calls(RECONSTRUCT, np.ndarray, (2**40,), b"b"),
    "array without its numbers": _Calls(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (2**40,), F4, False, b"")),
    "negative side": _Calls(RECONSTRUCT, np.ndarray, (0,), b"b", state=(1, (-1, -1), F4, False, bytes(4))),
    "dtype of fields": _dtype("V8", state=(3, "|", None, ("a",), {"a": (1, 2)}, 2**40, 1, 16)),
    "scalar of an object": _Calls(SCALAR, _dtype("O8"), b"x" * 8),
    "scalar of few bytes": _Calls(SCALAR, _dtype("f8"), b"x"),
    "factory that is called": _Calls(collections.defaultdict, list, {"a": 1}),
    "path of anything": _Calls(pathlib.PosixPath, "/", {"a": 1}, state={"_drv": 1}),
}


@table("abuse", ABUSES)
@table("write", {"torch": torch.save, "pickle": lambda contents, path: path.write_bytes(pickle.dumps(contents, 2))})
def test_stand_ins_are_harmless(abuse: Any, write: Callable[[object, Path], None], tmp_path: Path) -> None:
    """Whatever they are called with: a value that is not used, or a refusal."""
    write({"state_dict": {"w": np.ones(2, np.float32)}, "beside": abuse}, tmp_path / "file.pth")
    try:
        found = read_checkpoint(tmp_path / "file.pth")
    except UserError as error:
        assert "file.pth" in str(error) and len(str(error)) < 400
    else:
        np.testing.assert_array_equal(np.asarray(found["state_dict"]["w"]), [1, 1])


def test_no_stand_in_is_the_original() -> None:
    """But for `argparse.Namespace`, which stores its attributes and does nothing else."""
    used = {stand_in for stand_in in STAND_INS.values() if stand_in is not argparse.Namespace}
    assert {stand_in.__module__ for stand_in in used} == {"cdnv2_jax.inert_pickle"}


@table("name", ["os.system", "builtins.eval", "builtins.getattr", "torch.load", "numpy.load", "cdnv2_jax.save"])
def test_other_names_in_plain_pickles(name: str, tmp_path: Path) -> None:
    module, _, function = name.rpartition(".")
    path = tmp_path / "file.pdparams"
    path.write_bytes(b"\x80\x02}U\x01wc" + f"{module}\n{function}\n".encode() + b"U\x01x\x85Rs.")
    with pytest.raises(UserError, match=f"asks for {name}, and loading it would run code"):
        read_checkpoint(path)


@table("opcodes", {"bytes": b"\x96" + b"\xff" * 5 + bytes(3), "memo": b"Nr\xff\xff\xff\x7f"})
def test_sizes_that_the_file_does_not_have(opcodes: bytes, tmp_path: Path) -> None:
    """A terabyte of bytes, 2³¹ remembered objects: refused before anything is allocated."""
    (tmp_path / "file.pdparams").write_bytes(b"\x80\x05}\x8c\x01w" + opcodes + b"s.")
    with pytest.raises(UserError, match=r"file.pdparams is not"):
        read_checkpoint(tmp_path / "file.pdparams")


def test_a_pickle_cannot_change_the_stand_ins(tmp_path: Path) -> None:
    """BUILD sets attributes of whatever is on the stack, here of the class itself."""
    path = tmp_path / "file.pdparams"
    path.write_bytes(b"\x80\x02}U\x01wcargparse\nNamespace\n}}U\x04evilK\x01s\x86bs.")
    assert read_checkpoint(path)["w"].evil == 1
    assert not hasattr(argparse.Namespace, "evil")


def test_stand_ins_are_gone_afterwards(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint(_saved(tmp_path / "file.pth", {"state_dict": STATE, "best": np.float64(1)}, True))
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError):
        buffer = io.BytesIO()
        torch.save({"path": Path("/x")}, buffer)
        torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
