"""Read pickles of dictionaries, lists, numbers, texts and byte arrays; nothing in them is executed.

Python's own reader calls what a pickle names. This one interprets the instructions itself and knows only those that
such contents need. The only call among them is NumPy's reconstruction of an array of bytes.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

MOST_INSTRUCTIONS = 1 << 20


class _Name(NamedTuple):
    """A module and a name in it, never looked up."""

    path: str


NDARRAY, DTYPE = _Name("numpy ndarray"), _Name("numpy dtype")
RECONSTRUCT = (_Name("numpy.core.multiarray _reconstruct"), _Name("numpy._core.multiarray _reconstruct"))
EMPTY_ARRAY, UINT8 = _Name("an array to be filled"), _Name("uint8")


def read_pickle(data: bytes) -> Any:
    """Return the contents; texts of Python 2 are bytes.

    Raises:
      ValueError: it is damaged, too long, or holds anything else.
    """
    machine = _Machine()
    for number, (instruction, argument, _) in enumerate(pickletools.genops(data)):
        if number == MOST_INSTRUCTIONS:
            raise ValueError(f"more than {MOST_INSTRUCTIONS} instructions")
        try:
            machine.step(instruction.name, argument)
        except (IndexError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{instruction.name} without what it needs") from error
    return machine.stack[-1] if machine.stack else None


class _Machine:
    """The stack and the memory that a pickle's instructions work on."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memory: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Carry out one instruction."""
        if name in CONSTANTS:
            self.stack.append(CONSTANTS[name]())
        elif name in ARGUMENTS:
            self.stack.append(ARGUMENTS[name](argument))
        elif name in MEMORY:
            MEMORY[name](self, argument)
        elif name in ACTIONS:
            ACTIONS[name](self)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise ValueError(f"{name} is not for data")

    def take(self, count: int) -> tuple[Any, ...]:
        """Remove and return the upper values of the stack."""
        if count > len(self.stack):
            raise IndexError(count)
        taken = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return taken

    def marked(self) -> tuple[Any, ...]:
        """Remove and return the values above the last mark."""
        return self.take(len(self.stack) - self.marks.pop())

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def put(self, key: int) -> None:
        self.memory[key] = self.stack[-1]

    def get(self, key: int) -> None:
        self.stack.append(self.memory[key])

    def tuple_of(self, values: tuple[Any, ...]) -> None:
        self.stack.append(values)

    def extend(self, values: tuple[Any, ...]) -> None:
        self._top(list).extend(values)

    def update(self, values: tuple[Any, ...]) -> None:
        self._top(dict).update(zip(values[::2], values[1::2], strict=False))

    def name(self) -> None:
        module, name = self.take(2)
        self.stack.append(_Name(f"{module} {name}"))

    def reduce(self) -> None:
        """Note that an array or a dtype is made; `build` gives it its contents."""
        function, arguments = self.take(2)
        if function in RECONSTRUCT and arguments[0] == NDARRAY:
            self.stack.append(EMPTY_ARRAY)
        elif function == DTYPE and arguments[0] in ("u1", b"u1"):
            self.stack.append(UINT8)
        else:
            raise ValueError(f"it calls {getattr(function, 'path', 'something')[:80]!r}")

    def build(self) -> None:
        made, state = self.take(2)
        if made is EMPTY_ARRAY:
            _, shape, kind, by_columns, content = state
            if kind is not UINT8 or not isinstance(content, bytes):
                raise ValueError("an array of other values than bytes")
            made = np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_columns else "C")
        elif made is not UINT8:
            raise ValueError("BUILD of something else than an array")
        self.stack.append(made)

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise TypeError(kind)
        return self.stack[-1]


def _itself(value: Any) -> Any:
    return value


def _python2(text: str) -> bytes:
    return text.encode("latin-1")


CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
ARGUMENTS: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "BINBYTES", "SHORT_BINBYTES"), _itself),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE"), _itself),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), _python2),
    "GLOBAL": _Name,
}
MEMORY: Mapping[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.get),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memory)),
}
ACTIONS: Mapping[str, Callable[[_Machine], None]] = {
    "MARK": _Machine.mark,
    "TUPLE": lambda machine: machine.tuple_of(machine.marked()),
    "TUPLE1": lambda machine: machine.tuple_of(machine.take(1)),
    "TUPLE2": lambda machine: machine.tuple_of(machine.take(2)),
    "TUPLE3": lambda machine: machine.tuple_of(machine.take(3)),
    "APPEND": lambda machine: machine.extend(machine.take(1)),
    "APPENDS": lambda machine: machine.extend(machine.marked()),
    "SETITEM": lambda machine: machine.update(machine.take(2)),
    "SETITEMS": lambda machine: machine.update(machine.marked()),
    "STACK_GLOBAL": _Machine.name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}
