"""The faces against the real workbench: a model is converted, built and run by typing lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from trtbench_lab.cli import main


@pytest.mark.slow
def test_a_notebook_goes_from_model_to_text(shell: InteractiveShell, in_tmp: Path) -> None:
    lines = (
        "%config TrtBench.backend = 'onnxruntime'",
        "%trt_convert demo --dtype float32 --store checkpoint --quiet",
        "%trt_build $checkpoint --output_dir engine --max_batch_size 2 -o engine --quiet",
        "prompt = 'The mayor said'",
        "step = %trt_run engine_dir=engine input_text=prompt max_new_tokens=4 --quiet",
        "listing = %trt_history --kind run",
    )
    for line in lines:
        assert shell.run_cell(line).success, line
    step = shell.user_ns["step"]
    assert step.backend == "onnxruntime"
    assert step.prompts == ["The mayor said"]
    assert 1 <= len(step.output_ids[0][0]) <= 4
    assert [row.id for row in shell.user_ns["listing"]] == [step.id]
    assert (in_tmp / "engine" / "rank0.engine").is_file()


def test_the_shell_tells_every_contradiction_with_the_model(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "demo", "--tp", "3", "--pp", "7", "--output_dir", "out"]) == 1
    text = capsys.readouterr().err
    assert "cannot be divided over tp_size 3" in text
    assert "cannot be divided into 7 equal pipeline stages" in text
    assert not (in_tmp / "out").exists()


def test_the_shell_plans_without_writing(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "demo", "--tp", "2", "--dry_run", "--json", "--output_dir", "out"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["tp_size"] == 2
    assert not (in_tmp / "out").exists()
