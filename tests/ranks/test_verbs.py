"""`convert`, `build --parallel_build`, `summarize` and `bench` of a model on two ranks, as a shell runs them."""

from __future__ import annotations

import re

import pytest
from tests.ranks.direct_build import build_here
from tests.ranks.worlds import on_ranks

from trtbench_lab import workbench
from trtbench_lab.demo import demo_model_dir
from trtbench_lab.engine import Engine, build, workload
from trtbench_lab.results.database import ResultsDatabase
from trtbench_lab.specs import BuildConfig, Mapping
from trtbench_lab.specs.requests import ConvertSpec

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(1800)]

CONFIG = BuildConfig(backend="torch", max_batch_size=2, max_input_len=448, max_seq_len=560)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verbs") / "checkpoint"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRTBENCH_HOME", str(folder.parent / "home"))
        spec = ConvertSpec(
            source="demo:llama", dtype="float32", mapping=Mapping(tp_size=2), workers=2, output_dir=str(folder)
        )
        workbench.convert(spec)
    return folder


@pytest.fixture(scope="module")
def engine(checkpoint) -> Engine:
    """Built with a process a rank, whatever cores there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workload, "machine_fingerprint", lambda: {"cpu_cores_usable": 2, "gpus": []})
        config = CONFIG.replace(parallel_build=True)
        return build(
            checkpoint, config, checkpoint.parent / "engine", use_cache=False, tokenizer_dir=demo_model_dir("llama")
        )


def test_ranks_that_are_built_side_by_side_are_those_built_in_turn(checkpoint, engine, tmp_path):
    assert engine.build_report.workers == 2
    in_turn = Engine.from_dir(build_here(checkpoint, CONFIG, tmp_path / "in turn"))
    for name in ("rank0.engine", "rank1.engine"):
        assert engine.config.files[name] == in_turn.config.files[name]  # size and digest


def test_two_ranks_summarise_as_hugging_face_does(engine, own_home):
    line = ("trtbench_lab", "summarize", "--engine_dir", str(engine.directory), "--test_hf", "--max_ite", "2")
    done = on_ranks(2, *line, "--output_len", "12", "--max_input_length", "200", "-q", timeout_s=600)
    assert done.returncode == 0, done.stderr
    scores = re.findall(r"^ +rouge(?:1|2|L|Lsum): ([\d.]+)$", done.stdout, re.MULTILINE)
    assert len(scores) == 8  # four of each side, and rank 0 alone speaks
    assert scores[:4] == scores[4:]
    assert ResultsDatabase().query(kind="summarize").total == 1


def test_two_ranks_are_measured_once(engine, own_home):
    line = ("trtbench_lab", "bench", "--engine_dir", str(engine.directory), "--batch_size", "1;2")
    grid = ("--input_output_len", "8,4", "--num_runs", "2", "--warm_up", "1", "--duration", "0", "-q")
    done = on_ranks(2, *line, *grid, timeout_s=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("[BENCHMARK] batch_size") == 2
    assert ResultsDatabase().query(kind="bench").total == 1
