"""What a person sees of the options: help, completion, the option table in the docs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from trtbench_lab.specs.command_line import VERBS
from trtbench_lab.specs.completion import complete, option_at
from trtbench_lab.specs.flags import flag_table
from trtbench_lab.specs.help_text import FaceOption, help_text, overview
from trtbench_lab.specs.requests import REQUESTS

ROOT = Path(__file__).parents[2]
STORE = (FaceOption(("-o", "--store"), "NAME", "Store the result under NAME."),)


def texts(verb: str, *before: str, prefix: str = "") -> list[str]:
    return [completion.text for completion in complete(verb, before, prefix, STORE)]


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_every_option_once(verb: str) -> None:
    text = help_text(verb, f"trtbench {verb}", STORE)
    heads = [line.split()[0] for line in text.splitlines() if line.startswith("  -")]
    assert len(heads) == len(set(heads))
    for option in flag_table(REQUESTS[verb]).options:
        assert option.info.flag in heads
        assert option.meta.help.split()[0] in text
    assert "-o," in heads
    assert max(len(line) for line in text.splitlines()) <= 140


def test_help_tells_type_default_choices_and_spellings() -> None:
    text = help_text("build", "%trt_build")
    entry = text[text.index("--gemm_plugin") : text.index("--rmsnorm_plugin")]
    assert "[auto|float16|bfloat16|float32|disable]" in entry
    assert "default disable" in entry
    assert "--use_gemm_plugin" in entry
    assert text.startswith("%trt_build checkpoint_dir [output_dir] [options]")
    assert "default 8; in sequences; at least 1" in text


def test_overview_names_every_verb() -> None:
    assert all(f"  {verb} " in overview() for verb in VERBS)


def test_choices_follow_their_flag() -> None:
    assert texts("build", "c", "--gemm_plugin") == ["auto", "float16", "bfloat16", "float32", "disable"]
    assert texts("build", "c", "--use_gemm_plugin", prefix="f") == ["float16", "float32"]
    assert texts("build", "c", "--context-fmha") == ["enable", "disable"]
    assert texts("convert", "m", "--dtype", prefix="b") == ["bfloat16"]
    assert texts("build", "c", "--max_batch_size") == []


def test_choices_follow_an_equals_sign() -> None:
    assert texts("build", prefix="--gemm_plugin=b") == ["--gemm_plugin=bfloat16"]
    assert texts("build", prefix="gemm_plugin=f") == ["gemm_plugin=float16", "gemm_plugin=float32"]
    assert texts("build", prefix="nonsense=f") == []


def test_flags_complete_in_our_spelling_first() -> None:
    assert texts("build", prefix="--gem") == ["--gemm_plugin"]
    assert texts("build", prefix="--use_gem") == ["--use_gemm_plugin"]
    assert texts("build", prefix="--max-b") == ["--max_batch_size", "--max_beam_width"]
    assert "--max_batch_size" not in texts("build", "c", "--max_batch_size", "4", prefix="--max_b")
    assert texts("build", prefix="-o") == ["-o"]
    assert texts("build", prefix="max_b") == ["max_batch_size=", "max_beam_width="]


def test_all_options_are_offered_after_two_dashes() -> None:
    offered = texts("run", "e", prefix="--")
    wanted = {option.info.flag for option in flag_table(REQUESTS["run"]).options}
    assert wanted <= set(offered)


def test_demo_models_are_offered_where_models_go() -> None:
    assert texts("convert")[:4] == ["demo", "demo:gpt2", "demo:llama", "--model_dir"]
    assert texts("convert", "--model_dir", prefix="demo:") == ["demo:gpt2", "demo:llama"]
    assert texts("doctor", prefix="t") == ["tensorrt", "torch"]
    assert texts("run", "demo", prefix="d") == []


def test_the_option_at_the_cursor_is_known() -> None:
    def at(verb: str, *before: str, prefix: str = "") -> str | None:
        option = option_at(flag_table(REQUESTS[verb]), before, prefix)
        return None if option is None else option.info.name

    assert at("run") == "engine_dir"
    assert at("run", "e") == "input_text"
    assert at("run", "--engine_dir", "e") == "input_text"
    assert at("run", "engine_dir=e") == "input_text"
    assert at("run", "--top_k") == "top_k"
    assert at("run", prefix="--top_k=") == "top_k"
    assert at("run", prefix="--to") is None
    assert at("build", "--gemm_plugin", "float16", "c") == "output_dir"
    assert at("build", "c", "e") is None


def test_option_table_in_the_docs_is_current() -> None:
    path = ROOT / "scripts" / "make_option_table.py"
    spec = importlib.util.spec_from_file_location("make_option_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert written == module.document(), "run scripts/make_option_table.py"
