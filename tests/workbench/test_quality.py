"""The verbs that report quality: one request in, a kept result with a verdict and an exit code out."""

from __future__ import annotations

import shlex

import pytest

from trtbench_lab import workbench
from trtbench_lab.errors import RequestError, SpecError
from trtbench_lab.results.database import ResultsDatabase
from trtbench_lab.specs.command_line import parse


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TRTBENCH_HOME", str(tmp_path / "home"))


def run(verb: str, line: str):
    return getattr(workbench, verb)(parse(verb, shlex.split(line)).spec)


def test_a_quantization_is_judged_where_it_is_made_and_again_from_its_folder(tmp_path) -> None:
    small = "--eval_tokens 256 --eval_window 64"
    limits = "--max_drop kl=1e-6 top1=90"
    step = run("quantize", f"demo:gpt2 {tmp_path}/out --qformat int4_wo --group_size 64 {limits} {small}")
    assert step.exit_code == 1  # 4 bits move distributions by more than 1e-6 nats
    report = step.quality_result
    assert [gate.outcome for gate in report.gates] == ["failed", "passed"]
    assert len(report.layers) == 16
    assert "FAILED: kl is" in repr(step)
    again = run("compare", f"{tmp_path}/out --metrics kl,perplexity {small}")
    assert again.backend == "definition"
    assert again.metric("kl").value == pytest.approx(report.metric("kl").value)
    assert again.exit_code == 0
    assert again.layers == report.layers  # found in the history
    assert ResultsDatabase().get(again.id) == again
    assert ResultsDatabase().get(step.id) == step


def test_contradictions_and_wrong_folders_are_told(tmp_path) -> None:
    with pytest.raises(SpecError, match="comparisons of their own"):
        parse("compare", shlex.split("engine --per_layer --metrics kl"))
    settled = parse("summarize", shlex.split("engine --max_drop rouge1=1%"))
    assert settled.spec.test_hf
    assert "test_hf is now enable" in settled.notes[0]
    with pytest.raises(SpecError, match="say nothing about perplexity"):
        parse("summarize", shlex.split("engine --test_hf --max_drop perplexity=1%"))
    with pytest.raises(SpecError, match=r"size=0\.35"):
        parse("quantize", shlex.split("m --search --budget bits=4"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="neither an engine, nor a checkpoint"):
        run("compare", f"{tmp_path}/empty --metrics kl")
