"""Jobs on Google Cloud Dataflow, as far as a lock needs to know of them: does the job of this name still run?"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator
from typing import Any

LAUNCH_SECONDS = 600.0
"""How long a job may be on its way: its lock is written before it is submitted."""

_ENDED = ("STOPPED", "DONE", "FAILED", "CANCELLED", "UPDATED", "DRAINED")


@dataclasses.dataclass(frozen=True)
class Job:
    """Which job. Dataflow runs one of a name at a time in a project and region.

    Attributes:
      name: Its name.
      project: Of Google Cloud.
      region: Of Google Cloud.
      endpoint: Of Dataflow's API; "" for Google's.
    """

    name: str
    project: str
    region: str
    endpoint: str = ""

    def __str__(self) -> str:
        return f"Dataflow job {self.name} in {self.project}, {self.region}"


def has_ended(job: Job, since: datetime.datetime) -> bool:
    """Whether a job that was to be submitted at that time runs no longer, or has never come to run.

    Raises what the API says if it cannot be asked.
    """
    ended = False
    for found in _named(job):
        if found.current_state.name.removeprefix("JOB_STATE_") not in _ENDED:
            return False
        ended |= found.current_state_time >= since
    return ended or (datetime.datetime.now(datetime.UTC) - since).total_seconds() > LAUNCH_SECONDS


def _named(job: Job) -> Iterator[Any]:
    from google.api_core.client_options import ClientOptions
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import dataflow

    local = "localhost" in job.endpoint  # a stub, as for Beam
    client = dataflow.JobsV1Beta3Client(
        credentials=AnonymousCredentials() if local else None,
        client_options=ClientOptions(api_endpoint=job.endpoint.rstrip("/")) if job.endpoint else None,
        transport="rest" if local else None,
    )
    request = dataflow.ListJobsRequest(
        project_id=job.project, location=job.region, name=job.name, filter=dataflow.ListJobsRequest.Filter.ALL
    )
    yield from (found for found in client.list_jobs(request) if found.name == job.name)
