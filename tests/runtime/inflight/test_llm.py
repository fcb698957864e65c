"""`LLM` on the demo models: a request in a crowded batch gives what Hugging Face gives it alone; text, streams."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from trtbench_lab import workbench
from trtbench_lab.demo import demo_corpus_path, demo_model_dir
from trtbench_lab.engine import Engine
from trtbench_lab.errors import RequestError
from trtbench_lab.runtime import LLM, HFRunner
from trtbench_lab.runtime.text import new_tokens_of
from trtbench_lab.specs import BenchConfig, BuildConfig, PluginConfig, SamplingConfig
from trtbench_lab.specs.requests import BenchSpec, BuildSpec, RunSpec


def build(family: str, folder: Path, **plugins: Any) -> Engine:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRTBENCH_HOME", str(folder / "home"))
        config = BuildConfig(
            backend="torch",
            max_batch_size=6,
            max_input_len=400,
            max_seq_len=512,
            plugin_config=PluginConfig(tokens_per_block=16, **plugins),
        )
        spec = BuildSpec(checkpoint_dir=f"demo:{family}", output_dir=str(folder / family), build_config=config)
        return Engine.from_dir(Path(workbench.verb("build")(spec).output_dir))


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(family: str, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return build(family, tmp_path_factory.mktemp("engine"), use_inflight_batching=True)


@pytest.fixture(scope="module")
def llm(engine: Engine) -> Any:
    with LLM(engine, max_step_tokens=96) as made:
        yield made


def articles(count: int) -> list[str]:
    lines = demo_corpus_path("test").read_text(encoding="utf-8").splitlines()[:count]
    return [json.loads(line)["article"] for line in lines]


@pytest.fixture(scope="module")
def alone(family: str, llm: LLM) -> list[tuple[list[int], list[int]]]:
    """(prompt, 16 greedy tokens) of prompts of many lengths, each by Hugging Face in a batch of one."""
    hf = HFRunner.from_dir(demo_model_dir(family), dtype="float32")
    found = []
    for i, text in enumerate(articles(9)):
        prompt = llm.tokenizer.encode(text)[: 5 + 23 * i]
        outputs = hf.generate([prompt], max_new_tokens=16, end_id=llm.tokenizer.eos_token_id)
        found.append((prompt, new_tokens_of(outputs, 0, with_end=True)))
    return found


def test_in_a_crowded_batch_every_request_gives_what_it_gives_alone(llm: LLM, alone: list[Any]) -> None:
    outputs = llm.generate([prompt for prompt, _ in alone], SamplingConfig(max_new_tokens=16, end_id=_end(llm)))
    for output, (prompt, expected) in zip(outputs, alone, strict=True):
        assert output.prompt_token_ids == prompt
        assert output.outputs[0].token_ids == expected
        assert output.text == llm.tokenizer.decode(expected, skip_special_tokens=True)
    # Once more, now with their beginnings in the cache, and all in another order.
    again = [llm.generate_async(prompt, {"max_tokens": 16}) for prompt, _ in reversed(alone)]
    for generation, (_, expected) in zip(again, reversed(alone), strict=True):
        assert generation.result().outputs[0].token_ids == expected
    assert sum(generation.handle.reused_tokens for generation in again) > 0


def _end(llm: LLM) -> int:
    return int(llm.tokenizer.eos_token_id)


def test_a_cache_too_small_for_all_gives_the_same(engine: Engine, alone: list[Any]) -> None:
    from trtbench_lab.runtime.inflight.executor_runner import block_bytes

    executor = engine.executor(0)
    room = 16 * block_bytes(executor, 16)
    executor.close()
    with LLM(engine, kv_cache_bytes=room) as small:
        assert small.pool.num_blocks == 16
        assert "The budget of" in str(small.pool)
        handles = [small.batcher.submit(p, max_new_tokens=16, end_id=_end(small)) for p, _ in alone]
        assert [handle.result() for handle in handles] == [expected for _, expected in alone]
        with pytest.raises(RequestError, match="the whole cache has 15"):
            small.generate([1] * 300, {"max_tokens": 4})


def test_text_streams_in_pieces_that_make_up_the_whole(llm: LLM) -> None:
    prompt = articles(1)[0][:60]
    whole = llm.generate(prompt, {"max_tokens": 12}).text
    outputs = list(llm.generate_async(prompt, {"max_tokens": 12}))
    assert "".join(output.text_diff for output in outputs) == outputs[-1].text == whole
    assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]
    assert len(outputs) > 1

    async def read() -> str:
        pieces = [output.text_diff async for output in llm.generate_async(prompt, {"max_tokens": 12})]
        assert (await llm.generate_async(prompt, {"max_tokens": 12}, streaming=False)).text == whole
        return "".join(pieces)

    assert asyncio.run(read()) == whole


def test_each_prompt_may_have_its_own_sampling(llm: LLM) -> None:
    outputs = llm.generate(["The", "The"], [{"max_tokens": 3}, {"max_tokens": 6, "ignore_eos": True}])
    assert [len(output.outputs[0].token_ids) for output in outputs] == [3, 6]
    with pytest.raises(RequestError, match="1 sampling settings were given for 2 prompts"):
        llm.generate(["The", "The"], [{}])
    with pytest.raises(RequestError, match="Did you mean 'top_p'"):
        llm.generate("The", {"topp": 0.9})
    with pytest.raises(RequestError, match="max_new_tokens"):
        llm.generate(["The", "The"], [{"max_tokens": 3}, {"max_tokens": 3000}])
    assert llm.batcher.num_unfinished == 0


def test_a_stop_text_ends_the_text(llm: LLM) -> None:
    whole = llm.generate("The", {"max_tokens": 30})
    tokens = whole.outputs[0].token_ids
    word = llm.tokenizer.decode(tokens[3:4])
    if llm.tokenizer.encode(word, add_special_tokens=False) == tokens[3:4]:
        stopped = llm.generate("The", {"max_tokens": 30, "stop": word}).outputs[0]
        assert stopped.finish_reason == "stop_words"
        assert len(stopped.token_ids) <= 4
    stopped = llm.generate("The", {"max_tokens": 30, "stop_words": [tokens[2:4]]}).outputs[0]
    assert stopped.token_ids == tokens[:4]


def test_log_probs_add_up(llm: LLM) -> None:
    completion = llm.generate("The", {"max_tokens": 5, "logprobs": 1}).outputs[0]
    assert len(completion.log_probs) == len(completion.token_ids)
    assert completion.cumulative_log_prob == pytest.approx(sum(completion.log_probs))


def test_without_a_tokenizer_there_are_token_ids_only(engine: Engine) -> None:
    with LLM(engine, tokenizer=False) as bare:
        output = bare.generate([5, 6, 7], {"max_tokens": 3, "end_id": None})
        assert output.text == " ".join(map(str, output.outputs[0].token_ids))
        with pytest.raises(RequestError, match="there is no tokenizer"):
            bare.generate("text")
    assert "K/V cache" in repr(bare)


def test_a_file_of_requests_is_run_and_written(engine: Engine, tmp_path: Path, llm: LLM) -> None:
    rows = [
        {"id": "a", "prompt": "The town", "max_tokens": 4},
        {"prompt": "The town", "max_tokens": 4, "temperature": 0.9, "top_k": 30, "seed": 2},
        {"input_ids": [5, 6], "output_tokens": 3},
        {"prompt": "far too much", "max_tokens": 9000},
    ]
    path, out = tmp_path / "requests.jsonl", tmp_path / "results.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    pieces: list[str] = []
    spec = RunSpec(
        engine_dir=str(engine.directory),
        prompts=str(path),
        output_jsonl=str(out),
        streaming=True,
        sampling=SamplingConfig(max_new_tokens=50),
    )
    step = workbench.verb("run")(spec, on_text=pieces.append)
    written = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["line"] for row in written] == [1, 2, 3, 4]
    assert written[0]["id"] == "a"
    assert written[0]["text"] == llm.generate("The town", {"max_tokens": 4}).text == "".join(pieces)
    assert written[0]["text"] == step.texts[0][0]
    assert len(written[2]["token_ids"]) <= 3
    assert "at most 512" in written[3]["error"]
    assert any(note.startswith("line 4:") for note in step.notes)
    assert len(step.prompts) == 3


def test_the_serving_benchmark_by_its_verb(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    rows = [{"task_id": i, "prompt": "The town council", "output_tokens": 3 + i} for i in range(4)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    bench = BenchConfig(mode="serving", dataset=str(path), request_rate=200.0, goodput="ttft:60000", warm_up=1)
    result = workbench.verb("bench")(BenchSpec(engine_dir=str(engine.directory), bench=bench))
    assert [len(request.token_ns) for request in result.requests] == [3, 4, 5, 6]
    assert result.goodput_per_second == result.requests_per_second
    assert result.line.startswith("[SERVING] policy in-flight requests 4 completed 4 request_rate 200")
    assert result.engine_load_s > 0


def test_fused_steps_give_the_same(engine: Engine, alone: list[Any]) -> None:
    """What runs on a GPU, here by the library's forms of its kernels; tokens are read a step late, as there."""
    from trtbench_lab.runtime import EngineLimits
    from trtbench_lab.runtime.inflight.batcher import InflightBatcher
    from trtbench_lab.runtime.inflight.graph_runner import GraphStepRunner
    from trtbench_lab.runtime.inflight.stepper import StepLimits

    executor: Any = engine.executor(0)
    vocab_size = executor.config.vocab_size
    # Steps of 96 tokens cut long prompts in pieces that go on beside rows that decode; 30 blocks put requests off.
    runner = GraphStepRunner(executor, StepLimits(5, 96, 30, 16, 32, vocab_size))
    runner.queue_depth = 2
    batcher = InflightBatcher(runner, EngineLimits(vocab_size=vocab_size, max_seq_len=512))
    end_id = engine_end(engine)
    handles = [batcher.submit(prompt, max_new_tokens=16, end_id=end_id) for prompt, _ in alone]
    sampled = batcher.submit(alone[0][0], max_new_tokens=8, top_k=5, random_seed=3)
    assert [handle.result() for handle in handles] == [expected for _, expected in alone]
    again = batcher.submit(alone[0][0], max_new_tokens=8, top_k=5, random_seed=3)
    assert again.result() == sampled.result()
    batcher.close()


@pytest.mark.gpu
def test_no_step_of_a_running_batch_waits_for_the_device(engine: Engine) -> None:
    """The host waits for a step's event only: in the second round torch itself refuses everything else."""
    import torch

    kinds: list[dict[str, Any]] = [
        {},
        {"temperature": 0.8, "top_k": 5, "random_seed": 3},
        {"temperature": 1.2, "top_p": 0.8, "random_seed": 4},
        {"repetition_penalty": 1.2, "presence_penalty": 0.1},
        {"min_length": 4},
        {"output_log_probs": True},
    ]
    with LLM(engine, max_running=1, max_step_tokens=96) as llm:
        for mode in ("default", "error"):
            torch.cuda.set_sync_debug_mode(mode)
            try:
                for kind in kinds:
                    outputs = llm.generate([list(range(5, 125))], SamplingConfig(max_new_tokens=6, **kind))
                    assert outputs[0].outputs[0].token_ids
            finally:
                torch.cuda.set_sync_debug_mode("default")


def engine_end(engine: Engine) -> int:
    from trtbench_lab.intake.tokenizer import load_tokenizer

    assert engine.tokenizer_dir is not None
    return int(load_tokenizer(engine.tokenizer_dir).eos_token_id)
