"""The inspector's JSON: documented form, names only, times beside it, and what nobody has seen yet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.explore.synthetic_tensorrt import decoder, layer, names_only, origins, tensor, trtexec_times

from trtbench_lab.errors import EngineError
from trtbench_lab.explore import explore
from trtbench_lab.explore.dtypes import dtype_name
from trtbench_lab.explore.readers.tensorrt_json import read_inspector


def written(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_layers_are_read_and_mapped_back(tmp_path: Path) -> None:
    result = explore(written(tmp_path / "engine.json", decoder()))
    by_name = {one.name: one for one in result.layers}
    assert result.backend == "tensorrt"
    assert result.total_ms is None
    qkv = by_name["transformer.layers.0.attention.qkv/MatMul + transformer.layers.0.attention.qkv/Add"]
    assert (qkv.kind, qkv.module, qkv.tactic) == (
        "matmul",
        "transformer.layers.0.attention.qkv",
        "sm90_xmma_gemm_f16f16",
    )
    assert qkv.weights_bytes == 3 * 64 * 64 * 2
    assert (qkv.dtype_in, qkv.dtype_out, qkv.precision) == ("float16", "float16", "float16")
    assert qkv.flops == 2 * 3 * 64 * 64  # one token
    assert qkv.moved_bytes == 2 * 64 + 2 * 192 + qkv.weights_bytes
    assert by_name["_gemm_mha_v2_0"].kind == "attention"
    assert by_name["__myl_Norm_myl1_0"].module == "transformer.layers.1.input_layernorm"
    assert by_name["__myl_Norm_myl1_0"].kind == "norm"
    # A product and the sum after it belong to what holds both.
    dense = next(one for name, one in by_name.items() if name.startswith("[MatMul]"))
    assert dense.module == "transformer.layers.0"
    assert result.io[2].dtype == "float32"
    assert result.metrics["attributed_percent"] == 100.0


def test_names_only(tmp_path: Path) -> None:
    result = explore(written(tmp_path / "names.json", names_only(decoder())))
    assert any("--profiling_verbosity detailed" in note for note in result.notes)
    assert result.layers[-1].module == "lm_head"
    assert result.layers[-2].kind == "layout"
    assert [one.dtype_in for one in result.layers] == [""] * len(result.layers)


def test_times_of_trtexec_are_joined_by_name(tmp_path: Path) -> None:
    content = decoder()
    times = trtexec_times(content, ms=0.25)
    times.append({"name": "a layer of another build", "averageMs": 1.0})
    result = explore(written(tmp_path / "engine.json", content), times=written(tmp_path / "times.json", times))
    assert result.total_ms == pytest.approx(0.25 * len(content["Layers"]) + 1.0)
    assert result.layers[-1].name == "a layer of another build"
    assert any("not in the inspector's list" in note for note in result.notes)


def test_times_alone(tmp_path: Path) -> None:
    result = explore(written(tmp_path / "times.json", trtexec_times(decoder())))
    assert result.total_ms == pytest.approx(0.1 * len(result.layers))
    assert result.layers[-1].module == "lm_head"


def test_layer_profile_of_this_project(tmp_path: Path) -> None:
    content = decoder()
    profile = {
        "format": "trtbench-layer-profile-1", "backend": "tensorrt", "plan": "rank0.engine", "profile_index": 0,
        "phase": "decode", "shapes": {"input_ids": [2, 1]}, "runs": 2, "gpu": "none: synthetic",
        "layers": [{"name": one["Name"], "times_ms": [0.1, 0.3]} for one in content["Layers"]],
    }  # fmt: skip
    path = written(tmp_path / "rank0.profile.json", profile)
    alone = explore(path)
    assert (alone.phase, alone.batch_size) == ("decode", 2)
    joined = explore(written(tmp_path / "rank0.inspector.json", content), times=path)
    assert joined.layers[0].times_ms == (0.1, 0.3)
    assert joined.layers[0].time_ms == pytest.approx(0.2)


def test_unknown_layers_and_fields_are_passed_over() -> None:
    content = {
        "Layers": [
            layer("x", "AnOperatorOfTomorrow", [], [], Novelty={"deep": [1]}),
            {"Name": 7, "Inputs": "none", "Outputs": [3], "Metadata": None, "Weights": {"Count": "many"}},
            {"LayerType": None},
            "transformer.ln_f/RMSNormalization",
        ],
        "Something": "new",
    }
    reading = read_inspector(content, "test")
    assert [one.kind for one in reading.layers] == ["other", "other", "other", "norm"]
    assert any("Novelty" in note for note in reading.notes)


def test_form_of_ten_is_still_read() -> None:
    old = {
        "Layers": [{"Name": "a", "LayerType": "gemm", "Inputs": [
            {"Name": "x", "Dimensions": [1, 8], "Format/Datatype": "Row major linear FP16 format"}], "Outputs": []}],
        "Bindings": ["x", "y"],
    }  # fmt: skip
    reading = read_inspector(old, "test")
    assert reading.layers[0].dtype_in == "float16"
    assert [one.name for one in reading.io] == ["x", "y"]


def test_nodes_of_functions_are_known_by_their_caller() -> None:
    stack = "[ONNX Layer: MatMul_0 | transformer.layers.3.mlp.fc/Int8MatMul (Int8MatMul)]"
    one = layer("fused", "gemm", [], [])
    one["Metadata"] = stack + "\x1f" + origins("transformer.layers.3.mlp/Gelu")
    found = read_inspector({"Layers": [one]}, "test").layers[0]
    assert found.nodes == ("transformer.layers.3.mlp.fc/Int8MatMul", "transformer.layers.3.mlp/Gelu")
    assert found.module == "transformer.layers.3.mlp"


def test_layers_of_two_profiles_are_told() -> None:
    content = decoder()
    content["Layers"] += decoder(profile_suffix=" [profile 1]")["Layers"]
    assert any("2 optimization profiles" in note for note in read_inspector(content, "test").notes)


@pytest.mark.parametrize(
    ("text", "name"),
    [("Half", "float16"), ("FP8", "float8_e4m3fn"), ("BFloat16", "bfloat16"), ("Int4", "int4"), ("Float", "float32"),
     ("Row major linear FP16 format (kLINEAR)", "float16"), ("c10::BFloat16", "bfloat16"), ("long int", "int64"),
     ("INT64", "int64"), ("signed char", "int8"), ("FP4", "float4_e2m1"), ("whatever", None), (None, None), (3, None)],
)  # fmt: skip
def test_types_have_one_name(text: object, name: str | None) -> None:
    assert dtype_name(text) == name


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b'{"Layers": [', "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b'{"a": 1}', "none of the forms"),
        (b"[]", "none of the forms"),
        (b'"text"', "none of the forms"),
        (b"[" * 100_000, "not valid JSON"),
    ],
)
def test_damaged_and_foreign_files(tmp_path: Path, content: bytes, part: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(EngineError, match=part) as caught:
        explore(tmp_path / "x.json")
    assert caught.value.remedy
    assert str(tmp_path) in str(caught.value.where)


def test_times_that_are_none(tmp_path: Path) -> None:
    path = written(tmp_path / "engine.json", decoder())
    with pytest.raises(EngineError, match="no layer times"):
        explore(path, times=path)
    with pytest.raises(EngineError, match="no such engine"):
        explore(tmp_path / "nothing")


def test_tensor_sizes() -> None:
    reading = read_inspector(
        {"Layers": [layer("a", "gemm", [tensor("x", "Int4", [3])], [tensor("y", "Half", [-1, 4])])]}, "test"
    )
    assert reading.layers[0].inputs[0].nbytes == 2  # three elements of four bits
    assert reading.layers[0].outputs[0].nbytes is None
    assert reading.layers[0].moved_bytes is None
