"""Fields: what is accepted as what, what is refused and in which words; all tables written by hand."""

import math
from typing import Any, Literal

import pytest

from cdnv2_jax.errors import UserError
from cdnv2_jax.schema import build, check, fields_of, refuse_unknown, setting, settings


@settings
class Part:
    share: float = setting("of something", default=0.5, least=0, most=1)
    parts: int = setting("how many", least=1)

    def __post_init__(self):
        check(self)
        if self.parts == 13:
            raise UserError("13 parts bring bad luck")


@settings
class Whole:
    kind: Literal["masked", "condensed"] = setting("form", default="masked")
    window: Literal[1, 3] = setting("side", default=3)
    name: str = setting("a name", default="")
    nesterov: bool = setting("momentum's kind", default=True)
    seed: int = setting("of weights", default=0, least=0, most=9)
    any_int: int = setting("of any size", default=0)
    large: int = setting("larger than others", default=0, most=2**32)
    rate: float = setting("per step", default=0.0, least=0)
    any_float: float = setting("of any size", default=0.0)
    scale: float | None = setting("side", default=None, above=0)
    below: float = setting("upper end alone", default=0.0, most=1)
    width: int | None = setting("of the head", default=None, least=1)
    stages: tuple[int, ...] = setting("layers per block", default=(1,), least=1, longest=8)
    ratios: tuple[float, ...] = setting("height / width", default=(1.0,), above=0, filled=True)
    std: tuple[float, float, float] = setting("of each channel", default=(1.0, 1.0, 1.0), least=1e-6)
    strides: tuple[Literal[1, 2], ...] = setting("of each stage", default=(1,))
    overrides: dict[str, Any] = setting("of the network", factory=dict)
    part: Part = setting("a part", factory=lambda: Part(parts=1))
    other: Part | None = setting("a part or none", default=None)

    def __post_init__(self):
        check(self)


@pytest.mark.parametrize(
    ("name", "given", "held"),
    [
        ("kind", "condensed", "condensed"),
        ("window", 1, 1),
        ("name", "", ""),
        ("nesterov", False, False),
        ("seed", 0, 0),
        ("seed", 9, 9),
        ("any_int", -(2**31 - 1), -(2**31 - 1)),
        ("any_int", 2**31 - 1, 2**31 - 1),
        ("large", 2**32, 2**32),
        ("rate", 0, 0.0),
        ("rate", 2, 2.0),
        ("rate", 3e38, 3e38),
        ("scale", None, None),
        ("scale", 5e-324, 5e-324),
        ("below", 1, 1.0),
        ("below", -7.5, -7.5),
        ("width", None, None),
        ("width", 1, 1),
        ("stages", [2, 3], (2, 3)),
        ("stages", (), ()),
        ("stages", range(1, 4), (1, 2, 3)),
        ("ratios", [1, 0.5], (1.0, 0.5)),
        ("std", [1, 1e-6, 2], (1.0, 1e-6, 2.0)),
        ("strides", [1, 2], (1, 2)),
        ("overrides", {"stages": [1, 2], "groups": 4}, {"stages": (1, 2), "groups": 4}),
        ("part", Part(parts=2), Part(parts=2)),
        ("other", None, None),
    ],
)
def test_accepted(name: str, given: Any, held: Any) -> None:
    """Values at the ends of their ranges, and of a type that turns into the field's."""
    value = getattr(Whole(**{name: given}), name)
    assert value == held and type(value) is type(held)
    if isinstance(held, tuple):
        assert [type(entry) for entry in value] == [type(entry) for entry in held]


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("kind", "condense", "kind must be one of masked, condensed, got 'condense': did you mean 'condensed'?"),
        ("kind", None, "kind must be one of masked, condensed, got None"),
        ("window", 2, "window must be one of 1, 3, got 2"),
        ("window", True, "window must be one of 1, 3, got True"),
        ("window", 3.0, "window must be one of 1, 3, got 3.0"),
        ("name", 3, "name must be a string, got 3"),
        ("nesterov", 1, "nesterov must be one of False, True, got 1"),
        ("seed", -1, "seed must be an integer in [0, 9], got -1"),
        ("seed", 10, "seed must be an integer in [0, 9], got 10"),
        ("seed", True, "seed must be an integer in [0, 9], got True"),
        ("seed", 1.0, "seed must be an integer in [0, 9], got 1.0"),
        ("any_int", "3", "any_int must be an integer, got '3'"),
        ("rate", -1e-9, "rate must be a number >= 0, got -1e-09"),
        ("rate", False, "rate must be a number >= 0, got False"),
        ("rate", math.nan, "rate must be a number >= 0, got nan"),
        ("rate", math.inf, "rate must be a number >= 0, got inf"),
        ("rate", 10**400, f"rate must be a number >= 0, got 1{'0' * 99}…: 3e+38 is the limit"),
        ("any_float", -1e39, "any_float must be a finite number, got -1e+39: 3e+38 is the limit"),
        ("any_int", 2**31, "any_int must be an integer, got 2147483648: 2147483647 is the limit"),
        ("any_int", -(2**31), "any_int must be an integer, got -2147483648: 2147483647 is the limit"),
        ("large", 2**32 + 1, "large must be an integer <= 4294967296, got 4294967297"),
        ("stages", (1,) * 9, "stages must hold 8 numbers or fewer, got 9"),
        ("ratios", (1,) * 65, "ratios must hold 64 numbers or fewer, got 65"),
        ("kind", "x" * 10**6, f"kind must be one of masked, condensed, got '{'x' * 99}…"),
        ("any_float", -math.inf, "any_float must be a finite number, got -inf"),
        ("scale", 0, "scale must be a number > 0, got 0"),
        ("below", 1.5, "below must be a number <= 1, got 1.5"),
        ("width", 0, "width must be an integer >= 1, got 0"),
        ("stages", 3, "stages must be a sequence of numbers, got 3"),
        ("stages", "111", "stages must be a sequence of numbers, got '111'"),
        ("stages", None, "stages must be a sequence of numbers, got None"),
        ("stages", (1, 0), "stages must be an integer >= 1, got 0"),
        ("ratios", (), "ratios must hold one or more numbers, got ()"),
        ("ratios", [1, -2], "ratios must be a number > 0, got -2"),
        ("std", [1, 1], "std must hold 3 numbers, got (1, 1)"),
        ("std", (1, 1, 0), "std must be a number >= 1e-06, got 0"),
        ("strides", (1, 3), "strides must be one of 1, 2, got 3"),
        ("overrides", 3, "overrides must be a mapping of fields to values, got 3"),
        ("part", 3, "part must be a Part, got 3"),
        ("part", None, "part must be a Part, got None"),
    ],
)
def test_refused(name: str, given: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        Whole(**{name: given})
    assert str(error.value) == message


def test_a_number_too_long_to_print() -> None:
    with pytest.raises(UserError, match="any_int must be an integer, got an integer of thousands of digits"):
        Whole(any_int=10**9999)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("kind", "one of masked, condensed"),
        ("seed", "an integer in [0, 9]"),
        ("scale", "a number > 0, or None"),
        ("stages", "a sequence of numbers, each an integer >= 1"),
        ("std", "a sequence of 3 numbers, each a number >= 1e-06"),
    ],
)
def test_what_is_allowed(name: str, words: str) -> None:
    assert fields_of(Whole)[name].allowed == words


