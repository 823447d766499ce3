"""The trained networks that come with the package, by name: `pretrained:NAME` wherever a checkpoint is read.

Light to import, because `paths.as_path` resolves the names.
"""

from pathlib import Path

from cdnv2_jax.errors import UserError, suggestion

PREFIX = "pretrained:"
PACKAGE = Path(__file__).parent


def pretrained_files() -> dict[str, Path]:
    """Return the file of each network: those in the installed package, or those beside it in a checkout."""
    installed = PACKAGE / "pretrained_weights"
    folder = installed if installed.is_dir() else PACKAGE.parent / "weights"
    return {file.stem: file for file in sorted(folder.glob("*.safetensors"))}


def pretrained_file(name: str) -> Path:
    """Return the file of the network `name`; UserError, with the nearest name, if there is none."""
    files = pretrained_files()
    if name not in files:
        raise UserError(f"there is no pretrained network {name!r}: {suggestion(name, files, 'choose one of')}")
    return files[name]


def list_pretrained() -> list[str]:
    """Return the names of the trained networks that come with the package; docs/results.md describes them."""
    return list(pretrained_files())
