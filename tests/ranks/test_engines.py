"""Engines of several ranks, each in a process of its own, against one rank's: logits, tokens, refusals, the shell."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tests.backends.models import checkpoint_of, random_model
from tests.ranks.direct_build import build_here
from tests.ranks.worlds import on_ranks

from trtbench_lab.errors import EngineMismatchError
from trtbench_lab.quantization import quantize_checkpoint
from trtbench_lab.runtime import ModelRunner
from trtbench_lab.specs import BuildConfig, Mapping, QuantConfig

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(1800)]  # on GPUs kernels may be compiled

# Level 0: on GPUs nothing is timed, and only what runs is compiled.
PADDED = BuildConfig(backend="torch", opt_level=0, max_batch_size=4, max_input_len=32, max_seq_len=48, max_beam_width=2)
PAGED = PADDED.replace(
    plugin_config=PADDED.plugin_config.replace(use_inflight_batching=True, gpt_attention_plugin="auto")
)
LAYOUTS = {
    "one": Mapping(),
    "tp2": Mapping(tp_size=2),
    "pp2": Mapping(pp_size=2),
    "tp4": Mapping(tp_size=4),
    "tp2pp2": Mapping(tp_size=2, pp_size=2),
}
# Two K/V heads and eight others: at tp 4 each K/V head is on two ranks.
SHAPE = {"num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 64}


class Engines:
    """Engines of llama's family, built when they are first asked for; every layout has another embedding."""

    EMBEDDINGS: ClassVar = {
        "tp2": {"use_parallel_embedding": True},
        "tp4": {"use_parallel_embedding": True, "embedding_sharding_dim": 1},
    }

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = random_model("llama", folder / "model", **SHAPE)

    def __call__(self, name: str) -> Path:
        engine = self.folder / name
        if engine.exists():
            return engine
        layout, _, kind = name.partition("-")
        mapping, checkpoint = LAYOUTS[layout], self.folder / f"checkpoint-{name}"
        if kind == "int8":
            quantize_checkpoint(self.folder / "model", checkpoint, QuantConfig(quant_algo="W8A16"), mapping=mapping)
        else:
            checkpoint_of(self.model, checkpoint, mapping=mapping, **self.EMBEDDINGS.get(layout, {}))
        return build_here(checkpoint, PAGED if kind == "paged" else PADDED, engine)


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    return Engines(tmp_path_factory.mktemp("ranks"))


def results_of_one(engine):
    with ModelRunner.from_dir(engine) as runner:
        return {
            "logits": runner.logits_of([[5, 17, 40, 3], [60, 2]]),
            "greedy": runner.generate([[5, 17, 40], [60, 2]], max_new_tokens=12, return_dict=False),
            "beams": runner.generate([[5, 17, 40]], max_new_tokens=6, num_beams=2, return_dict=False),
            "streamed": runner.generate([[5, 17]], max_new_tokens=4, return_dict=False),
        }


@pytest.mark.parametrize(
    ("ranks", "names"), [(2, ["tp2", "pp2", "tp2-paged", "tp2-int8"]), (4, ["tp4", "tp2pp2"])], ids=["two", "four"]
)
def test_ranks_give_what_one_rank_gives_and_all_of_them_hear_it(engines, ranks, names):
    for name in names:
        folder = engines(name).parent
    done = on_ranks(ranks, "tests.ranks.rank_logits", str(folder), *names)
    assert done.returncode == 0, done.stderr
    for name in names:
        expected = results_of_one(engines("one-int8" if name.endswith("int8") else "one"))
        found = torch.load(folder / f"{name}.rank0.pt")
        for ours, theirs in zip(found["logits"], expected["logits"], strict=True):
            spread = float(theirs.max() - theirs.min())
            # Sums over ranks are added in another order; 1e-4 of the range, as for one rank against Hugging Face.
            assert float((ours - theirs).abs().max()) <= 1e-4 * spread, name
        for kind in ("greedy", "beams", "streamed"):
            assert torch.equal(found[kind], expected[kind]), (name, kind)
        assert "at most 32" in found["refused"]
        for rank in range(1, ranks):
            other = torch.load(folder / f"{name}.rank{rank}.pt")
            for kind in ("greedy", "sampled", "beams", "streamed"):
                assert torch.equal(other[kind], found[kind]), (name, kind, rank)
            assert other["refused"] == found["refused"]


def test_the_number_of_ranks_is_checked_before_anything_is_loaded(engines):
    with pytest.raises(EngineMismatchError, match=r"2 rank\(s\) are needed, and 1 was started"):
        ModelRunner.from_dir(engines("tp2"))
    line = ("trtbench_lab", "run", "--engine_dir", str(engines("tp4")), "--input_text", "a")
    done = on_ranks(2, *line)
    assert done.returncode != 0
    assert done.stderr.count("4 rank(s) are needed, and 2 were started") == 1
    assert "Traceback" not in done.stderr


def test_rank_0_speaks_for_all(engines, tmp_path):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("5,17,40\n")
    line = ("trtbench_lab", "run", "--engine_dir", str(engines("pp2")), "--input_file", str(prompts))
    done = on_ranks(2, *line, "--max_output_len", "4", "-q")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("output_tokens") == 1