def test_built_from_nested_values() -> None:
    built = build(Whole, {"part": {"parts": 2, "share": 1}, "other": {"parts": 3}, "std": [1, 2, 3]}, "config")
    assert built == Whole(part=Part(parts=2, share=1.0), other=Part(parts=3), std=(1.0, 2.0, 3.0))
    assert build(Whole, {}, "config") == Whole()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (3, "config must be a mapping of fields, got 3"),
        ({"sed": 1}, "config has no 'sed', did you mean 'seed'?"),
        ({1: 1}, f"config has no 1; there are {', '.join(sorted(fields_of(Whole)))}"),
        ({"part": 3}, "config.part must be a mapping of fields, got 3"),
        ({"part": None}, "config.part must be a mapping of fields, got None"),
        ({"part": {"shares": 1}}, "config.part has no 'shares', did you mean 'share'?"),
        ({"part": {"share": 1}}, "config.part lacks config.part.parts"),
        ({"part": {"parts": 0}}, "config.part.parts must be an integer >= 1, got 0"),
        ({"part": {"parts": 13}}, "config.part: 13 parts bring bad luck"),
        ({"other": {"parts": 0}}, "config.other.parts must be an integer >= 1, got 0"),
        ({"rate": -1}, "config.rate must be a number >= 0, got -1"),
    ],
)
def test_errors_have_the_whole_name(values: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        build(Whole, values, "config")
    assert str(error.value) == message


def test_unknown_names() -> None:
    refuse_unknown(["stages"], ["stages", "growth"], "a network")
    with pytest.raises(UserError, match=r"^a network has no 'stagse', did you mean 'stages'\?$"):
        refuse_unknown(["growth", "stagse"], ["stages", "growth"], "a network")
    with pytest.raises(UserError, match=r"^a network has no 'zzz'; there are growth, stages$"):
        refuse_unknown(["zzz"], ["stages", "growth"], "a network")
