"""The names that people give to the training and the held-out images."""

from collections.abc import Iterable
from pathlib import Path

from cdnv2_jax.data.source import Split
from cdnv2_jax.data.sources.class_folders import has_classes, is_hidden, printable
from cdnv2_jax.errors import UserError, shorten

NAMES: dict[Split, tuple[str, ...]] = {"train": ("train", "training"), "val": ("val", "validation", "valid", "test")}
"""In any case; the first that exists is used."""


def choose(names: Iterable[str], split: Split) -> str | None:
    """Return the name that is used for a split, or None."""
    wanted = NAMES[split]
    known = [name for name in names if name.lower() in wanted]
    return min(known, key=lambda name: (wanted.index(name.lower()), name), default=None)


def find_folders(directory: Path) -> tuple[Path | None, Path | None, list[str]]:
    """Return the folders of the training and of the held-out images, None for each that is missing, and remarks.

    A folder with the name of a split is one only if it has class folders: it may itself be a class, of vehicles for
    example. If there is either folder, a remark names the folders beside it.

    Raises:
      UserError: a folder is a link whose target is missing.
    """
    folders = sorted(path.name for path in directory.iterdir() if _is_folder(path) and not is_hidden(path.name))
    splits = [name for name in folders if _is_split(name) and has_classes(directory / name)]
    used = [name for name in (choose(splits, "train"), choose(splits, "val")) if name]
    others = [f"{printable(name)}/" for name in folders if name not in used]
    remarks = [f"only {' and '.join(f'{name}/' for name in used)} used, not {shorten(others, 3)}"]
    train, val = (directory / name if (name := choose(splits, split)) else None for split in NAMES)
    return train, val, remarks if used and others else []


def _is_split(name: str) -> bool:
    return any(name.lower() in names for names in NAMES.values())


def _is_folder(path: Path) -> bool:
    if _is_split(path.name) and path.is_symlink() and not path.exists():
        raise UserError(f"{path} is a link whose target is missing: restore the target or remove it")
    return path.is_dir()
