"""The files for clusters start the program's own command, with flags that torchrun and it know."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from hmasd import cli
from hmasd.validation import validate

CLUSTERS = Path(__file__).parents[1] / "clusters"
SLURM, KUBERNETES = CLUSTERS / "slurm.sh", CLUSTERS / "pytorchjob.yaml"
JOB = {
    "SLURM_JOB_ID": "123456",
    "SLURM_JOB_NODELIST": "n[7-8]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_CPUS_PER_TASK": "4",
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no checkpoint from which --auto-resume could go on."""
    monkeypatch.chdir(tmp_path)


def started(folder: Path, *arguments: str, **more: str) -> list[str]:
    """The words that the script lets srun start on each machine."""
    tools = {
        "scontrol": 'test "$*" = "show hostnames n[7-8]" && printf "n7\\nn8\\n"',
        "srun": 'printf "%s\\n" "$@"',
    }
    for name, body in tools.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    env = {**os.environ, **JOB, **more, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    words = [str(SLURM), *arguments]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def check_training(words: list[str]) -> None:
    """The words after the script's name resolve to settings that pass every check."""
    validate(cli.load_config(words))


def test_slurm_starts_torchrun_on_every_machine_with_the_users_arguments(tmp_path: Path) -> None:
    words = started(tmp_path, "--env-args", "{a: 1, b: 2}", "--seed", "3")
    assert words[:2] == ["--kill-on-bad-exit=1", "torchrun"]
    found = get_args_parser().parse_args(words[2:])
    assert (found.nnodes, found.nproc_per_node, found.max_restarts) == ("2", "4", 3)
    assert (found.rdzv_backend, found.rdzv_endpoint) == ("c10d", "n7:23456")
    assert found.training_script == "train_sync_enhanced.py"
    own, *users = found.training_script_args
    assert (own, users) == ("--auto-resume", ["--env-args", "{a: 1, b: 2}", "--seed", "3"])


def test_slurm_starts_a_process_per_gpu_where_there_are_some(tmp_path: Path) -> None:
    words = started(tmp_path, SLURM_GPUS_ON_NODE="8")
    assert get_args_parser().parse_args(words[2:]).nproc_per_node == "8"


def test_outside_of_a_job_the_script_fails(tmp_path: Path) -> None:
    done = subprocess.run([str(SLURM)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0 and "SLURM_CPUS_PER_TASK: unbound variable" in done.stderr


def test_the_examples_of_the_slurm_script_are_settings_that_are_valid() -> None:
    lines = [x for x in SLURM.read_text().splitlines() if x.startswith("#   sbatch")]
    assert len(lines) == 2
    for example in lines:
        flags = example.split("slurm.sh ")[1].replace("--device cuda ", "").split()
        check_training(flags)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(["shellcheck", str(SLURM)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# --- Kubernetes -----------------------------------------------------------------------------------


def manifest() -> dict[str, Any]:
    return yaml.safe_load(KUBERNETES.read_text(encoding="utf-8"))


def test_kubernetes_starts_the_same_command_in_every_pod() -> None:
    job = manifest()
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert replicas["Master"]["replicas"] == 1
    assert replicas["Master"]["template"] == replicas["Worker"]["template"]
    (container,) = replicas["Worker"]["template"]["spec"]["containers"]
    assert container["name"] == "pytorch", "the operator refuses any other name"
    program, *words = container["command"]
    found = get_args_parser().parse_args(words)
    assert (program, found.training_script) == ("torchrun", "train_sync_enhanced.py")
    flags = [word for word in found.training_script_args if not word.startswith("--output-dir")]
    check_training(flags)
    cores = int(job["spec"]["nprocPerNode"])
    assert container["resources"]["requests"]["cpu"] == str(cores), "a core for each process"
    ranks = cores * sum(x["replicas"] for x in replicas.values())
    assert cli.load_config(flags).num_envs % ranks == 0


def misfits(value: Any, kind: str, models: ModuleType, place: str) -> Iterator[str]:
    """Where a value is not what the operator's API says, by the models of its own client."""
    if kind.startswith("list["):
        for i, x in enumerate(value):
            yield from misfits(x, kind[len("list[") : -1], models, f"{place}[{i}]")
    elif kind.startswith("dict("):
        for key, x in value.items():
            yield from misfits(x, kind[:-1].split(", ")[1], models, f"{place}.{key}")
    elif hasattr(models, kind):
        model = getattr(models, kind)
        known = {name: model.openapi_types[x] for x, name in model.attribute_map.items()}
        for key, x in value.items():
            if key in known:
                yield from misfits(x, known[key], models, f"{place}.{key}")
            else:
                yield f"{place}.{key} is unknown"
    elif not isinstance(value, {"str": str, "int": int, "object": object}[kind]):
        yield f"{place} = {value!r} is no {kind}"


def test_the_manifest_is_what_the_operators_own_client_takes() -> None:
    """Needs the package kubeflow-training, which is no dependency of the project."""
    models = pytest.importorskip("kubeflow.training.models")
    kind = "KubeflowOrgV1PyTorchJob"
    assert list(misfits(manifest(), kind, models, "job")) == []
    wrong = manifest()
    wrong["spec"]["nprocPerNode"] = 8
    wrong["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["container"] = []
    assert list(misfits(wrong, kind, models, "job")) == [
        "job.spec.nprocPerNode = 8 is no str",
        "job.spec.pytorchReplicaSpecs.Master.template.spec.container is unknown",
        "job.spec.pytorchReplicaSpecs.Worker.template.spec.container is unknown",
    ]
