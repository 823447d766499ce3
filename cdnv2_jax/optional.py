"""Packages that few need, and that are not installed with the rest."""

import importlib
from typing import Any

from cdnv2_jax.errors import UserError


def import_optional(module: str, extra: str) -> Any:
    """The module, or a UserError that says which extra of ours brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UserError(f"this needs the package {package}: pip install 'cdnv2-jax[{extra}]'") from error
