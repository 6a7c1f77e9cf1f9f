"""The jobs of deploy/jobs: fields of the interfaces of Kubernetes and KubeRay, and commands that exist."""

import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.service.cli.command_line import request_of

JOBS = Path(__file__).resolve().parent.parent / "deploy" / "jobs"


def _object(required: str, optional: str = "", **fields: Any) -> dict[str, Any]:
    """The schema of an object with these fields only, so that a misspelt one is found."""
    names = [*required.split(), *optional.split()]
    properties = {name: fields.get(name, {}) for name in names}
    return {"type": "object", "required": required.split(), "properties": properties, "additionalProperties": False}


COUNT = {"type": "integer", "minimum": 1}
MOUNT = _object("name mountPath")
CONTAINER = _object(
    "name image volumeMounts resources", "args", name={"pattern": "^[a-z-]+$"},
    args={"type": "array", "items": {"type": "string"}}, volumeMounts={"type": "array", "items": MOUNT},
    resources=_object("", "limits requests"),
)  # fmt: skip
POD = _object(
    "containers volumes", "restartPolicy enableServiceLinks automountServiceAccountToken",
    restartPolicy={"enum": ["Never", "OnFailure"]},
    containers={"type": "array", "items": CONTAINER, "minItems": 1},
    volumes={"type": "array", "items": _object("name", "persistentVolumeClaim emptyDir")},
)  # fmt: skip
TEMPLATE = _object("spec", spec=POD)
INDEXED = _object(
    "apiVersion kind metadata spec", apiVersion={"const": "batch/v1"}, kind={"const": "Job"},
    spec=_object(
        "completionMode completions parallelism backoffLimitPerIndex template", completionMode={"const": "Indexed"},
        completions=COUNT, parallelism=COUNT, backoffLimitPerIndex=COUNT,
        template=_object("spec", spec={**POD, "required": ["containers", "volumes", "restartPolicy"]}),
    ),
)  # fmt: skip
STARTED = {"type": "object", "additionalProperties": {"type": "string"}}
GROUP = _object(
    "groupName replicas minReplicas maxReplicas rayStartParams template", replicas=COUNT, minReplicas=COUNT,
    maxReplicas=COUNT, rayStartParams=STARTED, template=TEMPLATE,
)  # fmt: skip
RAY = _object(
    "apiVersion kind metadata spec", apiVersion={"const": "ray.io/v1"}, kind={"const": "RayJob"},
    spec=_object(
        "entrypoint rayClusterSpec", "shutdownAfterJobFinishes ttlSecondsAfterFinished backoffLimit",
        entrypoint={"type": "string"}, shutdownAfterJobFinishes={"const": True},
        rayClusterSpec=_object(
            "rayVersion headGroupSpec workerGroupSpecs", rayVersion={"type": "string"},
            headGroupSpec=_object("rayStartParams template", rayStartParams=STARTED, template=TEMPLATE),
            workerGroupSpecs={"type": "array", "items": GROUP},
        ),
    ),
)  # fmt: skip


def _documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((JOBS / name).read_text(encoding="utf-8")))


def _pods(job: Any) -> list[Any]:
    if job["kind"] == "Job":
        return [job["spec"]["template"]["spec"]]
    cluster = job["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


@pytest.mark.parametrize(("name", "schema"), [("indexed-jobs.yaml", INDEXED), ("ray-jobs.yaml", RAY)])
def test_jobs_have_the_fields_of_their_interface(name: str, schema: dict[str, Any]) -> None:
    jobs = _documents(name)
    assert [job["metadata"]["name"] for job in jobs] == ["plumbline-attack", "plumbline-score"]
    for job in jobs:
        jsonschema.validate(job, schema)
        for pod in _pods(job):
            volumes = {volume["name"] for volume in pod["volumes"]}
            assert all(mount["name"] in volumes for each in pod["containers"] for mount in each["volumeMounts"])


def test_the_tasks_of_a_job_attack_all_parts() -> None:
    attack, score = _documents("indexed-jobs.yaml")
    count, (container,) = attack["spec"]["completions"], attack["spec"]["template"]["spec"]["containers"]
    parts = [request_of(*_of_index(container["args"], index)).shard for index in range(count)]
    assert parts == [(index, count) for index in range(count)]
    (container,) = score["spec"]["template"]["spec"]["containers"]
    requests = [request_of(*_of_index(container["args"], index)) for index in (0, 1)]
    assert requests[0].dataset != requests[1].dataset
    assert requests[0].parquet != requests[1].parquet


def _of_index(words: list[str], index: int) -> list[str]:
    return [word.replace("$(JOB_COMPLETION_INDEX)", str(index)) for word in words]


def test_ray_jobs_run_commands_with_as_many_workers_as_the_cluster_has() -> None:
    for job, resource in zip(_documents("ray-jobs.yaml"), ("nvidia.com/gpu", "cpu"), strict=True):
        program, *words = shlex.split(job["spec"]["entrypoint"])
        request = request_of(*words)
        assert (program, request.runner) == ("plumbline", "ray")
        cluster = job["spec"]["rayClusterSpec"]
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        (group,) = cluster["workerGroupSpecs"]
        (container,) = group["template"]["spec"]["containers"]
        assert request.workers == group["maxReplicas"] * container["resources"]["limits"][resource]
