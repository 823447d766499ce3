"""`config` prints every setting, in a form that sets it again."""

import re

from cdnv2_jax.commands.read_config import read_config
from tests.commands.shell import REPOSITORY, Shell
from tests.tables import table

CONFIGS = (
    "digits.py:smoke",
    "imagenet.py:condensenet_imagenet_74_c4",
    "finetune.py:mobilenet_v2_x1_0",
    "shapes.py:faster_rcnn,cdnv2_a",
)


def settings_of(printed: str) -> dict[str, tuple[str, str]]:
    """Name → value and origin."""
    found = re.findall(r"^([\w.]+)=(.*?)  +(default|config file|command line|from \w+)$", printed, re.MULTILINE)
    return {name: (value, origin) for name, value, origin in found}


@table("config", CONFIGS)
def test_what_is_printed_sets_the_same_again(config: str, shell: Shell) -> None:
    spec = f"{REPOSITORY}/configs/{config}"
    printed = shell.succeeds("main.py", "config", "--config", spec, "--config.seed=7")
    found = settings_of(printed)
    assert len(found) == printed.count("\n") / 2
    again = [f"--config.{name}={value}" for name, (value, _) in found.items()]
    again_config, first = read_config(spec, again), read_config(spec, ["--config.seed=7"])
    assert again_config.model.architecture == first.model.architecture
    assert (again_config.data, again_config.optimizer, again_config.seed) == (first.data, first.optimizer, 7)


def test_origins_help_and_range(shell: Shell) -> None:
    config = f"{REPOSITORY}/configs/digits.py"
    printed = shell.succeeds("main.py", "config", "--config", config, "--config.model.overrides.lgc_groups=2")
    expected = {
        "epochs": ("30", "config file"),
        "model.overrides.lgc_groups": ("2", "command line"),
        "model.overrides.groups": ("4", "config file"),
        "model.overrides.sfr_factor": ("4", "from condensation_factor"),
        "model.overrides.conv_groups": ("4", "from groups"),
        "model.overrides.bottleneck": ("4", "default"),
        "optimizer.clip_norm": ("0.0", "default"),
    }
    assert expected.items() <= settings_of(printed).items()
    assert "    largest norm of the whole gradient; 0 for no clipping; a number >= 0\n" in printed


def test_refuses(shell: Shell) -> None:
    complaint = shell.refuses("main.py", "config", "--config", f"{REPOSITORY}/configs/digits.py", "--config.sed=3")
    assert "config has no 'sed', did you mean 'seed'?" in complaint
