"""The project's magics in cells of two ranks: a model is converted, built and run over both, as by `mpirun`."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtbench_lab.distributed.world import World

pytestmark = pytest.mark.mpi

CELLS = (
    "%trt_convert demo:llama --dtype float32 --tp_size 2 --output_dir {folder}/checkpoint --quiet",
    "%trt_build {folder}/checkpoint --backend torch --opt_level 0 --max_batch_size 2 --max_seq_len 64 "
    "--gpt_attention_plugin auto --use_inflight_batching --use_custom_all_reduce --output_dir {folder}/engine --quiet",
    'found = %trt_run --engine_dir {folder}/engine --input_text "The town council" --max_output_len 12 --quiet\n'
    "found.id, found.output_ids[0][0]",
    """
from trtbench_lab.runtime import LLM, ModelRunner
with LLM("{folder}/engine", kv_cache_bytes=1 << 24) as llm:
    batch = llm.generate(["The town council", "A dog"], {{"max_tokens": 12}})
prompt = batch[0].prompt_token_ids
with ModelRunner.from_dir("{folder}/engine") as runner:
    for step in runner.generate([prompt], max_new_tokens=12, streaming=True):
        streamed = step["output_ids"][0, 0, len(prompt):].tolist()
streamed, batch[0].outputs[0].token_ids
""",
)


def test_a_model_is_converted_built_and_run_by_cells(world: World, tmp_path: Path) -> None:
    values = [world.run(text.format(folder=tmp_path)).values for text in CELLS]
    for first, second in values:
        assert first == second  # one piece of work: each rank has the same result
    (_, tokens), (streamed, in_flight) = values[2][0], values[3][0]
    assert len(tokens) == 12
    assert streamed == in_flight == tokens
