"""Every verb on the shipped model, in the order of the tour; each result is found again in the history."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trtbench_lab import workbench
from trtbench_lab.benchmark.side_by_side import BenchCsv, BenchPair
from trtbench_lab.checkpoint import ShardPlan
from trtbench_lab.demo import demo_corpus_path, demo_model_dir
from trtbench_lab.errors import EvaluationError, RequestError, ResultsError, SpecError, StorageError, TrtbenchError
from trtbench_lab.results.database import ResultsDatabase
from trtbench_lab.specs import BenchConfig, BuildConfig, CalibrationConfig, Mapping, SamplingConfig
from trtbench_lab.specs.requests import (
    BenchSpec,
    BuildSpec,
    CompareSpec,
    ConvertSpec,
    HistorySpec,
    QuantizeSpec,
    RunSpec,
    SummarizeSpec,
)

LIMITS = {"max_batch_size": 2, "max_input_len": 448, "max_seq_len": 560}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home folder and one set of engines for the whole file."""
    return tmp_path_factory.mktemp("whole path, größe")


@pytest.fixture(autouse=True)
def shared_home(home: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the file's home in place of each test's own."""
    monkeypatch.setenv("TRTBENCH_HOME", str(home))


@pytest.fixture(scope="module")
def engine_dir(home: Path) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRTBENCH_HOME", str(home))
        workbench.convert(ConvertSpec(source="demo:gpt2", output_dir=str(home / "checkpoint"), dtype="float32"))
        spec = BuildSpec(
            checkpoint_dir=str(home / "checkpoint"),
            output_dir=str(home / "engine"),
            build_config=BuildConfig(backend="onnxruntime", **LIMITS),
        )
        return workbench.build(spec).output_dir


@pytest.fixture(scope="module")
def story() -> str:
    line = demo_corpus_path("test").read_text(encoding="utf-8").splitlines()[3]
    return json.loads(line)["article"] + " TL;DR: "


def greedy(tokens: int) -> SamplingConfig:
    return SamplingConfig(max_new_tokens=tokens)


def test_engine_knows_its_model(engine_dir: str):
    from trtbench_lab import Engine

    assert Engine.from_dir(engine_dir).tokenizer_dir == demo_model_dir("gpt2")


def test_streamed_text_is_the_text(engine_dir: str, story: str):
    whole = workbench.run(RunSpec(engine_dir=engine_dir, input_text=(story,), sampling=greedy(40)))
    pieces: list[str] = []
    spec = RunSpec(engine_dir=engine_dir, input_text=(story,), sampling=greedy(40), streaming=True)
    streamed = workbench.run(spec, on_text=pieces.append)
    assert len(pieces) > 5
    assert "".join(pieces) == streamed.texts[0][0] == whole.texts[0][0]
    assert whole.ttft_ms < whole.latency_ms


def test_tokens_from_a_file_and_outputs_to_files(engine_dir: str, tmp_path: Path):
    import numpy as np

    (tmp_path / "in.csv").write_text("45,120,7\n300,2\n")
    spec = RunSpec(
        engine_dir=engine_dir,
        input_file=str(tmp_path / "in.csv"),
        sampling=SamplingConfig(max_new_tokens=6, end_id=-1),
        output_csv=str(tmp_path / "out.csv"),
        output_npy=str(tmp_path / "out.npy"),
        output_logits_npy=str(tmp_path / "logits.npy"),
    )
    result = workbench.run(spec)
    rows = [[int(cell) for cell in line.split(",")] for line in (tmp_path / "out.csv").read_text().splitlines()]
    assert rows == [row[0] for row in result.output_ids]
    assert np.load(tmp_path / "out.npy").shape == (2, 1, 9)
    logits = np.load(tmp_path / "logits.npy")
    assert logits[0, 0].argmax(-1).tolist() == rows[0]


def test_words_stop_and_are_avoided(engine_dir: str, story: str):
    plain = workbench.run(RunSpec(engine_dir=engine_dir, input_text=(story,), sampling=greedy(30))).texts[0][0]
    word = plain.split()[4]
    stopped = workbench.run(
        RunSpec(engine_dir=engine_dir, input_text=(story,), sampling=greedy(30), stop_words=(" " + word,))
    )
    assert len(stopped.texts[0][0]) < len(plain)
    avoided = workbench.run(
        RunSpec(engine_dir=engine_dir, input_text=(story,), sampling=greedy(30), bad_words=(" " + word,))
    )
    assert f" {word}" not in avoided.texts[0][0][: len(plain.split(word)[0]) + len(word) + 1]


def test_comparison_agrees_with_hugging_face(engine_dir: str, story: str):
    result = workbench.compare(CompareSpec(engine_dir=engine_dir, input_text=(story,), sampling=greedy(24), warm_up=0))
    (prompt,) = result.prompts
    assert prompt.engine.tokens == prompt.hf.tokens
    assert prompt.divergence is None
    assert prompt.prompt == story


def test_scores_name_the_backend_and_equal_hugging_face(engine_dir: str, tmp_path: Path):
    spec = SummarizeSpec(
        engine_dir=engine_dir, test_hf=True, max_ite=2, check_accuracy=True, output_dir=str(tmp_path / "texts")
    )
    result = workbench.summarize(spec)
    assert result.backend == "onnxruntime"
    assert result.engine.rouge[0].score("rouge1") == result.hf.rouge[0].score("rouge1")
    assert len(list((tmp_path / "texts").glob("*.reference.txt"))) == 2


def test_failed_check_of_accuracy_keeps_the_result(engine_dir: str):
    before = ResultsDatabase().query(kind="summarize").total
    spec = SummarizeSpec(
        engine_dir=engine_dir,
        max_ite=1,
        sampling=greedy(4),
        check_accuracy=True,
        tensorrt_llm_rouge1_threshold=100.0,
        bootstrap_samples=0,
    )
    with pytest.raises(EvaluationError, match="FAILED"):
        workbench.summarize(spec)
    assert ResultsDatabase().query(kind="summarize").total == before + 1


def test_benchmark_of_both_sides(engine_dir: str, tmp_path: Path):
    grid = BenchConfig(batch_size=(1, 2), input_output_len=((12, 4),), num_runs=2, duration_s=0, warm_up=1)
    spec = BenchSpec(engine_dir=engine_dir, bench=grid, test_hf=True, output_csv=str(tmp_path / "grid.csv"))
    result = workbench.bench(spec)
    assert isinstance(result, BenchPair)
    assert [point.label for point in result.engine.points] == [point.label for point in result.huggingface.points]
    assert result.engine.backend == "onnxruntime"
    assert len((tmp_path / "grid.csv").read_text().splitlines()) == 5
    assert isinstance(workbench.bench(BenchSpec(engine_dir=engine_dir, bench=grid, csv=True)), BenchCsv)


def test_benchmark_beyond_the_engine_is_refused_before_it_runs(engine_dir: str):
    grid = BenchConfig(batch_size=(64,), input_output_len=((12, 4),), num_runs=1, duration_s=0)
    with pytest.raises(RequestError, match="max_batch_size"):
        workbench.bench(BenchSpec(engine_dir=engine_dir, bench=grid))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_quantized_llama_from_source_to_text(home: Path, backend: str, story: str):
    """Weight-only INT8 of the second demo, head included: the text is the unquantized one's for a good while."""
    step = workbench.quantize(
        QuantizeSpec(
            source="demo:llama",
            qformat="int8_wo",
            group_size=64,
            quantize_lm_head=True,
            dtype="float32",
            output_dir=str(home / f"llama-int8-{backend}"),
        )
    )
    assert len(step.layers) == 4 * 5 + 1  # qkv, dense, fc, gate and proj of 4 layers, and the head
    built = workbench.build(
        BuildSpec(checkpoint_dir=step.output_dir, build_config=BuildConfig(backend=backend, **LIMITS))
    )
    assert built.backend == backend
    compared = workbench.compare(
        CompareSpec(engine_dir=built.output_dir, input_text=(story,), sampling=greedy(16), warm_up=0)
    )
    assert compared.prompts[0].engine.tokens == compared.prompts[0].hf.tokens


def test_conversion_into_the_cache_happens_once(home: Path):
    first = workbench.convert(ConvertSpec(source="demo:llama", mapping=Mapping(world_size=2, tp_size=2)))
    second = workbench.convert(ConvertSpec(source="demo:llama", mapping=Mapping(world_size=2, tp_size=2)))
    assert first.output_dir == second.output_dir
    assert not first.notes
    assert "cache" in second.notes[0]
    assert len(second.bytes_by_rank) == 2


def test_plan_writes_nothing(home: Path, tmp_path: Path):
    plan = workbench.convert(ConvertSpec(source="demo:llama", output_dir=str(tmp_path / "out"), dry_run=True))
    assert isinstance(plan, ShardPlan)
    assert not (tmp_path / "out").exists()


def test_building_from_a_model_folder_converts_first(home: Path, engine_dir: str):
    step = workbench.build(
        BuildSpec(checkpoint_dir="demo:gpt2", build_config=BuildConfig(backend="torch", **LIMITS), name="from source")
    )
    assert step.backend == "torch"
    assert ResultsDatabase().query(kind="build", name="from source").total


def test_wrong_requests_are_plain_sentences(engine_dir: str, home: Path):
    refused: list[tuple[type[TrtbenchError], object]] = [
        (SpecError, lambda: workbench.convert(ConvertSpec(source="demo:gpt2", family="starcoder"))),
        (SpecError, lambda: workbench.convert(ConvertSpec(source="demo:gpt2", family="gtp2"))),
        (StorageError, lambda: workbench.convert(ConvertSpec(source="demo:gpt2", output_dir=str(home / "checkpoint")))),
        (SpecError, lambda: workbench.build(BuildSpec(checkpoint_dir=str(home / "checkpoint"), world_size=2))),
        (RequestError, lambda: workbench.run(RunSpec(engine_dir=engine_dir, input_text=("",)))),
        (RequestError, lambda: workbench.run(RunSpec(engine_dir=engine_dir, input_text=("word " * 600,)))),
        (ResultsError, lambda: workbench.history(HistorySpec(ids=("ffffffffffff",)))),
        (ResultsError, lambda: workbench.history(HistorySpec(export="history.xlsx"))),
    ]
    for kind, call in refused:
        with pytest.raises(kind) as caught:
            call()  # type: ignore[operator]
        assert caught.value.what.endswith(".")


def test_everything_is_in_the_history(home: Path, engine_dir: str, tmp_path: Path):
    view = workbench.history(HistorySpec(last=100))
    assert {"convert", "build"} <= {row.kind for row in view}
    newest = view.ids[0]
    assert workbench.history(HistorySpec(ids=(newest[:8],))).id == newest
    builds = workbench.history(HistorySpec(kind="build")).ids
    compared = workbench.history(HistorySpec(ids=tuple(builds[:1] * 2), compare=True))
    assert len(compared.ids) == 2
    workbench.history(HistorySpec(kind="build", export=str(tmp_path / "builds.csv")))
    assert len((tmp_path / "builds.csv").read_text().splitlines()) == 1 + len(builds)


def test_history_that_cannot_be_written_costs_no_result(
    engine_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from trtbench_lab.workbench.keeping import HistoryWarning

    def refuse(*_: object) -> None:
        raise ResultsError("The database is damaged.")

    monkeypatch.setattr(ResultsDatabase, "add", refuse)
    with pytest.warns(HistoryWarning, match="damaged"):
        result = workbench.run(RunSpec(engine_dir=engine_dir, input_text=("Once",), sampling=greedy(3)))
    assert result.output_ids[0][0]


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({"qformat": "int4_awq"}, "W4A16_AWQ, groups of 128"),
        ({"qformat": "int8_sq", "per_token": True, "per_channel": True}, "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"),
        ({"qformat": "fp8", "kv_cache_dtype": "fp8"}, "FP8, K/V cache FP8"),
    ],
)
def test_calibrated_checkpoints_say_what_they_were_calibrated_on(home: Path, options: dict, label: str):
    asked = CalibrationConfig(calib_size=4, calib_max_seq_length=64, calib_device="cpu")
    step = workbench.quantize(QuantizeSpec(source="demo:gpt2", calibration=asked, **options))
    assert step.quantization == label
    assert {"source": "demo", "size": 4, "length": 64, "seed": 0}.items() <= step.calibration.items()
    assert step.calibration["digest"].startswith("sha256:")
    assert "calibrated on" in repr(step)
    assert len(step.layers) == 16
    assert all(layer["output_relative_error"] < 0.2 for layer in step.layers)
    again = workbench.quantize(QuantizeSpec(source="demo:gpt2", calibration=asked, **options))
    assert again.output_dir == step.output_dir
    assert "cache" in again.notes[0]
    # What was lost is told once more, from the checkpoint's own folder.
    assert (again.layers, again.calibration) == (step.layers, step.calibration)


