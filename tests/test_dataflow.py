"""Jobs for Dataflow, launched against a stub of its API and an emulator of its storage; one of them is then run here.

What is looked at is what the service would get: the job posted, and the pipeline staged in the bucket.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import archives
import pytest
import stages
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, execution
from dataflow_stub import RUNNING, Dataflow
from google.api_core import exceptions
from google.cloud import dataflow as api

from pipelines import dataflow, options, prepare, restore, template
from transforms import dataflow_jobs, run_lock, storage
from transforms.dataflow_jobs import Job
from transforms.items import UsageError
from transforms.storage_access import check_access

L4 = "type:nvidia-l4;count:1;machine_type:g2-standard-8;install-nvidia-driver"
IMAGE = "europe-west4-docker.pkg.dev/museum/unfade/worker:1"
SETTING = ["--project", "museum", "--region", "europe-west4", "--temp_location", "gs://archive/tmp"]
REMOTE = ["--runner", "DataflowRunner", *SETTING, "--sdk_container_image", IMAGE]
OUT = "gs://archive/out"
JOB = "unfade-restore-aa79b772"

# All that leaves the stage with the pictures: errors, names of journal files, times.
LEAVING = {
    *(f"Restore/{step}/Run/ParDo(_StepFn):errors" for step in ("ReadSource", "Thumbnail", "Apply", "Write")),
    *(f"Restore/{name}/ParDo(_JournalFn):None" for name in ("Journal", "JournalReadErrors", "JournalDecodeErrors")),
    *(f"Restore/{name}/ParDo(_JournalFn):None" for name in ("JournalApplyErrors", "JournalWriteErrors")),
    "Restore/Finished:None",
}


@pytest.fixture(scope="module")
def service() -> Iterator[Dataflow]:
    with Dataflow() as service:
        yield service


@pytest.fixture(scope="module")
def bucket(emulator_bucket: Any, archive: archives.Archive, archive_records: str) -> Any:
    check_access("gs://archive")
    for path in archive.folder.iterdir():
        emulator_bucket.blob(f"scans/{path.name}").upload_from_filename(path)
    storage.copy_tree(archive_records, "gs://archive/records")
    return emulator_bucket


@pytest.fixture(scope="module")
def given(bucket: Any) -> list[str]:
    return ["--input", "gs://archive/scans/catalogue.csv", "--output", OUT, *REMOTE]


@pytest.fixture(scope="module")
def told(given: list[str], service: Dataflow) -> str:
    """What the terminal shows of a launch; the job is the service's first."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert restore.main([*given, "--accelerator", L4, "--dataflow_endpoint", service.url]) == 0
    return out.getvalue()


def pipeline_of(job: dict[str, Any]) -> beam_runner_api_pb2.Pipeline:
    """What Dataflow would run."""
    uri = job["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"]
    return beam_runner_api_pb2.Pipeline.FromString(storage.read_bytes(uri))


def check_pictures(cut: list[stages.Stage], accelerator: str) -> stages.Stage:
    """One stage has the pictures, and it alone asks for the accelerator."""
    [pictures] = [stage for stage in cut if "Restore/Apply/Run/ParDo(_StepFn)" in stage.steps]
    assert pictures.accelerator == accelerator
    inside = {"Restore/Thumbnail/Run/ParDo(_StepFn)", "Restore/Decide/BeamML_RunInference", "Restore/Items"}
    assert inside | {"Restore/Write/Run/ParDo(_StepFn)", "Restore/Journal/ParDo(_JournalFn)"} <= pictures.steps
    assert [stage for stage in cut if stage.accelerator] == ([pictures] if accelerator else [])
    return pictures


