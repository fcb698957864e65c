"""The magics in a real IPython: lines, results, settings, errors, help."""

from __future__ import annotations

from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from tests.magics.conftest import FakeResult, FakeWorkbench

from trtbench_lab.errors import BuildError, SpecError
from trtbench_lab.progress import ProgressEvent
from trtbench_lab.specs.command_line import VERBS


def test_every_verb_has_a_magic(shell: InteractiveShell) -> None:
    assert {f"trt_{verb}" for verb in VERBS} <= set(shell.magics_manager.magics["line"])


def test_loading_twice_changes_nothing(shell: InteractiveShell) -> None:
    before = (len(shell.configurables), len(shell.Completer.custom_matchers))
    shell.run_line_magic("reload_ext", "trtbench_lab")
    assert (len(shell.configurables), len(shell.Completer.custom_matchers)) == before


def test_a_line_becomes_a_request_and_returns_the_result(shell: InteractiveShell, fake: FakeWorkbench) -> None:
    shell.run_cell("n = 4")
    outcome = shell.run_cell("built = %trt_build demo --max_batch_size {n * 2} --use_gemm_plugin")
    assert outcome.success
    assert isinstance(shell.user_ns["built"], FakeResult)
    (spec,) = fake.specs
    assert spec.checkpoint_dir == "demo"
    assert spec.build_config.max_batch_size == 8
    assert spec.build_config.plugin_config.gemm_plugin == "auto"


def test_the_last_line_shows_the_result(shell: InteractiveShell, fake: FakeWorkbench) -> None:
    assert isinstance(shell.run_cell("%trt_doctor").result, FakeResult)
    assert shell.run_cell("%trt_doctor --quiet;").result is None
    assert len(fake.specs) == 2


@pytest.mark.parametrize("flag", ["-o", "--store"])
def test_the_result_can_be_stored(shell: InteractiveShell, fake: FakeWorkbench, flag: str) -> None:
    shell.run_cell(f"%trt_build demo {flag} engine")
    assert shell.user_ns["engine"].verb == "build"


def test_stored_results_go_on_by_name(shell: InteractiveShell, fake: FakeWorkbench) -> None:
    class Step:
        output_dir = "/engines/demo"

    shell.user_ns["engine"] = Step()
    shell.run_cell('%trt_run engine_dir=engine "Born in" max_new_tokens=5')
    shell.run_cell("%trt_run {engine} --top_k 3")
    shell.run_cell("%trt_run $engine")
    assert [spec.engine_dir for spec in fake.specs] == ["/engines/demo"] * 3
    assert fake.specs[0].input_text == ("Born in",)


@pytest.mark.parametrize("flag", ["-o 7", "-o", "--store a-b"])
def test_a_name_must_be_a_name(shell: InteractiveShell, fake: FakeWorkbench, flag: str) -> None:
    with pytest.raises(SpecError, match="no name"):
        shell.run_line_magic("trt_build", f"demo {flag}")


def test_o_of_the_old_converter_is_its_folder(shell: InteractiveShell, fake: FakeWorkbench) -> None:
    shell.run_cell("%trt_convert -i gpt2 -o model")
    shell.run_cell("%trt_convert --model_dir gpt2 -o c-model/gpt2")
    assert [spec.output_dir for spec in fake.specs] == ["model", "c-model/gpt2"]


