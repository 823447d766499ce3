"""Which documented commands are really run by `make test` or `make soak`, and where; of the others, why not."""

import re
from typing import NamedTuple

from cdnv2_jax.commands.shipped_configs import config_files
from tests.docs.markdown import PAGES, ROOT, commands
from tests.tables import table


class Run(NamedTuple):
    """Where a command, perhaps with other paths and a smaller network, is run.

    Attributes:
      command: a regular expression for the whole command line.
      file: what runs it. text: a part of that file by which it does so.
    """

    command: str
    file: str
    text: str


RUN = [
    # make and pip
    Run("make (test|check)", ".github/workflows/test.yml", "make test"),
    Run("make quickstart", "tests/commands/test_readme.py", '"make quickstart"'),
    Run("python main.py quickstart", "tests/commands/test_readme.py", '"quickstart"'),
    Run("python main.py completion .*", "tests/commands/test_completion.py", '"completion"'),
    Run("make soak", "Makefile", "-m soak"),
    Run("make compilers", "Makefile", "pytest: $(VENV)/.dev $(COMPILERS)/.installed"),
    Run("make docs", "tests/docs/test_api_reference.py", "api_reference.main("),
    Run(
        r"pip install (\.|-e \.\[dev\]|--constraint requirements.txt( --editable)? \.\[dev\])",
        "Makefile",
        "--editable '.[dev]'",
    ),
    Run("pip install jax flatbuffers", "tests/export/test_fresh_environment.py", '"flatbuffers"'),
    Run("python examples/own_network.py", "tests/test_examples.py", '"own_network.py"'),
    Run("python examples/finetune_own_pictures.py.*", "tests/test_examples.py", "finetune_own_pictures.main("),
    Run("python -m docs.tour_notebook", "tests/test_examples.py", "tour_notebook"),
    # train
    Run(
        "python main.py train --config configs/digits.py.*", "tests/commands/conftest.py", '"train", "--config", DIGITS'
    ),
    Run(
        "python main.py train --config configs/(imagenet|cifar|finetune).py.*",
        "tests/commands/test_smoke.py",
        "TRAINED",
    ),
    Run(
        "python main.py train --config configs/fashion_mnist.py.*",
        "tests/commands/test_pretrained.py",
        '"fashion_mnist:smoke"',
    ),
    Run(
        "python main.py train --config configs/(coco|shapes).py.*", "tests/commands/test_detection_smoke.py", "coco.py"
    ),
    Run("python main.py train .*--config.data.source=tfds.*", "tests/commands/test_photographs.py", "tfds"),
    Run(
        "python main.py train .*--config.data.source=(huggingface|webdataset).*",
        "tests/commands/test_eval_as_trained.py",
        '("huggingface", "saved"), ("webdataset", "shards")',
    ),
    Run("python main.py train --workdir .*--coordinator .*", "tests/distributed/runs.py", "--coordinator"),
    Run("python main.py train --coordinator .*", "tests/distributed/runs.py", "--coordinator"),
    Run("python main.py train( --config (CONFIG|FILE|my_experiment.py).*)?", "tests/docs/test_extend.py", '"train"'),
    Run("python main.py config --copy .*", "tests/commands/test_shipped_configs.py", '"--copy"'),
    Run("python main.py config( --config .*)?", "tests/commands/test_config.py", '"config"'),
    # eval
    Run("python main.py eval --config configs/digits.py.*", "tests/commands/test_train.py", '"eval"'),
    Run(
        "python main.py eval --config configs/imagenet.py.*pth.tar.*",
        "tests/commands/test_official_weights.py",
        '"eval"',
    ),
    Run(
        "python main.py eval --config configs/(imagenet|finetune).py.*", "tests/commands/test_photographs.py", '"eval"'
    ),
    Run("python main.py eval --config configs/cifar.py.*", "tests/commands/test_per_class.py", '"eval"'),
    Run("python main.py eval --config configs/(coco|shapes).py.*", "tests/commands/test_detection.py", '("eval"'),
    Run("python main.py eval", "tests/commands/test_eval.py", '"eval"'),
    # the other verbs
    Run("python main.py condense .*", "tests/commands/test_condense.py", '"condense"'),
    Run("python main.py prepare .*", "tests/commands/test_prepare.py", '"prepare"'),
    Run("python main.py report .*", "tests/commands/test_report.py", '"report"'),
    Run("python main.py export .*", "tests/commands/test_export.py", '"export"'),
    Run("python main.py predict .*", "tests/commands/test_predict.py", '"predict"'),
    Run("python main.py", "tests/commands/test_help.py", '"main.py"'),
    Run("python main.py --version", "tests/test_packaging.py", "--version"),
    Run("(python convert_torch_weights.py|cdnv2-convert).*", "tests/commands/test_convert.py", "CONVERT"),
    # modules
    Run("python -m pytest .*", "Makefile", "-m pytest"),
    Run("python -m tests.golden_check .*", "tests/test_golden.py", "golden_check"),
    Run("python -m tests.kill_often .*", "Makefile", "tests.kill_often --kills 40"),
    Run("python -m tests.fill_often", "Makefile", "tests.fill_often"),
    Run("python -m tests.fuzz_openers .*", "Makefile", "tests.fuzz_openers --minutes 10"),
    Run("python -m docs.drawings", "tests/docs/test_drawings.py", "drawings.main("),
    Run("python -m docs.status_tables.*", "tests/docs/test_status.py", "status_tables.main("),
    Run("python -m benchmarks.compiled.*", "tests/benchmarks/test_compiled.py", "compiled.main("),
    Run("python -m benchmarks.accelerator", "tests/benchmarks/test_accelerator.py", "accelerator"),
    Run("python -m benchmarks.parity( --emulated .*)?", "tests/benchmarks/test_agreement.py", "parity.main("),
    Run("python -m benchmarks.gpu_tables .*", "tests/benchmarks/test_device.py", "gpu_tables.main("),
    Run("python -m benchmarks.lowerings.*", "tests/benchmarks/test_lowerings.py", "lowerings"),
    Run("python -m benchmarks.pruned.*", "tests/benchmarks/test_results.py", "pruned.main("),
    Run("python -m benchmarks.exported --docs", "tests/benchmarks/test_scripts.py", "exported.main("),
    Run("python -m benchmarks.detectors --docs", "tests/benchmarks/test_scripts.py", "detectors.main("),
]