class TestPosted:
    def test_job(self, told: str, service: Dataflow) -> None:
        job = service.jobs[0]
        assert job["path"] == "/v1b3/projects/museum/locations/europe-west4/jobs"
        assert job["name"] == JOB
        [pool] = job["environment"]["workerPools"]
        assert {image["containerImage"] for image in pool["sdkHarnessContainerImages"]} == {IMAGE}
        assert (pool["diskSizeGb"], pool["numThreadsPerWorker"]) == (50, 8)
        assert dataflow.ONE_PROCESS in job["environment"]["experiments"]
        assert "use_runner_v2" in job["environment"]["experiments"]
        assert not job["environment"].get("serviceOptions")
        given = job["environment"]["sdkPipelineOptions"]["options"]
        assert (given["input"], given["output"]) == ("gs://archive/scans/catalogue.csv", OUT)

    def test_it_says_how_to_follow(self, told: str) -> None:
        assert told.splitlines()[0] == f"Dataflow job {JOB} in museum, europe-west4: submitted, with the id job-0"
        assert "https://console.cloud.google.com/dataflow/jobs/europe-west4/job-0?project=museum" in told
        assert f"done when there is {OUT}/summary.json" in told

    def test_one_stage_from_the_shuffle_to_the_journal(self, told: str, service: Dataflow) -> None:
        cut = stages.fused(pipeline_of(service.jobs[0]))
        pictures = check_pictures(cut, L4)
        assert pictures.leaving == LEAVING
        assert "Restore/ReadSource/Run/ParDo(_StepFn)" in pictures.steps
        [dealing] = [stage for stage in cut if "Deal/Key" in stage.steps]
        assert dealing.leaving >= {"Deal/Key:None", "Select/ParDo(_SelectFn)/ParDo(_SelectFn):verdicts"}
        assert "Select/ParDo(_SelectFn)/ParDo(_SelectFn)" in dealing.steps  # nothing is dealt that is done

    def test_hints_of_the_model_alone_would_part_the_stage(self, told: str, service: Dataflow) -> None:
        """What the design avoids; and that the test above can fail."""
        proto = pipeline_of(service.jobs[0])
        for step in proto.components.transforms.values():
            if step.environment_id and "RunInference" not in step.unique_name:
                step.environment_id = next(
                    id for id, one in proto.components.environments.items() if not one.resource_hints
                )
        [decide] = [stage for stage in stages.fused(proto) if "Restore/Decide/BeamML_RunInference" in stage.steps]
        assert "Restore/Thumbnail/Run/ParDo(_StepFn)" not in decide.steps
        assert "Restore/Decide/BeamML_RunInference:None" in decide.leaving

    def test_the_lock_is_the_jobs(self, told: str, given: list[str], service: Dataflow) -> None:
        held = json.loads(storage.read_bytes(f"{OUT}/unfinished/lock"))
        assert held["job"] == {"name": JOB, "project": "museum", "region": "europe-west4", "endpoint": service.url}
        with pytest.raises(UsageError, match=f"another run .Dataflow job {JOB} in museum.*is writing to {OUT}"):
            restore.main([*given, "--dataflow_endpoint", service.url])
        assert len(service.jobs) == 1

    def test_run_here(self, told: str, service: Dataflow, archive: archives.Archive) -> None:
        """The pipeline that was staged, on Beam's own runner: it ends as the job would, and nothing large crosses."""
        proto = pipeline_of(service.jobs[0])
        for environment in proto.components.environments.values():
            environment.urn, environment.payload = python_urns.EMBEDDED_PYTHON, b""
            del environment.dependencies[:]
        largest = [0]
        append = execution.ListBuffer.append

        def measured(buffer: Any, element: bytes) -> None:
            largest[0] = max(largest[0], len(element))
            append(buffer, element)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(execution.ListBuffer, "append", measured)
            # Half of the archive is bad: the job ends as failed, with all in its place.
            with pytest.raises(RuntimeError, match="all is done and in place, but 10 of 22 items failed"):
                FnApiRunner().run_via_runner_api(proto, PipelineOptions([])).wait_until_finish()
        assert 0 < largest[0] < 20_000  # all the rows of errors of a shard in one; a picture's pixels are 50 times that
        summary = json.loads(storage.read_bytes(f"{OUT}/summary.json"))
        assert summary["counts"] == {"input": 22, "restored": 12, "skipped": 0, "failed": 10}
        assert b"<html" in storage.read_bytes(f"{OUT}/report/index.html")
        assert [uri.rpartition("/")[2] for uri in storage.listing(f"{OUT}/unfinished", "*")] == ["lock"]
        assert len(storage.listing(f"{OUT}/images", "**")) == 12

    def test_the_next_night(self, told: str, given: list[str], service: Dataflow) -> None:
        """After `test_run_here`: the job has failed, so its lock counts no more; what is done is left out."""
        service.end("FAILED", datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z"))
        assert restore.main([*given, "--dataflow_endpoint", service.url, "--max_error_fraction", "1"]) == 0
        job = service.jobs[-1]
        assert job["name"] == JOB
        [pool] = job["environment"]["workerPools"]  # no accelerator: a process a core
        assert (pool["numThreadsPerWorker"], pool["sdkHarnessContainerImages"][0]["useSingleCorePerContainer"]) == (
            2,
            True,
        )
        assert "use_multiple_sdk_containers" in job["environment"]["experiments"]
        proto = pipeline_of(job)
        check_pictures(stages.fused(proto), "")
        for environment in proto.components.environments.values():
            environment.urn, environment.payload = python_urns.EMBEDDED_PYTHON, b""
            del environment.dependencies[:]
        FnApiRunner().run_via_runner_api(proto, PipelineOptions([])).wait_until_finish()
        summary = json.loads(storage.read_bytes(f"{OUT}/summary.json"))
        assert summary["counts"] == {"input": 22, "restored": 0, "skipped": 12, "failed": 10}
        assert not storage.listing(f"{OUT}/unfinished", "*")  # the lock, too
        service.end("DONE", datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z"))


def test_the_lock_goes_if_the_service_refuses(
    bucket: Any, service: Dataflow, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given = ["--input", "gs://archive/records", "--output", "gs://archive/refused", *REMOTE]
    monkeypatch.setattr(service, "failing", 403)
    with pytest.raises(exceptions.Forbidden, match="as told"):
        restore.main([*given, "--dataflow_endpoint", service.url])
    assert not storage.exists("gs://archive/refused/unfinished/lock")
    assert not dataflow.unknown_state(exceptions.Forbidden("no"))
    assert dataflow.unknown_state(exceptions.InternalServerError("it may have been taken all the same"))


def test_dry_run(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    output = "gs://archive/dry"
    assert restore.main([*given, "--output", output, "--dry_run", "True", "--accelerator", L4]) == 0
    out = capsys.readouterr().out
    assert f"image:       {IMAGE}" in out
    assert f"steps with {L4}, in Restore\n" in out
    assert "steps with no accelerator, in Classes, CountBadRows" in out
    assert not storage.listing(output, "**")  # nothing is touched


class TestTemplate:
    """As the launcher of a Flex Template runs it."""

    def test_of_records(self, bucket: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setenv("FLEX_TEMPLATE_PYTHON_PY_FILE", "/opt/unfade/deploy/launch.py")
        monkeypatch.setenv(dataflow.IMAGE, IMAGE)
        with pytest.raises(SystemExit) as ended:
            template.main(
                [
                    "--input=gs://archive/records",
                    "--output=gs://archive/nightly",
                    f"--accelerator={L4}",
                    "--overwrite=false",
                    "--no_previews=true",
                    "--model_sha256=",
                    "--runner=DataflowRunner",
                    "--job_name=unfade-nightly",
                    "--template_location=gs://archive/staging/template_launches/job_object",
                    *[f"{name}={value}" for name, value in zip(SETTING[::2], SETTING[1::2], strict=True)],
                ]
            )
        assert ended.value.code == 0
        assert (
            "Dataflow job unfade-nightly in museum, europe-west4: its description is written" in capsys.readouterr().out
        )
        job = json.loads(storage.read_bytes("gs://archive/staging/template_launches/job_object"))
        given = job["environment"]["sdkPipelineOptions"]["options"]
        assert (given["no_previews"], given["overwrite"]) == (True, False)
        pictures = check_pictures(stages.fused(pipeline_of(job)), L4)
        assert {"Restore/Read", "Restore/Parse/Run/ParDo(_StepFn)"} <= pictures.steps  # records hold pictures, too
        select = "Restore/Select/ParDo(_SelectFn)/ParDo(_SelectFn)"
        read = "Restore/ReadSource/Run/ParDo(_StepFn):errors"
        parse = "Restore/Parse/Run/ParDo(_StepFn):errors"
        assert pictures.leaving == LEAVING - {read} | {parse, f"{select}:verdicts", f"{select}:renewed"}
        # The launcher is started by the very job that the lock names: the same launch again finds an earlier one's.
        own = Job("unfade-nightly", "museum", "europe-west4")
        with run_lock.hold("gs://archive/nightly", own) as held:
            assert held.interrupted

    def test_classic_templates_are_refused(self, given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FLEX_TEMPLATE_PYTHON_PY_FILE", raising=False)
        with pytest.raises(UsageError, match="a classic template would take for done"):
            restore.main([*given, "--template_location", "gs://archive/t"])

    @pytest.mark.parametrize("command", template.COMMANDS)
    def test_metadata(self, command: str) -> None:
        """By Google's own definition of it, and with every option of the command."""
        text = (pathlib.Path(__file__).parent.parent / "deploy" / f"{command}.json").read_text()
        assert json.loads(text) == template.metadata(command), f"python -m pipelines.template {command} > deploy/..."
        parsed = api.TemplateMetadata.from_json(text)
        assert parsed.name == template.metadata(command)["name"]
        kept = {parameter.name: parameter for parameter in parsed.parameters}
        own = set(options.plain(PipelineOptions([]), *template._classes(command)[1:]))
        assert own | {"command", *template._BEAM} == set(kept)
        assert {name for name, parameter in kept.items() if not parameter.is_optional} == {"input", "output"} | (
            {"command"} if command == "prepare" else set()
        )
        for whole in ("gs://archive", "gs://archive/", "gs://archive/scans/*.tif"):
            assert re.fullmatch(kept["input"].regexes[0], whole)
        assert not re.fullmatch(kept["input"].regexes[0], "/scans")
        for name, parameter in kept.items():
            assert parameter.label
            assert parameter.help_text.endswith(".")
            assert len(parameter.label) <= 80, name


class TestArguments:
    def test_flags(self, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["--overwrite=true", "--keep_grain=False", "--model=", "--max_pixels=5", "--command=restore"]
        words += ["--region=x", "--from_a_later_launcher=1"]
        assert template.arguments(words) == ("restore", ["--overwrite", "--max_pixels=5", "--region=x"])
        assert capsys.readouterr().err == (
            "unfade: warning: --from_a_later_launcher is left out: neither unfade nor Beam knows it\n"
        )
        assert template.arguments(["--command=prepare", "--num_shards=3"]) == ("prepare", ["--num_shards=3"])

    def test_unknown_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            template.main(["--command=train"])
        assert ended.value.code == 2
        assert capsys.readouterr().err == "unfade: --command train: one of restore, prepare\n"


def test_prepare(
    bucket: Any,
    service: Dataflow,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
) -> None:
    # tensorflow-transform reaches buckets through TensorFlow, which cannot be sent to an emulator.
    monkeypatch.setattr(prepare, "_temporary", lambda given, output: str(tmp_path))
    given = ["--input", "gs://archive/scans/catalogue.csv", "--output", "gs://archive/rec", *REMOTE]
    assert prepare.main([*given, "--dataflow_endpoint", service.url]) == 0
    assert "submitted" in capsys.readouterr().out
    job = service.jobs[-1]
    assert job["name"].startswith("unfade-prepare-")
    leaving = {step for stage in stages.fused(pipeline_of(job)) for step in stage.leaving}
    # Bytes are in `Source` alone, between these two steps.
    assert "ReadSource/Run/ParDo(_StepFn):errors" in leaving
    assert "ReadSource/Run/ParDo(_StepFn):None" not in leaving


class TestRefused:
    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["--output", "out"], "--output out: workers do not see this machine's files"),
            (["--input", "samples/pairs.csv"], "--input samples/pairs.csv: workers do not see"),
            (["--model", "models/default"], "--model models/default: workers do not see"),
            (["--accelerator", "nvidia-l4"], "write type:NAME;count:N"),
            (["--accelerator", "type:nvidia-l4;count:1"], "add ;install-nvidia-driver"),
            (["--accelerator", L4, "--flexrs_goal", "COST_OPTIMIZED"], "FlexRS knows no resource hints"),
            (
                ["--accelerator", L4, "--dataflow_service_options", "worker_accelerator=type:nvidia-l4;count:1"],
                "worker_accelerator exclude one another",
            ),
            (["--project", ""], "--project is missing"),
            (["--region", ""], "--region is missing"),
            (["--temp_location", ""], "--temp_location is missing"),
            (["--sdk_container_image", ""], "--sdk_container_image is missing"),
        ],
    )
    def test_before_any_work(self, argv: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(dataflow.IMAGE, raising=False)
        given = ["--input", "gs://no/in.csv", "--output", "gs://no/out", *REMOTE]
        with pytest.raises(UsageError) as refused:
            restore.main([*given, *argv])
        assert message in str(refused.value)


class TestProcesses:
    @pytest.mark.parametrize(
        ("argv", "threads", "one"),
        [
            ([], 2, False),
            (["--accelerator", L4], 8, True),
            (["--accelerator", f"{L4};use_nvidia_mps"], 2, False),  # several processes share the GPU on purpose
            (["--accelerator", L4, "--number_of_worker_harness_threads", "3"], 3, True),
            (["--experiments", dataflow.ONE_PROCESS], 8, True),
        ],
    )
    def test_and_threads(self, argv: list[str], threads: int, one: bool) -> None:
        words = ["--input", "gs://a/in.csv", "--output", "gs://a/out", *REMOTE, *argv]
        given = options.parse("restore", "", restore.RestoreOptions, words, options.ModelOptions)
        dataflow.complete(given, "restore", None, given.view_as(restore.RestoreOptions).accelerator)
        debug = given.view_as(dataflow.DebugOptions)
        assert (debug.number_of_worker_harness_threads, bool(debug.lookup_experiment(dataflow.ONE_PROCESS))) == (
            threads,
            one,
        )


class TestJobsThatHoldALock:
    """Whether a lock counts, by what Dataflow says of the job that it names."""

    SINCE = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)

    @pytest.mark.parametrize(
        ("state", "time", "since", "ended"),
        [
            (RUNNING, "2026-01-01T00:00:00Z", SINCE, False),
            ("JOB_STATE_QUEUED", "2026-01-03T00:00:00Z", SINCE, False),
            ("JOB_STATE_CANCELLING", "2026-01-03T00:00:00Z", SINCE, False),
            ("JOB_STATE_FAILED", "2026-01-03T00:00:00Z", SINCE, True),
            ("JOB_STATE_DONE", "2026-01-01T00:00:00Z", SINCE, True),  # last night's; this one never came to run
            ("JOB_STATE_DONE", "2026-01-01T00:00:00Z", None, False),  # last night's; this one is on its way
        ],
    )
    def test_states(self, state: str, time: str, since: datetime.datetime | None, ended: bool) -> None:
        with Dataflow() as service:
            service.add({"name": "nightly"})
            service.add({"name": "another"})
            service.jobs[0].update(currentState=state, currentStateTime=time)
            job = Job("nightly", "museum", "europe-west4", service.url)
            assert dataflow_jobs.has_ended(job, since or datetime.datetime.now(datetime.UTC)) is ended

    def test_dataflow_cannot_be_asked(self, bucket: Any) -> None:
        output = "gs://archive/locked"
        with Dataflow() as service, run_lock.hold(output) as held:
            token = held.hand_over(Job("nightly", "museum", "europe-west4", service.url))
            service.failing = 403
            with (
                pytest.raises(UsageError, match="cannot be asked whether it still runs.*remove gs://.*/lock"),
                run_lock.hold(output),
            ):
                pass
        assert storage.exists(f"{output}/unfinished/lock")  # the launcher is gone, the lock stays
        run_lock.release(output, "another")
        assert storage.exists(f"{output}/unfinished/lock")
        run_lock.release(output, token)
        run_lock.release(output, token)
        with run_lock.hold(output) as held:
            assert not held.interrupted
