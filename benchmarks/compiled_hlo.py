"""Read the HLO text of a compiled program: what runs, how often, which layer asked for it, and the bytes it moves."""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
CALLED = re.compile(r"\b(?:to_apply|branch_computations|true_computation|false_computation)=(\{[^}]*\}|%?[\w.\-]+)")
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")

FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional", "after-all"}
FREE |= {"partition-id", "replica-id", "add-dependency", "opt-barrier"}
"""Opcodes that start nothing by themselves."""

SLICING = {"slice", "dynamic-slice", "gather"}
"""Opcodes that read as much of their first operand as they return."""

UPDATING = {"dynamic-update-slice": 1, "scatter": 2}
"""Opcodes that write into their first operand, in place, and which operand says how much."""

MOVING = {"copy", "transpose", "reshape"}
"""Opcodes that change the layout of an array and nothing else; a reshape that moves nothing is a bitcast."""


class Size(NamedTuple):
    """Bytes of an array: by its elements, and in HBM with its tiles padded (0 for arrays in on-chip memory)."""

    logical: int
    hbm: int


@dataclasses.dataclass(frozen=True)
class Step:
    """Something that a compiled program starts: a kernel on a GPU, an instruction of the schedule on a TPU.

    Attributes:
      opcode: "fusion", "custom-call", "all-reduce", …
      source: the project's layer and the operation in it, "CondensedGroupConv: gather (backward)".
      times: how often it runs in one call of the program; more than once within loops.
      cycles: what a TPU's compiler estimates for all times; 0 where it does not say.
      size: bytes read and written, all times.
      sent: bytes of the operands, once.
      contents: (opcode, HLO shape) of the instruction and of those fused into it.
    """

    opcode: str
    source: str
    times: int
    cycles: int
    size: Size
    sent: int
    contents: tuple[tuple[str, str], ...]

    @property
    def collective(self) -> str | None:
        """The collective that this is, if any."""
        name = self.opcode.removesuffix("-start")
        return name if name in COLLECTIVES else None

    @property
    def only_moves(self) -> bool:
        """Whether this changes an array's layout (and perhaps its dtype), and nothing else."""
        opcodes = {opcode for opcode, _ in self.contents} - FREE - {"fusion", "convert"}
        return bool(opcodes) and opcodes <= MOVING

    @property
    def asynchronous(self) -> bool:
        """Whether other steps run meanwhile."""
        return self.opcode.endswith("-start")


class Instruction(NamedTuple):
    """A line of HLO."""

    name: str
    shape: str
    opcode: str
    rest: str

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest.split("), ")[0])


Computation = dict[str, Instruction]


def steps(text: str) -> list[Step]:
    """Return what a compiled program starts, in the order of its schedule."""
    computations, layers = _computations(text), _layers(text)
    return [
        _step(instruction, computation, computations, layers, times)
        for computation, times in _scheduled(computations)
        for instruction in computation.values()
        if instruction.opcode not in FREE and not instruction.opcode.endswith("-done")
    ]


