"""The runtime over the real backends: what Hugging Face generates, the engines generate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.runtime.engines import LIMITS, engine_of
from tests.runtime.tiny_models import prompts, tiny_gpt2, tiny_llama

from trtbench_lab.errors import EngineError, RequestError
from trtbench_lab.evaluation.compare import compare
from trtbench_lab.evaluation.perplexity import perplexity
from trtbench_lab.runtime import HFRunner, ModelRunner
from trtbench_lab.runtime.text import new_tokens_of
from trtbench_lab.specs import SamplingConfig

MODELS = {"gpt2": tiny_gpt2, "llama": tiny_llama}


@pytest.fixture(scope="module", params=[("gpt2", "onnxruntime"), ("llama", "torch")])
def engine(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    family, backend = request.param
    model = MODELS[family]()
    return model, engine_of(model, backend, tmp_path_factory.mktemp(f"{family} {backend}"))


@pytest.fixture
def sides(engine: Any) -> Any:
    model, built = engine
    with ModelRunner.from_dir(built.directory, prefill_chunk_tokens=7) as runner:
        yield runner, HFRunner(model)


def test_limits_come_from_the_engine(sides, engine):
    runner, _ = sides
    assert {name: getattr(runner.limits, name) for name in LIMITS} == LIMITS
    assert runner.backend == engine[1].config.backend
    assert runner.name == "engine"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 0, "top_p": 0.9, "temperature": 1.2, "random_seed": 3},
        {"repetition_penalty": 1.3, "presence_penalty": 0.5, "min_length": 5, "end_id": [3, 9, 40]},
    ],
)
def test_tokens_are_hugging_faces(sides, options):
    runner, hf = sides
    batch = prompts(5, 17, 1) if "random_seed" not in options else prompts(9)
    ours = runner.generate(batch, max_new_tokens=12, pad_id=0, **options)
    theirs = hf.generate(batch, max_new_tokens=12, pad_id=0, **options)
    assert torch.equal(ours["output_ids"], theirs["output_ids"])
    assert ours["finish_reasons"] == theirs["finish_reasons"]
    assert len(set(new_tokens_of(ours, 0))) > 3


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
def test_beams_are_hugging_faces(sides, early_stopping):
    runner, hf = sides
    options = {
        "max_new_tokens": 9,
        "num_beams": 3,
        "end_id": list(range(0, 96, 8)),
        "pad_id": 1,
        "early_stopping": early_stopping,
        "length_penalty": 0.7,
    }
    ours, theirs = (side.generate(prompts(6, 11, seed=7), **options) for side in (runner, hf))
    assert torch.equal(ours["output_ids"], theirs["output_ids"])
    assert torch.allclose(ours["sequences_scores"], theirs["sequences_scores"], atol=1e-4)


def test_logits_are_hugging_faces(sides):
    """1e-4 of the logits' range: the product's bound between an engine and Hugging Face."""
    runner, hf = sides
    batch = prompts(30, 8)
    for ours, theirs in zip(runner.logits_of(batch), hf.logits_of(batch), strict=True):
        assert (ours - theirs).abs().max() < 1e-4 * (theirs.max() - theirs.min())


def test_the_longest_request_and_one_beyond(sides):
    runner, hf = sides
    (prompt,) = prompts(64)
    outputs = runner.generate([prompt], max_new_tokens=36)
    assert new_tokens_of(outputs, 0) == new_tokens_of(hf.generate([prompt], max_new_tokens=36), 0)
    with pytest.raises(RequestError, match="max_seq_len is 100"):
        runner.generate([prompt], max_new_tokens=37)
    with pytest.raises(RequestError, match="max_batch_size=5"):
        runner.generate(prompts(1, 1, 1, 1, 1), max_new_tokens=1)


def test_requests_do_not_leave_traces(sides):
    """A cache that is used again, larger and smaller, gives what a fresh one gave."""
    runner, _ = sides
    first = runner.generate(prompts(5, 9), max_new_tokens=8)["output_ids"]
    runner.generate(prompts(60), max_new_tokens=30)
    runner.generate(prompts(4), max_new_tokens=5, num_beams=3)
    assert torch.equal(runner.generate(prompts(5, 9), max_new_tokens=8)["output_ids"], first)


def test_side_by_side_and_perplexity(sides):
    runner, hf = sides
    result = compare(runner, hf, prompts(6, 20), SamplingConfig(max_new_tokens=10))
    assert result.num_diverged == 0
    assert result.metrics["top1_agreement"] == 100.0
    assert result.engine_memory.weights_bytes > 0
    scores = perplexity(runner, hf, prompts(50), window=30)
    assert scores.engine_perplexity == pytest.approx(scores.hf_perplexity, rel=1e-4)


def test_an_engine_of_several_ranks_is_refused(engine):
    _, built = engine
    config = built.config.pretrained_config

    class TwoRanks:
        directory = built.directory

        class config:
            pretrained_config = config.replace(mapping=config.mapping.replace(world_size=2, tp_size=2))

    with pytest.raises(EngineError, match=r"2 rank\(s\) are needed, and 1 was started"):
        ModelRunner.from_engine(TwoRanks())
