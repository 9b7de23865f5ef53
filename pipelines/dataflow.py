"""A job on Google Cloud Dataflow: what its options must be, how it is submitted, how to follow it.

The command submits and returns: a job of a night must not depend on a terminal. Within a Flex Template's launcher Beam
writes the job's description instead, and Dataflow starts it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    TestOptions,
    WorkerOptions,
)
from google.api_core import exceptions as api_exceptions

from pipelines import options
from transforms import storage_access
from transforms.dataflow_jobs import Job
from transforms.items import UsageError

IMAGE = "UNFADE_IMAGE"
"""Environment variable of the worker image, which names the image itself: what is launched from it runs on it."""

ONE_PROCESS = "no_use_multiple_sdk_containers"
"""Experiment: one process a worker, with one copy of the model on its GPU, instead of one process a core."""

THREADS, THREADS_ONE_PROCESS = 2, 8
"""Pictures that a process works on at a time: one is read or written while the other is computed; where all of a
worker's cores belong to one process, it needs more to feed them."""

DISK_GB = 50
"""The image with CUDA has 9 GB, unpacked; Dataflow's own default for batch jobs is 25 GB."""


def is_dataflow(given: PipelineOptions) -> bool:
    """Whether the job runs on Dataflow."""
    return str(given.view_as(StandardOptions).runner).lower() == "dataflowrunner"


def is_dry_run(given: PipelineOptions) -> bool:
    """Whether the job is only to be looked at."""
    return is_dataflow(given) and bool(given.view_as(TestOptions).dry_run)


def in_template(given: PipelineOptions) -> bool:
    """Whether this is the launcher of a Flex Template."""
    return bool(given.view_as(GoogleCloudOptions).template_location)


def complete(given: PipelineOptions, command: str, model: str | None = None, accelerator: str | None = None) -> None:
    """Checks the options of a job on Dataflow, and sets those that depend on the job. Other runners are left alone.

    Args:
      given: Parsed options; changed in place.
      command: `restore` or `prepare`.
      model: `--model`, if it is not the one that ships.
      accelerator: `--accelerator`.

    Raises:
      UsageError: The job could not run, and why.
    """
    if not is_dataflow(given):
        return
    job = given.view_as(options.JobOptions)
    cloud, worker = given.view_as(GoogleCloudOptions), given.view_as(WorkerOptions)
    for name in ("project", "region", "temp_location"):
        if not getattr(cloud, name):
            raise UsageError(f"--{name} is missing: a job on Dataflow needs it")
    for name, uri in (("input", job.input), ("output", job.output), ("model", model)):
        if uri and not _is_reached(uri) and not (name == "model" and in_template(given)):
            raise UsageError(
                f"--{name} {uri}: workers do not see this machine's files; put it into a bucket (gs://...)"
            )
    if cloud.template_location and not os.environ.get("FLEX_TEMPLATE_PYTHON_PY_FILE"):
        raise UsageError(
            "--template_location: a classic template would take for done, at every start, what was done when it was"
            " made; use the Flex Template (docs/dataflow.md)"
        )
    worker.sdk_container_image = worker.sdk_container_image or os.environ.get(IMAGE)
    if not (worker.sdk_container_image or given.view_as(SetupOptions).setup_file):
        raise UsageError(
            "--sdk_container_image is missing: name the worker image (docs/dataflow.md says how to build it)"
        )
    if accelerator:
        _check_accelerator(given, accelerator)
    _set_processes(given, accelerator)
    worker.disk_size_gb = worker.disk_size_gb or DISK_GB
    cloud.staging_location = cloud.staging_location or f"{cloud.temp_location.rstrip('/')}/staging"
    # Dataflow runs one job of a name at a time: of two launched at once into one output, it refuses the second.
    cloud.job_name = cloud.job_name or f"unfade-{command}-{hashlib.sha256(job.output.encode()).hexdigest()[:8]}"


def _is_reached(uri: str) -> bool:
    return storage_access.scheme_of(uri) not in ("", "file")


