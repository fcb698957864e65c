"""Errors say what, where and what to do, survive process borders, and suggest the near name."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtbench_lab import errors
from trtbench_lab.errors import (
    BuildCancelled,
    BuildError,
    MissingPackageError,
    SpecError,
    TrtbenchError,
    did_you_mean,
    require,
    suggest,
)

ALL_ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TrtbenchError)]


def test_text_names_place_fault_and_remedy() -> None:
    error = SpecError("tp_size is 3.", where="config.json", remedy="Use 2.")
    assert str(error) == "config.json: tp_size is 3.\n  → Use 2."


def test_text_without_place_and_remedy_is_the_sentence() -> None:
    assert str(SpecError("tp_size is 3.")) == "tp_size is 3."


def test_details_stay_out_of_the_text() -> None:
    assert "log tail" not in str(BuildError("It failed.", details="log tail"))


@pytest.mark.parametrize("kind", ALL_ERRORS)
def test_pickling_keeps_kind_and_fields(kind: type[TrtbenchError]) -> None:
    error = kind("what", where="where", remedy="remedy", details="details")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert (copy.what, copy.where, copy.remedy, copy.details) == ("what", "where", "remedy", "details")
    assert copy.args == ("what",)


def _fail() -> None:
    raise BuildCancelled("Stopped.", where="engine", remedy="Start again.")


def test_error_crosses_a_process_border() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        error = pool.submit(_fail).exception(timeout=60)
    assert isinstance(error, BuildCancelled)
    assert error.remedy == "Start again."


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("max_batchsize", "max_batch_size"), ("FP8", "fp8"), ("Float16", "float16"), ("zzz", None), ("", None)],
)
def test_suggest(typed: str, meant: str | None) -> None:
    assert suggest(typed, ["max_batch_size", "float16", "fp8", "tp_size"]) == meant


def test_unknown_name_far_from_all_lists_the_choices_up_to_the_limit() -> None:
    assert did_you_mean("zzz", ["b", "a"]) == "Known: a, b."
    assert did_you_mean("zzz", [f"name{i}" for i in range(5)], limit=2) == "Known: name0, name1, …."


@given(st.text(max_size=30), st.lists(st.text(max_size=30), max_size=5))
def test_suggestion_is_always_one_of_the_choices(name: str, choices: list[str]) -> None:
    assert suggest(name, choices) in {None, *choices}


def test_missing_extra_names_the_extra() -> None:
    with pytest.raises(MissingPackageError) as caught:
        require("a_package_that_is_not_there", extra="mpi", purpose="start ranks")
    assert "start ranks" in str(caught.value)
    assert "pip install 'trtbench-lab[mpi]'" in str(caught.value)


@pytest.mark.parametrize(
    "body",
    ["raise OSError('libcudart.so.13: cannot open')", "import another_that_is_not_there", "import os.x"],
)
def test_installed_but_broken_package_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    (tmp_path / "broken_package.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingPackageError, match="installed and does not load") as caught:
        require("broken_package", extra="tensorrt", purpose="build engines")
    assert "not installed" not in str(caught.value)


def test_require_returns_the_module() -> None:
    import json

    assert require("json", extra="lab", purpose="read") is json


def test_ground_floor_imports_nothing_heavy() -> None:
    code = (
        "import sys, trtbench_lab.errors, trtbench_lab.progress, trtbench_lab.storage;"
        "print([m for m in ('torch','numpy','onnx','xxhash','transformers','huggingface_hub') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"


def test_a_place_that_begins_the_sentence_is_said_once():
    assert str(SpecError("--top_p must be at most 1.", where="--top_p")) == "--top_p must be at most 1."
    assert str(SpecError("--top_p2 is wrong.", where="--top_p")) == "--top_p: --top_p2 is wrong."
