"""Command lines: ours and Beam's flags together, and one clear line for what cannot be run."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from apache_beam.options.pipeline_options import DirectOptions, GoogleCloudOptions, PipelineOptions, StandardOptions

from pipelines import options, prepare, restore
from transforms.codecs import DEFAULT_MAX_PIXELS
from transforms.items import ItemFailure, UsageError
from transforms.limits import ITEM_SECONDS

NEEDED = ["--input", "in.csv", "--output", "out"]


def parse(*argv: str, own: type[PipelineOptions] = restore.RestoreOptions) -> PipelineOptions:
    return options.parse("restore", "Restores.", own, [*NEEDED, *argv], options.ModelOptions)


def refused(capsys: pytest.CaptureFixture[str], call: Callable[[], Any]) -> str:
    """The one line on standard error of a command line that is bad usage."""
    with pytest.raises(SystemExit) as caught:
        call()
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err


class TestParse:
    def test_our_own(self) -> None:
        given = parse("--size_multiple", "8", "--max_error_fraction=0.2", "--overwrite")
        job, own = given.view_as(options.JobOptions), given.view_as(options.ModelOptions)
        assert (job.input, job.output, job.max_error_fraction, job.max_pixels) == (
            "in.csv",
            "out",
            0.2,
            DEFAULT_MAX_PIXELS,
        )
        assert (own.size_multiple, own.max_batch_size, own.overwrite) == (8, 32, True)
        assert options.plain(given, options.ModelOptions, restore.RestoreOptions) == {
            "input": "in.csv",
            "output": "out",
            "max_error_fraction": 0.2,
            "max_pixels": DEFAULT_MAX_PIXELS,
            "size_multiple": 8,
            "max_batch_size": 32,
            "retry_errors": False,
            "overwrite": True,
            "colourise": "never",
            "keep_grain": False,
            "model": own.model,
            "allow_truncated": False,
            "output_format": None,
            "no_history": False,
            "describe": False,
            "digital_source_type": False,
            "decisions": None,
            "model_sha256": None,
            "trust_model": False,
            "no_previews": False,
            "progress": "auto",
            "max_item_seconds": ITEM_SECONDS,
            "accelerator": None,
        }

    @pytest.mark.parametrize("wish", ["never", "caption", "always"])
    def test_what_is_wished(self, wish: str) -> None:
        own = parse("--colourise", wish, "--keep_grain").view_as(options.ModelOptions)
        assert (own.colourise, own.keep_grain) == (wish, True)

    def test_of_two_jobs_in_one_process(self) -> None:
        given = parse("--num_shards", "3", own=prepare.PrepareOptions)
        assert given.view_as(prepare.PrepareOptions).num_shards == 3
        assert given.get_all_options()["input"] == "in.csv"

    def test_local_by_default_on_all_cores(self) -> None:
        given = parse()
        direct = given.view_as(DirectOptions)
        assert given.view_as(StandardOptions).runner == "FnApiRunner"
        assert options.is_local(given)
        assert direct.direct_num_workers == os.cpu_count()
        assert direct.direct_running_mode == ("multi_processing" if (os.cpu_count() or 1) > 1 else "in_memory")

    def test_workers_as_told(self) -> None:
        one = parse("--direct_num_workers=1").view_as(DirectOptions)
        assert (one.direct_num_workers, one.direct_running_mode) == (1, "in_memory")
        three = parse("--direct_num_workers", "3", "--direct_running_mode", "multi_threading").view_as(DirectOptions)
        assert (three.direct_num_workers, three.direct_running_mode) == (3, "multi_threading")
        every = parse("--direct_num_workers", "0").view_as(DirectOptions)
        assert every.direct_num_workers == os.cpu_count()

    def test_beams_own(self) -> None:
        given = parse(
            "--runner", "DataflowRunner", "--region=europe-west3", "--project", "p", "--temp_location", "gs://b/t"
        )
        assert given.view_as(StandardOptions).runner == "DataflowRunner"
        assert not options.is_local(given)
        cloud = given.view_as(GoogleCloudOptions)
        assert (cloud.region, cloud.project, cloud.temp_location) == ("europe-west3", "p", "gs://b/t")
        assert given.view_as(DirectOptions).direct_num_workers == 1

    @pytest.mark.parametrize("repeat", ["2"])
    def test_bundles_repeated(self, repeat: str) -> None:
        assert parse("--direct_runner_bundle_repeat", repeat).view_as(DirectOptions).direct_runner_bundle_repeat == 2


class TestBadUsage:
    @pytest.mark.parametrize(
        ("argv", "named"),
        [
            ([*NEEDED, "--sizemultiple", "8"], "--sizemultiple"),
            ([*NEEDED, "--over"], "--over"),  # no guessing what was meant
            ([*NEEDED, "-x"], "-x"),
            ([*NEEDED, "stray"], "stray"),
            (["--input", "a"], "--output"),
            (["--output", "a"], "--input"),
            ([], "--input"),
            (["--input", "", "--output", "a"], "--input"),
            ([*NEEDED, "--size_multiple", "eight"], "eight"),
            ([*NEEDED, "--max_pixels"], "--max_pixels"),
            ([*NEEDED, "--colourise", "sometimes"], "sometimes"),
            ([*NEEDED, "--colourise"], "--colourise"),
            ([*NEEDED, "--keep_grain=no"], "--keep_grain"),
            ([*NEEDED, "--max_error_fraction", "few"], "few"),
            ([*NEEDED, "--direct_num_workers", "many"], "many"),
            ([*NEEDED, "--direct_running_mode", "fast"], "fast"),
        ],
    )
    def test_one_line(self, capsys: pytest.CaptureFixture[str], argv: list[str], named: str) -> None:
        line = refused(
            capsys, lambda: options.parse("restore", "Restores.", restore.RestoreOptions, argv, options.ModelOptions)
        )
        assert line.startswith("unfade restore: ")
        assert named in line
        assert "unfade restore --help" in line

    def test_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            options.parse("restore", "Restores.", restore.RestoreOptions, ["--help"], options.ModelOptions)
        assert caught.value.code == 0
        text = capsys.readouterr().out
        for flag in ("--input", "--output", "--model", "--overwrite", "--max_error_fraction", "Beam"):
            assert flag in text

    @pytest.mark.parametrize(
        ("command", "argv"),
        [
            (restore.main, ["--size_multiple", "0"]),
            (restore.main, ["--max_batch_size", "0"]),
            (restore.main, ["--max_pixels", "-5"]),
            (restore.main, ["--max_error_fraction", "-0.1"]),
            (restore.main, ["--max_error_fraction", "nan"]),
            (prepare.main, ["--num_shards", "-1"]),
            (restore.main, []),
            (prepare.main, []),
        ],
    )
    def test_values_that_cannot_be(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Any, command: Callable[..., int], argv: list[str]
    ) -> None:
        given = ["--input", f"{tmp_path}/nowhere.csv", "--output", f"{tmp_path}/out", *argv]
        line = refused(capsys, lambda: options.main(command, given))
        assert line.startswith("unfade")
        assert argv[0] in line if argv else "nowhere.csv does not exist" in line
        assert not (tmp_path / "out").exists()  # before any work


class TestMain:
    def status(self, command: Callable[..., int]) -> Any:
        with pytest.raises(SystemExit) as caught:
            options.main(command, ["x"])
        return caught.value.code

    def raises(self, error: BaseException) -> Callable[..., int]:
        def command(argv: list[str]) -> NoReturn:
            assert argv == ["x"]
            raise error

        return command

    @pytest.mark.parametrize(
        ("error", "status", "line"),
        [
            (UsageError("m.csv does not exist"), 2, "unfade: m.csv does not exist\n"),
            (UsageError("a\x1b[2J\nb"), 2, "unfade: a\\x1b[2J\\nb\n"),
            (ItemFailure("Bad", "a\u202eb\r"), 1, "unfade: a\\u202eb\\r\n"),
            (ItemFailure("WriteFailed", "the disk is full"), 1, "unfade: the disk is full\n"),
            (KeyboardInterrupt(), 130, "unfade: stopped by SIGINT\n"),
            (
                RuntimeError("went wrong\nTraceback"),
                1,
                "unfade: RuntimeError: went wrong (UNFADE_DEBUG=1 shows where)\n",
            ),
            (RuntimeError(), 1, "unfade: RuntimeError:  (UNFADE_DEBUG=1 shows where)\n"),
        ],
    )
    def test_errors_are_one_line_and_a_status(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        error: BaseException,
        status: int,
        line: str,
    ) -> None:
        monkeypatch.delenv("UNFADE_DEBUG", raising=False)
        assert self.status(self.raises(error)) == status
        assert capsys.readouterr() == ("", line)

    def test_debugging_shows_where(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("UNFADE_DEBUG", "1")
        with pytest.raises(RuntimeError, match="went wrong"):
            options.main(self.raises(RuntimeError("went wrong")), ["x"])

    @pytest.mark.parametrize("status", [0, 3])
    def test_the_commands_own_status(self, status: int) -> None:
        assert self.status(lambda argv: status) == status
