"""The versions of this package and of the libraries that a file was written with."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

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


def changes(before: Mapping[str, Any]) -> str:
    """Return which of these versions differ from the installed ones: "jax 0.12.0, before 0.10.2"; "" for none."""
    now = versions(*before)
    return "; ".join(
        f"{package} {now[package]}, before {before[package]}"
        for package in now.keys() & before.keys()
        if now[package] != before[package]
    )
