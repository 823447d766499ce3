"""The versions of this package and of the libraries that a file was written with, and what has changed since."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cdnv2_jax.errors import cut

PACKAGE = "cdnv2-jax"


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of this package and of `packages`; those that are not installed are left out."""
    found = {}
    for package in (PACKAGE, *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # this package, when it runs from a checkout
            continue
    return found


def written_by() -> str:
    """Return "cdnv2-jax 0.1.0", without the number if the package is not installed."""
    return " ".join([PACKAGE, *versions().values()])


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return which values differ that both have: "jax 0.12.0, before 0.10.2; cores 1, before 2"; "" for none."""
    return "; ".join(
        f"{name} {_shown(now[name])}, before {_shown(before[name])}"
        for name in now
        if name in before and now[name] != before[name]
    )


def _shown(value: Any) -> str:
    return "unset" if value in (None, "") else cut(str(value), 60)
