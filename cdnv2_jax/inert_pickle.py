"""A reader of pickles of plain values and NumPy arrays, and inert stand-ins for the classes that checkpoints store.

Nothing that a pickle names is imported or called: each name in `STAND_INS` is replaced by a function or class of this
module that keeps numbers and ignores the rest.
"""

import argparse
import contextlib
import contextvars
import io
import math
import pickle
import pickletools
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
"""NumPy's codes of the dtypes that are read: floats, integers and bool."""

MOST_OPCODES = 2_000_000  # the largest official checkpoint has 150,000; each may take 100 bytes and two microseconds
MOST_LONG_INTEGERS = 1_000  # of more than eight bytes, with which a dict can be made to take hours
LARGEST_SIDE, MOST_DIMENSIONS = 2**40, 32
_ROOM: contextvars.ContextVar[int | None] = contextvars.ContextVar("room", default=None)


@contextlib.contextmanager
def bounded_copies(size: int) -> Iterator[None]:
    """Limit the text that is turned into bytes inside to four times a file's size: one text may be named many times."""
    token = _ROOM.set(4 * size + 4096)
    try:
        yield
    finally:
        _ROOM.reset(token)


def _latin_1(text: str) -> bytes:
    """Return the bytes that protocol 2 stores as Latin-1 text."""
    room = _ROOM.get()
    if room is not None:
        if len(text) > room:
            raise pickle.UnpicklingError("the same bytes many times")
        _ROOM.set(room - len(text))
    return text.encode("latin-1")


def check_opcodes(data: BinaryIO, size: int) -> list[int]:
    """Read to the end of a pickle of at most `size` bytes without loading it; return where it names ENCODE.

    Raises:
      pickle.UnpicklingError: loading it may take far more time or memory than its size suggests.
      ValueError: it is damaged.
    """
    long_integers, encodes = 0, []
    for count, (opcode, argument, position) in enumerate(pickletools.genops(data)):
        # `genops` notices lengths beyond the end. The first two would allocate as much as the file says before reading.
        past_end = "PUT" in opcode.name and isinstance(argument, int) and argument > size
        if opcode.name == "BYTEARRAY8" or past_end or argument in ("builtins bytearray", "__builtin__ bytearray"):
            raise pickle.UnpicklingError(f"unexpected {opcode.name}")
        long_integers += type(argument) is int and argument.bit_length() > 64
        if count > MOST_OPCODES or long_integers > MOST_LONG_INTEGERS:
            raise pickle.UnpicklingError("more values than any checkpoint of these networks")
        if argument == "_codecs encode" and position is not None:
            encodes.append(position)
    return encodes


ENCODE, INERT_ENCODE = b"c_codecs\nencode\n", b"cinert\nencode\n"
"""Names in a pickle: Python's function, which PyTorch calls however often, and the one here, which is limited."""


def with_inert_encode(data: bytes, encodes: list[int]) -> bytes:
    """Return a pickle with other names at the positions that `check_opcodes` found."""
    parts, end = [], 0
    for position in encodes:
        parts += [data[end:position], INERT_ENCODE]
        end = position + len(ENCODE)
    return b"".join([*parts, data[end:]])


class Ignored:
    """Any object beside the weights, such as a path or a date; its contents are dropped."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Ignored":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, value: object) -> None:
        pass


class NumberType:
    """A NumPy dtype; only numbers have a `dtype`."""

    dtype: np.dtype | None = None

    def __init__(self, code: object = None, *_: object):
        if isinstance(code, str) and code in NUMBERS:
            self.dtype = np.dtype(code)

    def __setstate__(self, state: object) -> None:
        if self.dtype is not None and isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|"):
            self.dtype = self.dtype.newbyteorder(state[1])

    def read(self, data: object, shape: object, order: str = "C") -> np.ndarray:
        """Return the array stored as bytes; raise ValueError unless it holds numbers, as many as the shape says."""
        if isinstance(data, str):
            data = _latin_1(data)
        if self.dtype is None or not isinstance(data, bytes) or not isinstance(shape, tuple):
            raise ValueError("an array that does not hold numbers")
        possible = len(shape) <= MOST_DIMENSIONS
        if not possible or not all(type(side) is int and 0 <= side <= LARGEST_SIDE for side in shape):
            raise ValueError("an array of impossible shape")
        if math.prod(shape) * self.dtype.itemsize != len(data):
            raise ValueError(f"an array of shape {shape} in {len(data)} bytes")
        return np.frombuffer(data, self.dtype).reshape(shape, order="F" if order == "F" else "C")


class StoredArray:
    """A NumPy array in a pickle: `np.asarray` returns its numbers."""

    def __init__(self, *_: object):
        self.array: np.ndarray | None = None

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], NumberType):
            _, shape, number_type, by_columns, data = state
            # An array of objects or text is not a tensor, but may well lie beside the weights.
            self.array = number_type.read(data, shape, "F" if by_columns else "C") if number_type.dtype else None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array; () if it does not hold numbers."""
        return () if self.array is None else self.array.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.array is None:
            raise ValueError("does not hold numbers")
        return np.array(self.array, dtype)


