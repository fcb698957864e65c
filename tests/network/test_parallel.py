"""Ranks of the real sharding, run together, against one rank: token positions, all layouts of the embedding."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tests.backends.models import checkpoint_of, random_model

from trtbench_lab.checkpoint import open_checkpoint
from trtbench_lab.network.decoder import Decoder
from trtbench_lab.network.loading import assign_tensors
from trtbench_lab.quantization import quantize_checkpoint
from trtbench_lab.specs import Mapping, PluginConfig, QuantConfig


class ThreadGroup:
    """A communicator between threads of this process."""

    def __init__(self, size: int):
        self._barrier = threading.Barrier(size)
        self._parts: list[torch.Tensor | None] = [None] * size

    def member(self, index: int) -> ThreadMember:
        return ThreadMember(self, index)

    def exchange(self, index: int, x: torch.Tensor) -> list[torch.Tensor]:
        self._parts[index] = x
        self._barrier.wait(30)
        parts = [part.clone() for part in self._parts if part is not None]
        self._barrier.wait(30)
        return parts


class ThreadMember:
    def __init__(self, group: ThreadGroup, index: int):
        self.group, self.index = group, index

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack(self.group.exchange(self.index, x)).sum(0)

    def all_gather(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        return torch.cat(self.group.exchange(self.index, x), dim)


PLUGINS = PluginConfig(rmsnorm_plugin="auto", layernorm_plugin="auto", swiglu_plugin="auto", lookup_plugin="auto")


def decoder_of(checkpoint, mapping, communicator=None, plugins=None) -> Decoder:
    with torch.device("meta"):
        decoder = Decoder(checkpoint.config, mapping, communicator=communicator, plugin_config=plugins)
    assign_tensors(decoder, dict(checkpoint.rank(mapping.rank)))
    assign_tensors(decoder, decoder.rotary_tables())
    return decoder


def run(decoder: Decoder, tokens, capacity=16):
    """Prefill, then one more token: (B, T + 1, V) logits, or hidden states before the last stage."""
    attention = decoder.transformer.layers[0].attention
    shape = (tokens.shape[0], attention.num_kv_heads, capacity, attention.head_size)
    caches = [torch.zeros(shape) for _ in range(2 * len(decoder.transformer.layers))]
    lengths = torch.zeros(tokens.shape[0], dtype=torch.int64)
    results = []
    with torch.inference_mode():
        for part in (tokens[:, :-1], tokens[:, -1:]):
            wanted = torch.arange(part.shape[1]).repeat(part.shape[0], 1)
            results.append(decoder(part, lengths, wanted, caches)[0])
            lengths = lengths + part.shape[1]
    return torch.cat(results, 1)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parallel")
    return {family: random_model(family, folder / family) for family in ("gpt2", "gpt_bigcode", "llama", "qwen2")}


TOKENS = torch.randint(0, 97, (2, 7), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("family", "tp", "options"),
    [
        ("gpt2", 2, {}),
        ("gpt2", 4, {"use_parallel_embedding": True, "embedding_sharding_dim": 0}),
        ("gpt2", 4, {"use_parallel_embedding": True, "embedding_sharding_dim": 0, "plugins": PLUGINS}),
        ("llama", 2, {"use_parallel_embedding": True, "plugins": PLUGINS}),
        ("gpt2", 2, {"use_parallel_embedding": True, "embedding_sharding_dim": 1}),
        ("gpt2", 2, {"use_parallel_embedding": True, "share_embedding_table": True}),
        ("gpt_bigcode", 4, {}),  # one K/V head on every rank
        ("llama", 2, {}),
        ("llama", 4, {}),  # two K/V heads, each on two ranks
        ("qwen2", 2, {"use_parallel_embedding": True, "share_embedding_table": True}),
    ],
)
def test_tensor_parallel_ranks_give_one_ranks_logits(models, family, tp, options, tmp_path):
    model, plugins = models[family], options.get("plugins")
    options = {name: value for name, value in options.items() if name != "plugins"}
    checkpoint_of(model, tmp_path / "ranks", mapping=Mapping(tp_size=tp), **options)
    checkpoint = open_checkpoint(tmp_path / "ranks")
    group = ThreadGroup(tp)
    ranks = [(Mapping(tp_size=tp, rank=rank), group.member(rank)) for rank in range(tp)]
    decoders = [decoder_of(checkpoint, mapping, member, plugins) for mapping, member in ranks]
    with ThreadPoolExecutor(tp) as pool:
        results = list(pool.map(lambda decoder: run(decoder, TOKENS), decoders))
    expected = model.logits(TOKENS)
    spread = float(expected.max() - expected.min())
    for result in results:
        assert result.shape == expected.shape
        # Sums over ranks are added in another order; 1e-4 of the range, as for one rank.
        assert float((result - expected).abs().max()) <= 1e-4 * spread


@pytest.mark.parametrize(
    ("family", "plugins"), [("gpt2", None), ("llama", None), ("gpt2", PLUGINS), ("llama", PLUGINS)]
)
def test_pipeline_stages_give_one_ranks_logits(models, family, plugins, tmp_path):
    model = models[family]
    checkpoint_of(model, tmp_path / "ranks", mapping=Mapping(pp_size=3))
    checkpoint = open_checkpoint(tmp_path / "ranks")
    state: torch.Tensor = TOKENS
    for rank in range(3):
        decoder = decoder_of(checkpoint, Mapping(pp_size=3, rank=rank), plugins=plugins)
        state = run(decoder, state)
    expected = model.logits(TOKENS)
    assert float((state - expected).abs().max()) <= 1e-4 * float(expected.max() - expected.min())


def test_quantized_ranks_are_parts_of_one_quantized_model(models, tmp_path):
    """Quantized once and cut, the ranks compute what one rank does: their scales are those of whole rows."""
    quantization = QuantConfig(quant_algo="W8A16", exclude_modules=())
    folder = models["llama"].folder
    quantize_checkpoint(folder, tmp_path / "one", quantization)
    quantize_checkpoint(folder, tmp_path / "two", quantization, mapping=Mapping(tp_size=2))
    one = run(decoder_of(open_checkpoint(tmp_path / "one"), Mapping()), TOKENS)
    checkpoint = open_checkpoint(tmp_path / "two")
    group = ThreadGroup(2)
    decoders = [decoder_of(checkpoint, Mapping(tp_size=2, rank=rank), group.member(rank)) for rank in range(2)]
    with ThreadPoolExecutor(2) as pool:
        two = list(pool.map(lambda decoder: run(decoder, TOKENS), decoders))
    torch.testing.assert_close(two[0], one, rtol=1e-4, atol=1e-3)  # logits of about ±20
    assert torch.equal(two[0], two[1])