def test_little_calibration_text_is_said_and_none_is_refused(home: Path, tmp_path: Path):
    text = tmp_path / "few.jsonl"
    text.write_text("".join('{"text": "The mayor of Tellbury spoke on 2 May."}\n' for _ in range(20)))
    asked = CalibrationConfig(calib_dataset=str(text), calib_size=64, calib_max_seq_length=32, calib_device="cpu")
    step = workbench.quantize(QuantizeSpec(source="demo:gpt2", qformat="fp8", calibration=asked))
    assert any("64 were asked for" in note for note in step.notes)
    text.write_text(text.read_text().replace("2 May", "3 June"))
    other = workbench.quantize(QuantizeSpec(source="demo:gpt2", qformat="fp8", calibration=asked))
    assert other.output_dir != step.output_dir  # other words in the same place are another calibration
    assert other.calibration["digest"] != step.calibration["digest"]
    with pytest.raises(EvaluationError, match="no such file"):
        workbench.quantize(
            QuantizeSpec(source="demo:gpt2", qformat="fp8", calibration=CalibrationConfig(calib_dataset="nowhere"))
        )


def test_a_model_quantized_elsewhere_is_converted_as_it_is(home: Path, tmp_path: Path):
    import numpy as np
    from tests.intake.quantized import writers

    random = np.random.default_rng(0)
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False}
    writers.write_folder(tmp_path / "model", lambda _, rows, width: writers.gptq(random, rows, width), quantization)
    plan = workbench.convert(ConvertSpec(source=str(tmp_path / "model"), dry_run=True))
    assert {"weights_scaling_factor", "zero"} <= {row.tensor.rpartition(".")[2] for row in plan}
    step = workbench.convert(ConvertSpec(source=str(tmp_path / "model")))
    assert step.quantization == "W4A16_GPTQ, groups of 32"
    assert step.written_bytes > plan.total_bytes()  # the header
    with pytest.raises(SpecError, match="quantized by another tool already"):
        workbench.quantize(QuantizeSpec(source=str(tmp_path / "model")))