def _stored_array(*_: object) -> StoredArray:
    return StoredArray()


def _scalar(number_type: object = None, data: object = b"", *_: object) -> object:
    if isinstance(number_type, NumberType) and number_type.dtype is not None:
        return number_type.read(data, ()).item()
    return Ignored()


def _encoded(text: object = "", *_: object) -> bytes:
    return _latin_1(text) if isinstance(text, str) else b""


def _empty_dict(*_: object) -> dict[Any, Any]:
    return {}


def _tensor_of_pair(items: object = (), *_: object) -> object:
    """Return the array of Paddle's (name, array), as which newer versions store a tensor."""
    found = tuple(items) if isinstance(items, tuple | list) else ()
    return found[1] if len(found) == 2 and isinstance(found[1], StoredArray) else found


_NUMPY = {"multiarray._reconstruct": _stored_array, "multiarray.scalar": _scalar}
STAND_INS: dict[str, Callable[..., Any]] = {
    **{f"numpy.{core}.{name}": stand_in for core in ("core", "_core") for name, stand_in in _NUMPY.items()},
    "numpy.ndarray": StoredArray,
    "numpy.dtype": NumberType,
    "_codecs.encode": _encoded,
    "inert.encode": _encoded,
    "argparse.Namespace": argparse.Namespace,
    "types.SimpleNamespace": argparse.Namespace,
    "collections.defaultdict": _empty_dict,
    # What a defaultdict makes its values with.
    **{f"{builtins}.{name}": Ignored for builtins in ("__builtin__", "builtins") for name in ("list", "dict", "int")},
    **{f"pathlib.{name}": Ignored for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path")},
    **{f"pathlib._local.{name}": Ignored for name in ("PosixPath", "WindowsPath", "Path")},
    **{f"datetime.{name}": Ignored for name in ("datetime", "date", "time", "timedelta", "timezone")},
}
"""Full name of a class or function → its stand-in."""

_PLAIN: dict[str, Callable[..., Any]] = {
    **STAND_INS,
    "collections.OrderedDict": _empty_dict,
    "__builtin__.tuple": _tensor_of_pair,
    "builtins.tuple": _tensor_of_pair,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes):
        super().__init__(io.BytesIO(data), encoding="latin-1")  # as NumPy in Python 2 wrote
        self._found: dict[str, Callable[..., Any]] = {}

    def find_class(self, module_name: str, global_name: str) -> Callable[..., Any]:
        full_name = f"{module_name}.{global_name}"
        if full_name not in _PLAIN:
            raise pickle.UnpicklingError(f"GLOBAL {full_name}")
        if full_name not in self._found:
            stand_in = _PLAIN[full_name]
            # A new object for each file: a pickle can set attributes of what it is given.
            is_class = isinstance(stand_in, type)
            copy = type(stand_in.__name__, (stand_in,), {}) if is_class else lambda *args: stand_in(*args)
            self._found[full_name] = copy
        return self._found[full_name]

    def persistent_load(self, pid: object) -> None:
        raise pickle.UnpicklingError("GLOBAL torch.storage")


def read_plain_pickle(data: bytes) -> Any:
    """Return the contents of a pickle of NumPy arrays, such as Paddle's `.pdparams`, without running anything in it.

    Arrays are `StoredArray`, and texts of Python 2 become text.

    Raises:
      pickle.UnpicklingError: the file asks for a class or function without a stand-in, named after `GLOBAL`.
      Exception: of many types, if the file is damaged.
    """
    check_opcodes(io.BytesIO(data), len(data))
    with bounded_copies(len(data)):
        return _Unpickler(data).load()