def _check_accelerator(given: PipelineOptions, accelerator: str) -> None:
    parts = {name: value for name, _, value in (part.partition(":") for part in accelerator.split(";"))}
    if not (parts.get("type") and parts.get("count", "").isdecimal()):
        raise UsageError(f"--accelerator {accelerator}: write type:NAME;count:N;install-nvidia-driver")
    if parts["type"].startswith("nvidia") and "install-nvidia-driver" not in parts:
        raise UsageError(f"--accelerator {accelerator}: add ;install-nvidia-driver, or the workers have no driver")
    cloud = given.view_as(GoogleCloudOptions)
    if any("worker_accelerator" in option for option in cloud.dataflow_service_options or []):
        raise UsageError("--accelerator and the service option worker_accelerator exclude one another: give the first")
    if cloud.flexrs_goal:
        raise UsageError("--flexrs_goal and --accelerator exclude one another: FlexRS knows no resource hints")


def _set_processes(given: PipelineOptions, accelerator: str | None) -> None:
    """How many processes share a worker, and how many pictures each works on at a time."""
    debug = given.view_as(DebugOptions)
    # With MPS several processes share a GPU on purpose.
    if (
        accelerator
        and "use_nvidia_mps" not in accelerator
        and not debug.lookup_experiment("use_multiple_sdk_containers")
    ):
        debug.add_experiment(ONE_PROCESS)
    one = debug.lookup_experiment(ONE_PROCESS)
    if not debug.number_of_worker_harness_threads:
        debug.number_of_worker_harness_threads = THREADS_ONE_PROCESS if one else THREADS


def job_of(given: PipelineOptions) -> Job:
    """The job that these options describe, once they are complete."""
    cloud = given.view_as(GoogleCloudOptions)
    own = cloud.dataflow_endpoint.rstrip("/") != GoogleCloudOptions.DATAFLOW_ENDPOINT
    return Job(cloud.job_name, cloud.project, cloud.region, cloud.dataflow_endpoint if own else "")


def submit(given: PipelineOptions, build: Callable[[beam.Pipeline], None]) -> Any:
    """Builds and submits a job, says how to follow it, and does not wait for it.

    Args:
      given: Complete options.
      build: Wires the job into a pipeline.

    Returns:
      Beam's result.
    """
    pipeline = beam.Pipeline(options=given)
    build(pipeline)
    result = pipeline.run()
    output, job = given.view_as(options.JobOptions).output, job_of(given)
    if is_dry_run(given):
        print("\n".join(_described(given, result.job.proto_pipeline)))
    elif in_template(given):
        print(f"{job}: its description is written, Dataflow starts it")
    else:
        where = f"--project {job.project} --region {job.region}"
        id = result.job_id()
        print(f"{job}: submitted, with the id {id}")
        print(f"follow: https://console.cloud.google.com/dataflow/jobs/{job.region}/{id}?project={job.project}")
        print(f"state:  gcloud dataflow jobs describe {id} {where} --format 'value(currentState)'")
        print(f"stop:   gcloud dataflow jobs cancel {id} {where}   (the same command goes on where it stopped)")
    if not is_dry_run(given):
        print(f"done when there is {output.rstrip('/')}/summary.json")
    return result


def _described(given: PipelineOptions, proto: Any) -> list[str]:
    """What a dry run shows: what would be asked of Dataflow, and which steps have an environment of their own."""
    debug, worker = given.view_as(DebugOptions), given.view_as(WorkerOptions)
    lines = [
        f"{job_of(given)}: a dry run, nothing is submitted",
        f"image:       {worker.sdk_container_image}",
        f"machines:    {worker.machine_type or 'as Dataflow chooses'}, disk {worker.disk_size_gb} GB",
        f"threads:     {debug.number_of_worker_harness_threads} a process",
        f"experiments: {', '.join(debug.experiments or [])}",
    ]
    components = proto.components
    for id, environment in components.environments.items():
        hints = "; ".join(value.decode() for value in environment.resource_hints.values())
        steps = [
            one.unique_name
            for one in components.transforms.values()
            if one.environment_id == id and not one.subtransforms and one.spec.urn
        ]
        within = sorted({step.partition("/")[0] for step in steps})
        lines.append(f"{len(steps)} steps with {hints or 'no accelerator'}, in {', '.join(within)}")
    return lines


def unknown_state(error: BaseException) -> bool:
    """Whether a job may have been created although submitting it failed."""
    return isinstance(error, (api_exceptions.ServerError, api_exceptions.RetryError, OSError))
