"""Tab on a magic's line."""

from __future__ import annotations

from pathlib import Path

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from trtbench_lab.magics.completer import completions


def tab(shell: InteractiveShell, line: str) -> list[str]:
    """What IPython itself offers at the end of `line`."""
    with provisionalcompleter():
        return [one.text for one in shell.Completer.completions(line, len(line))]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("%trt_build demo --gemm_plugin ", ["auto", "float16", "bfloat16", "float32", "disable"]),
        ("%trt_build demo --max_b", ["--max_batch_size", "--max_beam_width"]),
        ("x = %trt_build demo gemm_plugin=f", ["gemm_plugin=float16", "gemm_plugin=float32"]),
        ("trt_convert dem", ["demo", "demo:gpt2", "demo:llama"]),
        ("%trt_quantize demo --qformat in", ["int8_wo", "int4_wo", "int4_awq", "int4_gptq", "int8_sq"]),
    ],
)
def test_ipython_offers_options_and_choices(
    shell: InteractiveShell, in_tmp: Path, line: str, offered: list[str]
) -> None:
    assert tab(shell, line) == offered


def test_other_lines_are_left_alone(shell: InteractiveShell) -> None:
    for line in ("print(", "%timeit --ma", "%trt_nothing --ma", "x = 3 --ma"):
        assert completions(line, shell) == ("", [])


def test_folders_are_offered_where_they_go(shell: InteractiveShell, in_tmp: Path) -> None:
    (in_tmp / "engines" / "a").mkdir(parents=True)
    (in_tmp / "engine.txt").touch()
    assert "engines/" in tab(shell, "%trt_run eng")
    assert "engines/a/" in tab(shell, "%trt_run --engine_dir engines/")
    assert "--engine_dir=engines/a/" in tab(shell, "%trt_run --engine_dir=engines/")


def test_variables_are_offered_where_values_go(shell: InteractiveShell, in_tmp: Path) -> None:
    shell.user_ns.update(my_engine="e", my_size=3, _hidden=1)
    assert "engine_dir=my_engine" in tab(shell, "%trt_run engine_dir=my_")
    assert tab(shell, "%trt_run e --top_k $my_") == ["$my_engine", "$my_size"]
    offered = [one.text for one in completions("%trt_run e --top_k ", shell)[1]]
    assert "$my_size" in offered
    assert "$_hidden" not in offered
