"""A running batch over several ranks, each in a process of its own: every request gives what it gives alone on one."""

from __future__ import annotations

import json

import pytest
import torch
from tests.backends.models import checkpoint_of, random_model
from tests.backends.quantized_models import quantized_checkpoint
from tests.ranks import rank_refusals, rank_requests
from tests.ranks.direct_build import build_here
from tests.ranks.worlds import on_ranks

from trtbench_lab.runtime import LLM
from trtbench_lab.specs import BuildConfig, Mapping, PluginConfig

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(1800)]  # on GPUs kernels may be compiled

CONFIG = BuildConfig(
    backend="torch",
    opt_level=0,  # on GPUs nothing is timed, and only what runs is compiled
    max_batch_size=4,
    max_input_len=48,
    max_seq_len=64,
    plugin_config=PluginConfig(
        use_inflight_batching=True, gpt_attention_plugin="auto", use_custom_all_reduce=True, tokens_per_block=8
    ),
)
LAYOUTS = {
    "one": Mapping(),
    "tp2": Mapping(tp_size=2),
    "pp2": Mapping(pp_size=2),
    "tp2pp2": Mapping(tp_size=2, pp_size=2),
}
SHAPE = {"num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 64}
CACHES = [f"{layout}-{kind}-cache" for layout in ("one", "tp2", "pp2") for kind in ("int8", "fp8")]
BLOCK_BYTES = 2 * 2 * 2 * 8 * 8 * 4  # layers, keys and values, heads, tokens, head width, float32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Engines by the name of their layout, and a file of requests."""
    folder = tmp_path_factory.mktemp("inflight")
    model = random_model("llama", folder / "model", **SHAPE)
    for name, mapping in LAYOUTS.items():
        checkpoint_of(model, folder / f"checkpoint-{name}", mapping=mapping)
        build_here(folder / f"checkpoint-{name}", CONFIG, folder / name)
    for name in CACHES:
        layout, kind = name.split("-")[:2]
        checkpoint, recipe = folder / f"checkpoint-{name}", {"kv_cache_quant_algo": kind.upper()}
        quantized_checkpoint(model, checkpoint, recipe, mapping=LAYOUTS[layout])
        build_here(checkpoint, CONFIG, folder / name)
    rows = [{"input_ids": [5, 17, 40 + i], "output_tokens": 4 + i} for i in range(5)]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    """What each request gives on one rank with nobody beside it."""
    found = []
    with LLM(folder / "one", tokenizer=False, max_running=1, enable_block_reuse=False) as llm:
        for request in rank_requests.requests():
            handle = llm.batcher.submit(request["prompt"], **request["sampling"])
            found.append((handle.result(), handle.log_probs))
        streams = [llm.generate([n, 3], {"max_tokens": 6}).outputs[0].token_ids for n in range(1, 6)]
        crowd = [llm.generate(prompt, {"max_tokens": 24}).outputs[0].token_ids for prompt in rank_requests.CROWD]
        together = [llm.generate(prompt, {"max_tokens": 3}).outputs[0].token_ids for prompt in ([5, 6], [7])]
    return found, streams, crowd, together


@pytest.fixture(scope="module")
def two(folder):
    """One world of two ranks runs the engines of two, with a plain cache and with rounded ones."""
    names = ["tp2", "pp2", *(name for name in CACHES if not name.startswith("one"))]
    done = on_ranks(2, "tests.ranks.rank_requests", str(BLOCK_BYTES // 2), str(folder), *names, timeout_s=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_requests_over_a_rounded_cache_give_what_one_rank_gives(folder, two, kind):
    one = rank_requests.served_from_rounded_keys(folder / f"one-{kind}-cache", BLOCK_BYTES)
    plain = [torch.tensor(row) for row in one["log_probs"]]
    for layout in ("tp2", "pp2"):
        for rank in range(2):
            found = torch.load(folder / f"served-{layout}-{kind}-cache.rank{rank}.pt")
            # Of a quarter of float32's size, in half of the memory.
            assert found["blocks"] == one["blocks"] == 2 * rank_requests.BLOCKS
            assert found["tokens"] == one["tokens"], (layout, rank)
            for ours, theirs in zip(found["log_probs"], plain, strict=True):
                # Sums in another order; where a last bit rounds a key to the neighbouring step it would be 1e-3.
                assert torch.allclose(torch.tensor(ours), theirs, atol=5e-3), (layout, rank)
            assert found["reused"] == one["reused"] > 0


@pytest.mark.parametrize(("ranks", "names"), [(2, ["tp2", "pp2"]), (4, ["tp2pp2"])], ids=["two", "four"])
def test_requests_that_come_and_go_give_what_each_gives_alone_on_one_rank(folder, alone, two, ranks, names):
    if ranks != 2:
        words = ("tests.ranks.rank_requests", str(BLOCK_BYTES // ranks), str(folder), *names)
        done = on_ranks(ranks, *words, timeout_s=300)
        assert done.returncode == 0, done.stderr
    expected, streams, crowd, together = alone
    for name in names:
        found = torch.load(folder / f"served-{name}.rank0.pt")
        assert found["blocks"] == rank_requests.BLOCKS
        for i, request in enumerate(rank_requests.requests()):
            tokens, log_probs = expected[i]
            if request["cancel"] is not None:
                assert found["reasons"][i] in ("cancelled", "length")
                assert len(found["tokens"][i]) >= request["cancel"]
                assert found["tokens"][i] == tokens[: len(found["tokens"][i])], (name, i)
                continue
            assert found["tokens"][i] == tokens, (name, i)
            # Sums over ranks in another order.
            assert found["log_probs"][i] == pytest.approx(log_probs, abs=1e-4)
        assert "cancelled" in found["reasons"]
        assert found["crowd"] == crowd
        assert found["preemptions"] > 0
        assert found["reused"] > 0
        assert found["rising"]
        assert [tokens for _, tokens in found["streams"]] == streams
        assert max(pieces for pieces, _ in found["streams"]) > 1
        assert found["together"] == together
        assert "at most 48" in found["refused"]
        for rank in range(1, ranks):
            other = torch.load(folder / f"served-{name}.rank{rank}.pt")
            for kind in ("blocks", "tokens", "reasons", "log_probs", "preemptions", "reused", "together", "refused"):
                assert other[kind] == found[kind], (name, kind, rank)
            assert [tokens for _, tokens in other["streams"]] == streams


def test_files_of_requests_and_serving_go_over_ranks_and_rank_0_speaks(folder):
    engine, prompts, out = folder / "pp2", folder / "prompts.jsonl", folder / "results.jsonl"
    script = folder / "lines.txt"
    script.write_text(
        f"run --engine_dir {engine} --prompts {prompts} --output_jsonl {out} -q\n"
        f"bench --engine_dir {engine} --mode serving --dataset {prompts} --request_rate inf --warm_up 1 -q\n"
    )
    done = on_ranks(2, "tests.ranks.rank_requests", "shell", str(script), timeout_s=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Run: pp2") == 1
    assert done.stdout.count("[SERVING] policy in-flight requests 5 completed 5") == 1
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    with LLM(folder / "one", tokenizer=False) as llm:
        for i, row in enumerate(rows):
            sampling = {"max_tokens": 4 + i}
            assert row["token_ids"] == llm.generate([5, 17, 40 + i], sampling).outputs[0].token_ids


def test_what_one_rank_refuses_is_refused_on_all_and_they_go_on(folder):
    # A pool of 11 blocks of a stage, of one layer and INT8 keys, and the one that is nobody's.
    build_here(folder / "checkpoint-pp2-int8-cache", CONFIG.replace(kv_cache_memory=f"{12 * 256}B"), folder / "small")
    done = on_ranks(2, "tests.ranks.rank_refusals", str(folder), str(BLOCK_BYTES // 2), timeout_s=120)
    assert done.returncode == 0, done.stderr
    found, other = (torch.load(folder / f"refused.rank{rank}.pt") for rank in range(2))
    assert found == other
    assert "prefill chunk of 0 tokens" in found["tp2"]["option"]
    assert "rank 1: RuntimeError: no memory for that" in found["tp2"]["memory"]
    with LLM(folder / "one", tokenizer=False) as llm:
        tokens = llm.generate(rank_refusals.PROMPT, {"max_tokens": 20}).outputs[0].token_ids
    for layout in ("tp2", "pp2", "again"):
        assert "may need 5 cache blocks of 8 tokens, and the whole cache has 4" in found[layout]["large"]
        assert "Element 0 is [7, 8]" in found[layout]["nested"]
        assert "logits_processor is known" in found[layout]["object"]
        assert found[layout]["beside"] == tokens
        assert found[layout]["after"] == tokens[: rank_refusals.NEW]
    small = found["small"]
    assert "needs 32 cache blocks of 8 tokens and the pool has 11" in small["batch"]
    assert len(small["stream"]) == 2
    assert "there are 2 sequences" in small["first"]
    assert all("The engine is closed" in text for text in small["closed"])
    assert small["stream"] == [small["whole"][: len(row)] for row in small["stream"]]


@pytest.mark.parametrize("by", ["shell", "program"])
def test_a_rank_that_fails_in_a_step_says_why_and_ends_all(folder, by):
    done = on_ranks(2, "tests.ranks.rank_requests", "fail", str(folder), "tp2", by, timeout_s=300)
    assert done.returncode != 0
    assert "this card has fallen off the bus" in done.stderr
