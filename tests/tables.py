"""Tables of cases that are one test."""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any


def table(names: str | Sequence[str], rows: Collection[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Runs a test for every row, as `pytest.mark.parametrize` would, but as one case; a failure names its row.

    Args:
      names: the arguments that a row gives, in one string or several.
      rows: a tuple of values each (with one name: the value), or a mapping to them from what a row is called.
    """
    assert rows, "a table without rows proves nothing"
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    called = rows if isinstance(rows, Mapping) else {repr(row): row for row in rows}
    assert len(called) == len(rows), "rows that look alike"

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(**fixtures: Any) -> None:
            for row, values in called.items():
                try:
                    test(**fixtures, **dict(zip(names, values if len(names) > 1 else (values,), strict=True)))
                except BaseException as error:
                    error.add_note(f"row {row} of {test.__name__}")
                    raise

        signature = inspect.signature(test)
        rest = [parameter for name, parameter in signature.parameters.items() if name not in names]
        run.__signature__ = signature.replace(parameters=rest)  # pyright: ignore[reportAttributeAccessIssue]
        return run

    return decorate