NOT_RUN = {
    "python main.py train --distributed": "needs SLURM, Open MPI or a pod; processes named by flags are tested",
    "make compiled": "hours of compiling; small programs of each kind are compiled in tests/benchmarks",
    r"pip install .*\[compilers\].*": "`make test` installs them into a folder of their own",
    "make bench(-results)?": "minutes to an hour of measuring; each of its scripts runs small in tests/benchmarks",
    r"pip install .*(tfds-prepare|cuda13).*": "gigabytes that tests do not need",
    r"pip install (-e )?\.\[(buckets|detection|export|huggingface|torch,export)\]": "a part of '.[dev]'",
    "python -m benchmarks.input_pipeline.*": "a measurement of a minute; its parts are tested in tests/data",
    "python docs/report_pictures.py .*": "needs a finished run; what it draws with is tested in tests/report",
    "python -m benchmarks.detector_step .*": "11 GiB of memory and minutes; small steps run in tests/detection",
}
"""Command → why nothing runs it."""


def in_a_checkout(command: str) -> str:
    """The command as it is without installation: `python main.py` for `cdnv2`, and a config's file for its name."""
    configs = "|".join(config_files())
    command = re.sub(r"^(cdnv2|python -m cdnv2_jax) ", "python main.py ", command)
    return re.sub(rf"--config ({configs})(?=[: ]|$)", r"--config configs/\1.py", command)


COMMANDS = sorted(
    {in_a_checkout(str(command)) for page in PAGES for command in commands(page) if command.words[1:2] != ("-c",)}
)


@table("command", COMMANDS)
def test_known_to_be_run_or_not(command: str) -> None:
    runs = [run for run in RUN if re.fullmatch(run.command, command)]
    reasons = [reason for pattern, reason in NOT_RUN.items() if re.fullmatch(pattern, command)]
    assert runs or reasons, "say in RUN or NOT_RUN where it is run, or why not"
    assert not (runs and reasons)


@table("run", RUN)
def test_is_run_there(run: Run) -> None:
    assert any(re.fullmatch(run.command, command) for command in COMMANDS), "no page has such a command"
    file = ROOT / run.file
    assert file.is_file(), f"{run.file} is gone"
    assert run.text in file.read_text(encoding="utf-8"), f"{run.file} does not run it"
