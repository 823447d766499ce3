"""`--config FILE[:variant] [--config.key=value …]` → a checked config."""

from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from cdnv2_jax.errors import UserError
from cdnv2_jax.models.registry import architecture_of
from cdnv2_jax.training.config import TrainConfig, parse_config


def read_config(spec: str, overrides: Sequence[str]) -> TrainConfig:
    """Loads a config file and applies overrides.

    Args:
      spec: path of a Python file with `get_config`, perhaps followed by `:variant`.
      overrides: arguments of the form `--config.data.batch_size=32`.

    Raises:
      UserError: no such file, a file that does not run, an unknown key or a value of the wrong type.
    """
    path = Path(spec.split(":", 1)[0])
    if not path.is_file():
        near = [str(other) for other in sorted(path.parent.glob("*.py"))] if path.parent.is_dir() else []
        raise UserError(f"--config {path}: no such file{f'; there are {chr(44).join(near)}' if near else ''}")
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    try:
        values(["main.py", f"--config={spec}", *overrides])
        config = parse_config(values["config"].value.to_dict())
        architecture_of(config.model.name, config.model.num_classes, config.model.overrides)
    except UserError as error:
        raise UserError(f"{spec}: {error}") from error
    except Exception as error:  # a config file is a program: it may fail in any way
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise UserError(f"{spec}: {reason}") from error
    return config
