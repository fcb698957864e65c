"""Networks split over tensor-parallel ranks: joined again, their collectives computed, they give one rank's logits."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import helper
from tests.backends.models import checkpoint_of, random_model

from trtbench_lab.checkpoint import open_checkpoint
from trtbench_lab.network.collectives import OP_TYPE
from trtbench_lab.network.export import export_network
from trtbench_lab.network.onnx_lint import lint_onnx
from trtbench_lab.specs import Mapping, PluginConfig

PLUGINS = PluginConfig(gpt_attention_plugin="disable", layernorm_plugin="auto", lookup_plugin="auto")
TOKENS = torch.randint(0, 97, (2, 5), generator=torch.Generator().manual_seed(0))


def exported_ranks(tmp_path, family, tp, **options):
    """The ONNX model of each rank, weights inside, and the model they come from."""
    model, plugins = random_model(family, tmp_path / "hf", **options.pop("changes", {})), options.pop("plugins", None)
    checkpoint_of(model, tmp_path / "ranks", mapping=Mapping(tp_size=tp), **options)
    checkpoint = open_checkpoint(tmp_path / "ranks")
    built = []
    for rank in range(tp):
        mapping = checkpoint.config.mapping.with_rank(rank)
        network = export_network(checkpoint.config, mapping, capacity=8, plugin_config=plugins)
        path = tmp_path / f"rank{rank}.onnx"
        network.write(path, checkpoint.rank(rank))
        built.append(onnx.load(str(path)))
    return model, built


def joined(ranks: list[onnx.ModelProto]) -> onnx.ModelProto:
    """One model of all ranks: names carry the rank, and each collective reads what all ranks bring to it."""
    shared = {"input_ids", "write_indices", "logit_indices"}
    graph = onnx.GraphProto(name="joined")
    waiting: list[list[onnx.NodeProto]] = []
    for rank, model in enumerate(ranks):
        nodes = []
        for node in model.graph.node:
            own = onnx.NodeProto()
            own.CopyFrom(node)
            own.name = f"{rank}:{node.name}"
            for names in (own.input, own.output):
                names[:] = [name if name in shared or not name else f"{rank}:{name}" for name in names]
            nodes.append(own)
        waiting.append(nodes)
        for values, target in ((model.graph.input, graph.input), (model.graph.output, graph.output)):
            for value in values:
                own_value = onnx.ValueInfoProto()
                own_value.CopyFrom(value)
                own_value.name = value.name if value.name in shared else f"{rank}:{value.name}"
                if own_value.name not in {one.name for one in target}:
                    target.append(own_value)
        for tensor in model.graph.initializer:
            tensor.name = f"{rank}:{tensor.name}"
            graph.initializer.append(tensor)
    for step in zip(*waiting, strict=True):  # all ranks have the same nodes in the same order
        if step[0].op_type != OP_TYPE:
            graph.node.extend(step)
            continue
        operation = next(a.s for a in step[0].attribute if a.name == "collective_operation")
        inputs = [node.input[0] for node in step]
        for node in step:
            if operation == b"all_reduce":
                graph.node.append(helper.make_node("Sum", inputs, list(node.output)))
            else:
                graph.node.append(helper.make_node("Concat", inputs, list(node.output), axis=0))
    model = ranks[0]
    functions = [one for one in model.functions if one.name != OP_TYPE]
    return helper.make_model(graph, opset_imports=list(model.opset_import), functions=functions, ir_version=11)


def feeds_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    batch, length = TOKENS.shape
    feeds = {
        "input_ids": TOKENS.numpy(),
        "write_indices": np.zeros(batch, np.int64),
        "logit_indices": np.tile(np.arange(length), (batch, 1)),
    }
    for value in model.graph.input:
        if value.name not in feeds:
            dims = [dim.dim_value or batch for dim in value.type.tensor_type.shape.dim]
            feeds[value.name] = np.zeros(dims, np.float32)
    return feeds


@pytest.fixture(scope="module")
def two_of_llama(tmp_path_factory):
    return exported_ranks(tmp_path_factory.mktemp("llama"), "llama", 2)


@pytest.mark.parametrize(
    ("family", "tp", "options"),
    [
        ("llama", 2, {}),
        ("gpt2", 2, {"use_parallel_embedding": True, "embedding_sharding_dim": 0}),
        ("gpt2", 2, {"use_parallel_embedding": True, "embedding_sharding_dim": 1}),
        ("gpt2", 2, {"use_parallel_embedding": True, "embedding_sharding_dim": 0, "plugins": PLUGINS}),
    ],
)
def test_ranks_together_give_one_ranks_logits(two_of_llama, tmp_path, family, tp, options):
    model, ranks = two_of_llama if family == "llama" else exported_ranks(tmp_path, family, tp, **options)
    ranks = copy.deepcopy(ranks)
    for rank in ranks:
        assert lint_onnx(rank) == []
        lookups = [node for node in rank.graph.node if node.op_type == "Lookup"]
        assert len(lookups) == 2 * ("plugins" in options)  # tokens and positions
        collectives = [node for node in rank.graph.node if node.op_type == OP_TYPE]
        layers = model.hf.config.num_hidden_layers
        assert len(collectives) == 2 * layers + 1 + 2 * bool(options)  # attention, feed-forward; logits; two embeddings
        assert all(a.i == tp for node in collectives for a in node.attribute if a.name == "nb_rank")
    whole = joined(ranks)
    session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = model.logits(TOKENS).numpy()
    for rank in range(tp):
        (found,) = session.run([f"{rank}:logits"], feeds_of(whole))
        # Sums over ranks are added in another order; 1e-4 of the range, as for one rank.
        assert np.abs(found - expected).max() <= 1e-4 * (expected.max() - expected.min())


def test_one_rank_alone_has_the_right_shapes_for_readers_without_collectives(two_of_llama):
    _, ranks = two_of_llama
    onnx.checker.check_model(ranks[0])
    session = onnxruntime.InferenceSession(ranks[0].SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], feeds_of(ranks[0]))
    assert logits.shape == (2, 5, 97)
    assert isinstance(ir.serde.deserialize_model(ranks[0]), ir.Model)
