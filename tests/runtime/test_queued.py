"""Generation over an engine's own session gives what the padded engine gives, however a request is made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.backends.models import checkpoint_of, random_model
from tests.ranks.direct_build import build_here

from trtbench_lab.errors import RequestError
from trtbench_lab.runtime import ModelRunner
from trtbench_lab.specs import BuildConfig, PluginConfig

PROMPTS = [[5, 9, 2, 44, 17, 3, 8, 60, 21], [7, 7, 1, 90], [33, 2, 5, 6, 71, 18, 4, 2]]
LIMITS = {"backend": "torch", "max_batch_size": 3, "max_input_len": 32, "max_seq_len": 48, "max_beam_width": 2}
PAGED = PluginConfig(gpt_attention_plugin="auto", tokens_per_block=16)
FORMS = {
    "padded": PluginConfig(
        gpt_attention_plugin="disable", context_fmha=False, remove_input_padding=False, paged_kv_cache=False
    ),
    "paged": PAGED,
    "contiguous": PAGED.replace(paged_kv_cache=False),
}


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelRunner]:
    folder = tmp_path_factory.mktemp("queued")
    checkpoint_of(random_model("llama", folder / "hf"), folder / "checkpoint")
    return {name: runner_of(folder, name, plugins) for name, plugins in FORMS.items()}


def runner_of(folder: Path, name: str, plugins: PluginConfig, **changes: object) -> ModelRunner:
    config = BuildConfig(**{**LIMITS, "plugin_config": plugins, "compute_dtype": "float32", "opt_level": 0, **changes})
    return ModelRunner.from_dir(build_here(folder / "checkpoint", config, folder / name))


@pytest.mark.parametrize("form", ["paged", "contiguous"])
@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"end_id": 40},
        {"repetition_penalty": 1.3, "presence_penalty": 0.2, "frequency_penalty": 0.1},
        {"min_length": 3, "end_id": 12},
        {"stop_words": [[3], [17, 2]]},
        {"bad_words": [[5], [2, 9]]},
        {"num_beams": 2},
    ],
    ids=lambda keywords: "-".join(keywords) or "plain",
)
def test_every_kind_of_request(engines: dict[str, ModelRunner], form: str, keywords: dict[str, object]) -> None:
    theirs = engines["padded"].generate(PROMPTS, max_new_tokens=8, **keywords)
    ours = engines[form].generate(PROMPTS, max_new_tokens=8, **keywords)
    assert torch.equal(ours["output_ids"], theirs["output_ids"])
    assert torch.equal(ours["sequence_lengths"], theirs["sequence_lengths"])
    assert ours["finish_reasons"] == theirs["finish_reasons"]


@pytest.mark.parametrize("keywords", [{"top_k": 5}, {"top_p": 0.7, "temperature": 1.4}, {"top_k": 8, "top_p": 0.5}])
def test_sampled_tokens_follow_the_seed(engines: dict[str, ModelRunner], keywords: dict[str, object]) -> None:
    theirs = engines["padded"].generate(PROMPTS, max_new_tokens=6, random_seed=[1, 2, 3], **keywords)["output_ids"]
    ours = engines["paged"].generate(PROMPTS, max_new_tokens=6, random_seed=[1, 2, 3], **keywords)["output_ids"]
    assert torch.equal(ours, theirs)


def test_logits_log_probs_and_the_prompts_own_logits(engines: dict[str, ModelRunner]) -> None:
    keywords = {"max_new_tokens": 5, "output_logits": True, "output_log_probs": True}
    theirs, ours = (engines[form].generate(PROMPTS, **keywords) for form in ("padded", "paged"))
    # Both sum in float32, in another order: 1e-4 of logits around 10.
    assert torch.allclose(ours["generation_logits"], theirs["generation_logits"], atol=1e-3)
    assert torch.allclose(ours["log_probs"], theirs["log_probs"], atol=1e-3)
    both = [
        engines[form].generate(PROMPTS, max_new_tokens=2, output_context_logits=True) for form in ("padded", "paged")
    ]
    for one, other in zip(both[0]["context_logits"], both[1]["context_logits"], strict=True):
        assert torch.allclose(one, other, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"repetition_penalty": 1.3, "presence_penalty": 0.2, "frequency_penalty": 0.1},
        {"min_length": 9, "end_id": 12},
        {"top_k": 5, "top_p": 0.7, "temperature": 1.4, "random_seed": [1, 2, 3]},
        {"output_logits": True, "output_log_probs": True},
    ],
    ids=lambda keywords: "-".join(keywords) or "plain",
)
def test_no_step_waits_for_the_device(engines: dict[str, ModelRunner], keywords: dict[str, object]) -> None:
    """Once a request runs, the host waits for events only: torch itself refuses everything else here."""
    stream = engines["paged"].generate(PROMPTS, max_new_tokens=12, streaming=True, **keywords)
    shown = [next(stream)["output_ids"], next(stream)["output_ids"]]  # graphs are captured
    torch.cuda.set_sync_debug_mode("error")
    try:
        shown += [step["output_ids"] for step in stream]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(shown) >= 9


def test_streaming_grows_by_a_token_a_step_and_timing_has_one_mark_each(engines: dict[str, ModelRunner]) -> None:
    whole = engines["paged"].generate(PROMPTS, max_new_tokens=6)
    steps = list(engines["paged"].generate(PROMPTS, max_new_tokens=6, streaming=True))
    assert [int(step["sequence_lengths"][0, 0]) - len(PROMPTS[0]) for step in steps] == [1, 2, 3, 4, 5, 6]
    assert torch.equal(steps[-1]["output_ids"], whole["output_ids"])
    assert len(whole["timing"].token_ns) == 6


def test_a_stream_that_another_request_overtook_says_so(engines: dict[str, ModelRunner]) -> None:
    stream = engines["paged"].generate(PROMPTS, max_new_tokens=6, streaming=True)
    next(stream)
    engines["paged"].generate(PROMPTS[:1], max_new_tokens=1)
    with pytest.raises(RequestError, match="Another request was started"):
        list(stream)


def test_prompts_longer_than_a_step_are_taken_in_pieces(engines: dict[str, ModelRunner], tmp_path: Path) -> None:
    folder = tmp_path
    checkpoint_of(random_model("llama", folder / "hf"), folder / "checkpoint")
    with runner_of(folder, "pieces", PAGED, max_num_tokens=5) as runner:
        ours = runner.generate(PROMPTS, max_new_tokens=4)["output_ids"]
    assert torch.equal(ours, engines["padded"].generate(PROMPTS, max_new_tokens=4)["output_ids"])


def test_a_batch_that_the_pool_does_not_hold_is_refused(tmp_path: Path) -> None:
    checkpoint_of(random_model("llama", tmp_path / "hf"), tmp_path / "checkpoint")
    block = 3 * 2 * 2 * 16 * 16 * 4  # layers × (k, v) × heads × tokens × head size × float32
    with runner_of(tmp_path, "small", PAGED, kv_cache_memory=f"{5 * block}B") as runner:
        assert runner.generate(PROMPTS[:1], max_new_tokens=39)["output_ids"].shape[-1] == 48
        with pytest.raises(RequestError, match=r"The batch needs 9 cache blocks of 16 tokens and the pool has 4"):
            runner.generate(PROMPTS, max_new_tokens=39)
