"""The shell face: lines, exit codes, output, errors."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from trtbench_lab import __version__, workbench
from trtbench_lab.cli import ProgressLine, main
from trtbench_lab.errors import BuildError
from trtbench_lab.progress import ProgressEvent
from trtbench_lab.specs.command_line import VERBS


class Result:
    """A small result: what it says, and its data."""

    def __init__(self, spec: Any):
        self.spec = spec

    def __repr__(self) -> str:
        return f"Result of {type(self.spec).__name__}"

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "test", "spec": self.spec.to_dict()}


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Replace the verbs; `work(act)` gives the list of the requests that arrive."""

    def install(act: Callable[..., None] | None = None) -> list[Any]:
        seen: list[Any] = []

        def verb(spec: Any, **keywords: Any) -> Result:
            seen.append(spec)
            if act is not None:
                act(**keywords)
            return Result(spec)

        for name in VERBS:
            monkeypatch.setitem(vars(workbench), name, verb)
        return seen

    return install


def test_a_line_becomes_a_request_and_its_result_is_printed(work: Any, capsys: pytest.CaptureFixture[str]) -> None:
    seen = work()
    assert main(["build", "demo", "--max_batch_size", "4", "--use_gemm_plugin"]) == 0
    assert seen[0].build_config.max_batch_size == 4
    shown = capsys.readouterr()
    assert shown.out == "Result of BuildSpec\n"
    assert shown.err == ""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_called(verb: str, work: Any, capsys: pytest.CaptureFixture[str]) -> None:
    seen = work()
    needed = {"doctor": [], "history": [], "mpi": [], "report": ["r.html"], "download": ["gpt2"]}.get(verb, ["demo"])
    assert main([verb, *needed]) == 0
    assert len(seen) == 1


def test_ranks_are_not_started_by_a_command_that_ends(work: Any, capsys: pytest.CaptureFixture[str]) -> None:
    seen = work()
    assert main(["mpi", "start", "-n", "2"]) == 2
    assert "mpirun -n 2 trtbench" in capsys.readouterr().err
    assert main(["mpi", "start", "--launcher", "slurm", "--dry-run"]) == 0
    assert len(seen) == 1


