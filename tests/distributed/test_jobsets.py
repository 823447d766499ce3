"""The JobSets under examples/: what the JobSet API and this package's commands take, and what the two must agree on."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubeflow_trainer_api.models import JobsetV1alpha2JobSet
from pydantic import ValidationError

from cdnv2_jax.commands import main
from cdnv2_jax.commands.read_config import read_config
from tests.commands.shell import REPOSITORY

FILES = sorted((REPOSITORY / "examples").glob("jobset_*.yaml"))


def _read(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def _as_the_api_has_it(jobset: dict[str, Any]) -> dict[str, Any]:
    """Through the models of JobSet v1alpha2, Jobs and Pods, which drop fields that they do not know."""
    read = JobsetV1alpha2JobSet.from_dict(jobset)
    assert read is not None
    return read.to_dict()


def _job(jobset: dict[str, Any]) -> dict[str, Any]:
    return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]


def _container(jobset: dict[str, Any]) -> dict[str, Any]:
    return _job(jobset)["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_schema(file: Path) -> None:
    """Nothing is dropped, as a field that is misspelt would be."""
    jobset = _read(file)
    assert _as_the_api_has_it(jobset) == jobset
    misspelt = copy.deepcopy(jobset)
    _job(misspelt)["template"]["spec"]["terminationGracePeriod"] = 30
    assert _as_the_api_has_it(misspelt) == jobset
    _job(misspelt)["parallelism"] = "two"
    with pytest.raises(ValidationError, match="parallelism"):
        _as_the_api_has_it(misspelt)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_command(file: Path) -> None:
    program, *arguments = _container(_read(file))["command"]
    options, overrides = main._parser().parse_known_args(arguments)
    assert program == "cdnv2" and options.verb == "train"
    assert read_config(options.config, overrides).data.directory.startswith("gs://BUCKET/")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_processes_find_one_another(file: Path) -> None:
    """One pod a process; JobSet names pods SET-JOBS-0-INDEX.SET, and a pod of status 2 ends everything."""
    jobset = _read(file)
    job, container = _job(jobset), _container(jobset)
    policy = job["podFailurePolicy"]["rules"][0]
    assert policy["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [2]}
    assert job["parallelism"] == job["completions"] and job["completionMode"] == "Indexed" and not job["backoffLimit"]
    variables = {variable["name"]: variable.get("value") for variable in container.get("env", [])}
    if "--distributed" not in container["command"]:
        name, jobs = jobset["metadata"]["name"], jobset["spec"]["replicatedJobs"][0]["name"]
        port = container["ports"][0]["containerPort"]
        assert variables == {
            "JAX_COORDINATOR_ADDRESS": f"{name}-{jobs}-0-0.{name}:{port}",
            "JAX_NUM_PROCESSES": f"{job['parallelism']}",
            "JAX_PROCESS_ID": None,
        }
        index = container["env"][2]["valueFrom"]["fieldRef"]["fieldPath"]
        assert index == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