def size(shape: str) -> Size:
    """Return the bytes of an HLO shape, of all arrays if it is a tuple."""
    logical = hbm = 0
    for dtype, dimensions, order, memory in ARRAY.findall(shape):
        sides = [int(side.lstrip("<=")) for side in dimensions.split(",")] if dimensions else []
        bits = 8 if dtype == "pred" else int((re.search(r"\d+", dtype) or "0")[0])  # a token has none
        logical += math.prod(sides) * bits // 8
        if "S(" in memory:  # another memory space than HBM
            continue
        tile = re.search(r"T\(([\d,]+)\)", memory)
        if tile and order:
            # Both lists end with the minor-most dimension once the order is reversed.
            minor_first = [int(dimension) for dimension in order.split(",")]
            for dimension, side in zip(minor_first, reversed(tile[1].split(",")), strict=False):
                sides[dimension] = -(-sides[dimension] // int(side)) * int(side)
        hbm += math.prod(sides) * bits // 8
    return Size(logical, hbm)


def _computations(text: str) -> dict[str, Computation]:
    """Return the computations by name; the one that the program starts with is called "ENTRY"."""
    computations: dict[str, Computation] = {}
    name = None
    for line in text.splitlines():
        if header := COMPUTATION.match(line):
            name = "ENTRY" if header[1] else header[2]
            computations[name] = {}
        elif line.startswith("}"):
            name = None
        elif name and (found := INSTRUCTION.match(line)):
            computations[name][found[1]] = Instruction(*found.groups())
    return computations


def _scheduled(computations: dict[str, Computation]) -> Iterator[tuple[Computation, int]]:
    """Yield the computations that run one instruction after the other, and how often; fused ones do not.

    Every branch of a conditional counts.
    """
    waiting = [("ENTRY", 1)]
    while waiting:
        name, times = waiting.pop()
        yield computations[name], times
        for instruction in computations[name].values():
            if instruction.opcode == "while":
                body = re.search(r"body=%?([\w.\-]+)", instruction.rest)
                assert body, instruction
                waiting.append((body[1], times * _trips(instruction, computations)))
            elif instruction.opcode in ("call", "conditional"):
                for called in CALLED.findall(instruction.rest):
                    waiting += [(branch, times) for branch in re.findall(r"[\w.\-]+", called)]


def _trips(loop: Instruction, computations: dict[str, Computation]) -> int:
    """Return how often a loop's body runs; 1 if that is only known when it runs."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
    assert condition, loop
    # Loops of JAX count up from 0 to a constant.
    limits = [i.rest.split(")")[0] for i in computations[condition[1]].values() if i.opcode == "constant"]
    return max((int(limit) for limit in limits if limit.isdecimal()), default=1)


def _step(
    instruction: Instruction,
    computation: Computation,
    computations: dict[str, Computation],
    layers: dict[str, str],
    times: int,
) -> Step:
    operands = [size(computation[name].shape) for name in instruction.operands if name in computation]
    moved = _moved(instruction, computation, computations)
    cycles = re.search(r'"estimated_cycles":"(\d+)"', instruction.rest)
    return Step(
        opcode=instruction.opcode,
        source=_source(instruction, computations, layers),
        times=times,
        cycles=times * int(cycles[1]) if cycles else 0,
        size=Size(times * moved.logical, times * moved.hbm),
        sent=sum(one.logical for one in operands),
        contents=tuple((one.opcode, one.shape) for one in (instruction, *_inside(instruction, computations))),
    )


def _moved(instruction: Instruction, computation: Computation, computations: dict[str, Computation]) -> Size:
    """Return the bytes that an instruction reads and writes.

    Of an array of which only slices are read or overwritten, those slices.
    """
    operands = [name for name in instruction.operands if name in computation]
    written = _written(instruction, computation)
    slices = [_read_by(instruction, name) for name in operands]
    if instruction.opcode == "fusion":
        body = _called(instruction, computations)
        names = {int(one.rest.split(")")[0]): one.name for one in body.values() if one.opcode == "parameter"}
        slices = [_read(names[position], body) for position in range(len(operands))]
        written = _lesser(written, _written(list(body.values())[-1], body))  # the last one is the root
    # Only the operands of a fusion say in which memory an array is, and slices that overlap are read once.
    whole = [size(computation[name].shape) for name in operands]
    return _sum([written, *(_lesser(one, part or one) for one, part in zip(whole, slices, strict=True))])


def _read(name: str, body: Computation) -> Size | None:
    """Return the bytes that are read of an array, None for all of them."""
    parts: list[Size] = []
    for user in body.values():
        if name in user.operands:
            part = _read(user.name, body) if user.opcode == "bitcast" else _read_by(user, name)
            if part is None:
                return None
            parts.append(part)
    return _sum(parts)


def _read_by(user: Instruction, name: str) -> Size | None:
    """Return the bytes that an instruction reads of one of its operands, None for all of them."""
    first, *others = user.operands
    if name != first or name in others:
        return None
    if user.opcode in UPDATING:
        return Size(0, 0)
    return size(_result(user)) if user.opcode.removesuffix("-start") in SLICING else None


def _written(instruction: Instruction, computation: Computation) -> Size:
    """Return the bytes that an instruction writes."""
    if instruction.opcode in ("bitcast", "tuple"):
        return _sum([_written(computation[name], computation) for name in instruction.operands])
    if instruction.opcode in UPDATING:
        return size(computation[instruction.operands[UPDATING[instruction.opcode]]].shape)
    return size(_result(instruction))


def _result(instruction: Instruction) -> str:
    """Return the shape of what an instruction computes.

    Asynchronous ones return it within a tuple: (result, operand, context) or ((operands), result, context).
    """
    if not instruction.opcode.endswith("-start"):
        return instruction.shape
    shape = instruction.shape.removeprefix("(")
    after_operands = shape.split("), ", 1)[1] if shape.startswith("(") else shape
    return (ARRAY.search(after_operands) or [""])[0]


def _lesser(one: Size, other: Size) -> Size:
    return Size(min(one.logical, other.logical), min(one.hbm, other.hbm))


def _sum(sizes: list[Size]) -> Size:
    return Size(sum(one.logical for one in sizes), sum(one.hbm for one in sizes))


def _inside(instruction: Instruction, computations: dict[str, Computation]) -> Iterator[Instruction]:
    """Yield what is fused into an instruction, at any depth, in order."""
    for inner in _called(instruction, computations).values():
        yield from _inside(inner, computations)
        yield inner


def _called(instruction: Instruction, computations: dict[str, Computation]) -> Computation:
    """Return what is fused into an instruction, an empty computation if nothing is."""
    called = re.search(r"\bcalls=%?([\w.\-]+)", instruction.rest)
    return computations.get(called[1], {}) if called else {}


def _source(instruction: Instruction, computations: dict[str, Computation], layers: dict[str, str]) -> str:
    """Return layer and operation of an instruction; of a fusion without metadata, those of what was fused last."""
    within = [instruction, *reversed(list(_inside(instruction, computations)))]
    named = ((one, re.search(r'op_name="((?:[^"\\]|\\.)*)"', one.rest)) for one in within)
    for one, name in named:
        frame = re.search(r"stack_frame_id=(\d+)", one.rest)
        if name and (frame or "/" in name[1]):  # others are arguments
            layer = layers.get(frame[1], "") if frame else ""
            backward = " (backward)" if "transpose(" in name[1] else ""
            return f"{layer or 'the program'}: {name[1].rsplit('/', 1)[-1]}{backward}"
    return f"the compiler: {instruction.opcode}"


def _layers(text: str) -> dict[str, str]:
    """Return for the number of each stack frame the innermost function of the package in it, as a layer's name.

    HLO text starts with tables of files, functions, places (a file and a function) and frames (a place and a parent).
    """
    files, functions = _table(text, "FileNames"), _table(text, "FunctionNames")
    places, frames = _table(text, "FileLocations"), _table(text, "StackFrames")

    def number(entry: str, field: str) -> str:
        found = re.search(rf"\b{field}=(\d+)", entry)
        return found[1] if found else "0"

    # Some versions write a parent's number plus one: the first frame, which has none, then is its own.
    offset = int(number(frames.get("1", ""), "parent_frame_id"))
    layers: dict[str, str] = {}
    for frame, entry in frames.items():  # parents come first
        place = places.get(number(entry, "file_location_id"), "")
        name = functions.get(number(place, "function_name_id"), "").strip('"')
        ours = "/cdnv2_jax/" in files.get(number(place, "file_name_id"), "")
        parent = str(int(number(entry, "parent_frame_id")) - offset)
        layers[frame] = name.removesuffix(".__call__").replace(".<locals>", "") if ours else layers.get(parent, "")
    return layers


def _table(text: str, title: str) -> dict[str, str]:
    """Return number → rest of the line of one of the tables at the start of HLO text."""
    found = re.search(rf"^{title}\n((?:\d+ .*\n)*)", text, re.MULTILINE)
    return dict(line.split(" ", 1) for line in found[1].splitlines()) if found else {}