def test_json_is_the_results_data(work: Any, capsys: pytest.CaptureFixture[str]) -> None:
    work()
    assert main(["run", "engine", "text", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["spec"]["input_text"] == ["text"]


@dataclasses.dataclass
class Row:
    id: str
    value: float


@pytest.mark.parametrize(
    ("result", "data"),
    [
        (Row("a", 1.5), {"id": "a", "value": 1.5}),
        ([Row("a", 1.5), Row("b", 2.5)], [{"id": "a", "value": 1.5}, {"id": "b", "value": 2.5}]),
        ("text", "text"),
        (object, repr(object)),
    ],
)
def test_json_of_results_without_a_dictionary(
    result: Any, data: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(vars(workbench), "history", lambda spec, progress: result)
    assert main(["history", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == data


def test_notes_go_to_stderr_unless_quiet(work: Any, capsys: pytest.CaptureFixture[str]) -> None:
    work()
    assert main(["build", "demo", "--hidden_act", "gelu"]) == 0
    assert "note: --hidden_act gelu does nothing here" in capsys.readouterr().err
    assert main(["build", "demo", "--hidden_act", "gelu", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["build", "demo", "--gemm_plugn", "auto"], "Did you mean --gemm_plugin?"),
        (["biuld", "demo"], "Did you mean 'build'?"),
        (["build"], "build needs --checkpoint_dir"),
        (["convert", "demo", "--smoothquant", "0.5", "--use_weight_only"], "exclude each other"),
    ],
)
def test_lines_that_are_not_understood_end_with_2(
    line: list[str], words: str, work: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = work()
    assert main(line) == 2
    shown = capsys.readouterr()
    assert words in shown.err
    assert shown.err.startswith("error: ")
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert seen == []


def _fail(**keywords: Any) -> None:
    raise BuildError("The build ended.", where="rank 0", remedy="Free some memory.", details="the log's tail")


def test_work_that_fails_ends_with_1_and_a_sentence(work: Any, capsys: pytest.CaptureFixture[str]) -> None:
    work(_fail)
    assert main(["build", "demo"]) == 1
    text = capsys.readouterr().err
    assert text.splitlines() == ["error: rank 0: The build ended.", "  → Free some memory.", "  (--details shows more)"]
    assert main(["build", "demo", "--details"]) == 1
    assert "the log's tail" in capsys.readouterr().err


def test_faults_of_the_program_are_told_in_a_sentence(work: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def fault(**keywords: Any) -> None:
        raise ZeroDivisionError("inside")

    work(fault)
    assert main(["build", "demo"]) == 1
    text = capsys.readouterr().err
    assert "ZeroDivisionError: inside" in text
    assert "Traceback" not in text
    assert main(["build", "demo", "--details"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_ends_with_130(work: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(**keywords: Any) -> None:
        raise KeyboardInterrupt

    work(interrupt)
    assert main(["build", "demo"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_streamed_text_goes_to_stdout(work: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def speak(progress: Any, on_text: Any) -> None:
        on_text("Born")
        on_text(" in")

    work(speak)
    assert main(["run", "engine", "--streaming"]) == 0
    assert capsys.readouterr().out == "Born in\nResult of RunSpec\n"


def test_json_of_a_streamed_run_is_only_json(work: Any, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[set[str]] = []
    work(lambda **keywords: seen.append(set(keywords)))
    assert main(["run", "engine", "--streaming", "--json"]) == 0
    json.loads(capsys.readouterr().out)
    assert seen == [{"progress"}]


def test_help_in_all_its_forms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "trtbench VERB" in capsys.readouterr().out
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {verb} " in text for verb in VERBS)
    assert main(["build", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("trtbench build checkpoint_dir")
    assert "--json" in text
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_texts_after_two_dashes_are_not_flags(work: Any, capsys: pytest.CaptureFixture[str]) -> None:
    seen = work()
    assert main(["run", "engine", "--", "--json"]) == 0
    assert seen[0].input_text == ("--json",)
    assert capsys.readouterr().out.startswith("Result of")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _events(clock: list[float], seconds: int) -> list[ProgressEvent]:
    running = [ProgressEvent("export", second, seconds, "layer", float(second)) for second in range(seconds)]
    return [*running, ProgressEvent("export", seconds, seconds, "layer", float(seconds), "done")]


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["log file", "terminal"])
def test_progress_on_streams(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("trtbench_lab.cli.time.monotonic", lambda: clock[0])
    line = ProgressLine(stream)
    for event in _events(clock, 25):
        clock[0] = event.elapsed_s
        line(event)
    line.clear()
    text = stream.getvalue()
    if stream.isatty():
        assert "\n" not in text
        assert "\rexport · 1 of 25 layers · 1.0 s" in text
        assert text.endswith("\r")
    else:
        assert text.splitlines() == [
            "export · 10 of 25 layers · 10.0 s",
            "export · 20 of 25 layers · 20.0 s",
            "export · 25 of 25 layers · 25.0 s",
        ]


def test_short_work_shows_no_progress() -> None:
    for stream in (io.StringIO(), Terminal()):
        line = ProgressLine(stream)
        line(ProgressEvent("read", 1, 1, "file", 0.4, "done"))
        line.clear()
        assert stream.getvalue() == ""


def _run(*words: str, **keywords: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trtbench_lab", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **keywords)


def test_as_a_module_in_its_own_process() -> None:
    done = _run("build", "--gemm_plugn", "auto")
    assert done.returncode == 2
    assert "Did you mean --gemm_plugin?" in done.stderr
    assert _run("--version").stdout.strip() == f"trtbench-lab {__version__}"


def test_a_reader_that_leaves_is_no_error() -> None:
    script = "import sys; from trtbench_lab.cli import main; sys.exit(main(['build', '--help']))"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=120)
    assert errors == ""


def test_a_real_interrupt_ends_with_130(tmp_path: Any) -> None:
    script = (
        "import sys, time, trtbench_lab.workbench as w\n"
        "vars(w)['doctor'] = lambda spec, progress=None: (print('working', flush=True), time.sleep(60))\n"
        "from trtbench_lab.cli import main\n"
        "sys.exit(main(['doctor']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == "interrupted"


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_help_and_results_fit_the_columns_they_are_told(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(columns))
    for line in (["--help"], ["bench", "--help"], ["doctor"]):
        main(line)
        shown = capsys.readouterr().out.splitlines()
        assert max(len(text) for text in shown) <= columns, line


def test_a_pipe_gets_the_natural_width(monkeypatch, capsys):
    monkeypatch.delenv("COLUMNS", raising=False)
    main(["--help"])
    natural = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "no number")
    main(["--help"])
    assert capsys.readouterr().out == natural
    assert max(len(line) for line in natural.splitlines()) > 100


@pytest.mark.parametrize("line", [["history"], ["report", "path.html"]])
def test_a_database_that_is_named_must_be_there_and_is_not_made(line, capsys, tmp_path):
    path = tmp_path / "slip.sqlite"
    assert main([*line, "--database", str(path)]) == 1
    assert "There is no such database file." in capsys.readouterr().err
    assert not path.exists()


def test_what_the_shell_advises_is_a_line_for_the_shell(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TRTBENCH_HOME", str(tmp_path))
    assert main(["history", "deadbeef"]) == 1
    said = capsys.readouterr().err
    assert "trtbench history" in said
    assert "%trt_" not in said
    assert main(["mpi"]) == 0
    assert "%trt_mpi start" in capsys.readouterr().out  # ranks live in notebooks only
