"""`--class-names FILE`."""

from pathlib import Path

from cdnv2_jax.errors import UserError


def read_class_names(path: Path | None) -> list[str]:
    """One name per line, in the order of the labels; none without a path. UserError when there is no such text file."""
    if path is None:
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--class-names {path} cannot be read as text ({error}): one name per line") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