def test_o_elsewhere_stores_and_says_so(
    shell: InteractiveShell, fake: FakeWorkbench, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.run_cell("%trt_convert demo -o converted")
    assert fake.specs[0].output_dir is None
    assert shell.user_ns["converted"].verb == "convert"
    assert "-o converted stores the result" in capsys.readouterr().out


def test_config_sets_defaults_for_later_lines(shell: InteractiveShell, fake: FakeWorkbench) -> None:
    shell.run_cell("%config TrtBench.backend = 'torch'\n%config TrtBench.max_new_tokens = 7")
    shell.run_cell("%trt_build demo")
    shell.run_cell("%trt_build demo --backend onnxruntime")
    shell.run_cell("%trt_run engine")
    assert [spec.build_config.backend for spec in fake.specs[:2]] == ["torch", "onnxruntime"]
    assert fake.specs[2].sampling.max_new_tokens == 7


def test_config_lists_settings_with_their_help(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    shell.run_cell("%config TrtBench")
    text = capsys.readouterr().out
    assert "TrtBench.backend" in text
    assert "TrtBench.show_progress" in text


def test_notes_are_told_unless_switched_off(
    shell: InteractiveShell, fake: FakeWorkbench, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.run_cell("%trt_build demo --hidden_act gelu;")
    assert "note: --hidden_act gelu does nothing here" in capsys.readouterr().out
    shell.run_cell("%trt_build demo --hidden_act gelu --quiet;")
    shell.run_cell("%config TrtBench.show_notes = False\n%trt_build demo --hidden_act gelu")
    assert "note:" not in capsys.readouterr().out


def test_errors_show_sentences_and_no_traceback(
    shell: InteractiveShell, fake: FakeWorkbench, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = shell.run_cell("%trt_build demo --gemm_plugn auto\nreached = True")
    shown = capsys.readouterr()
    text = shown.out + shown.err
    assert "Did you mean --gemm_plugin?" in text
    assert "Traceback" not in text
    assert "\x1b[31m" in text
    assert isinstance(outcome.error_in_exec, SpecError)
    assert "reached" not in shell.user_ns
    assert fake.specs == []


def test_errors_of_the_work_are_kept_with_their_details(
    shell: InteractiveShell, fake: FakeWorkbench, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**keywords: Any) -> None:
        raise BuildError("The build ended.", where="rank 0", remedy="Look at the log.", details="line 1\nline 2")

    fake.act = fail
    shell.run_cell("%trt_build demo")
    shown = capsys.readouterr()
    assert "rank 0: The build ended." in shown.out + shown.err
    assert "line 2" not in shown.out + shown.err
    assert shell.user_ns["_trt_error"].details == "line 1\nline 2"
    assert shell.magics_manager.registry["TrtBench"].last_error is shell.user_ns["_trt_error"]


def test_unexpected_errors_keep_their_traceback(
    shell: InteractiveShell, fake: FakeWorkbench, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**keywords: Any) -> None:
        raise ZeroDivisionError("inside")

    fake.act = fail
    shell.run_cell("%trt_build demo")
    shown = capsys.readouterr()
    assert "ZeroDivisionError" in shown.out + shown.err
    assert "_trt_error" not in shell.user_ns


@pytest.mark.parametrize("verb", VERBS)
def test_question_mark_shows_the_options(
    shell: InteractiveShell, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.run_cell(f"%trt_{verb}?")
    by_mark = capsys.readouterr().out
    shell.run_cell(f"%trt_{verb} --help")
    by_flag = capsys.readouterr().out
    for text in (by_mark, by_flag):
        assert f"%trt_{verb}" in text
        assert "--store NAME" in text
        assert "--name" in text or verb == "doctor"


def test_streamed_text_comes_as_it_is_made(
    shell: InteractiveShell, fake: FakeWorkbench, capsys: pytest.CaptureFixture[str]
) -> None:
    def speak(progress: Any, on_text: Any) -> None:
        for piece in ("Born", " in", " France"):
            on_text(piece)

    fake.act = speak
    shell.run_cell("%trt_run engine --streaming;")
    assert capsys.readouterr().out.endswith("Born in France\n")


def test_verbs_that_do_not_stream_are_not_asked_to(shell: InteractiveShell, fake: FakeWorkbench) -> None:
    seen: list[set[str]] = []
    fake.act = lambda **keywords: seen.append(set(keywords))
    shell.run_cell("%trt_run engine")
    shell.run_cell("%trt_build demo")
    assert seen == [{"progress"}, {"progress"}]


def test_progress_of_long_work_is_a_line_now_and_then(
    shell: InteractiveShell, fake: FakeWorkbench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("trtbench_lab.magics.progress_view.time.monotonic", lambda: now[0])

    def work(progress: Any) -> None:
        for second in range(30):
            now[0] = float(second)
            progress(ProgressEvent("export", second, 30, "layer", float(second)))
        progress(ProgressEvent("export", 30, 30, "layer", 30.0, "done"))

    fake.act = work
    shell.run_cell("%trt_build demo;")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "export · 1 of 30 layers · 1.0 s",
        "export · 11 of 30 layers · 11.0 s",
        "export · 21 of 30 layers · 21.0 s",
        "export · 30 of 30 layers · 30.0 s",
    ]
    shell.run_cell("%trt_build demo --quiet;")
    assert capsys.readouterr().out == ""


def test_short_work_shows_no_progress(
    shell: InteractiveShell, fake: FakeWorkbench, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.act = lambda progress: progress(ProgressEvent("read", 1, 1, "file", 0.1, "done"))
    shell.run_cell("%trt_build demo;")
    assert capsys.readouterr().out == ""


def test_a_line_may_go_over_several_lines(shell: InteractiveShell, fake: FakeWorkbench) -> None:
    assert shell.run_cell("%trt_build demo \\\n    --max_batch_size 4 \\\n    --gemm_plugin float16").success
    assert fake.specs[0].build_config.max_batch_size == 4
    assert fake.specs[0].build_config.plugin_config.gemm_plugin == "float16"
