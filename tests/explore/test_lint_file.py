"""Lint as a verb: our own export passes; a fault is told with node, module and remedy; damaged files too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trtbench_lab.cli import main
from trtbench_lab.errors import EngineError
from trtbench_lab.explore import lint_file, onnx_report


def saved(path: Path, nodes: list[onnx.NodeProto], initializers: tuple[onnx.TensorProto, ...] = ()) -> Path:
    """A network of one float input and output."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8, 16]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], initializer=list(initializers))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)]), path)
    return path


def faulty(path: Path, layers: int = 1) -> Path:
    names = [f"transformer.layers.{number}.attention/Attention" for number in range(layers)]
    nodes = [
        helper.make_node("Attention", ["x", "x", "x"], ["y" if i == layers - 1 else f"y{i}"], name=name, is_causal=1)
        for i, name in enumerate(names)
    ]
    return saved(path, nodes)


def test_our_own_export_passes(engines: dict[str, Path]) -> None:
    network = engines["onnxruntime"] / "network.onnx"
    report = lint_file(network, fixed_capacity=False)
    assert report.ok
    assert report.exit_code == 0
    assert "no rule is broken" in repr(report)
    assert report.weights_bytes > 10e6
    # Its caches are as long as each call says; TensorRT's own cache update wants a constant.
    strict = lint_file(network)
    assert {finding.rule for finding in strict.findings} == {"cache"}
    assert {finding.module for finding in strict.findings} == {
        f"transformer.layers.{number}.attention" for number in range(4)
    }


def test_a_finding_names_node_module_reason_and_remedy(tmp_path: Path) -> None:
    report = lint_file(faulty(tmp_path / "a.onnx"))
    (finding,) = report.findings
    assert finding.rule == "attention"
    assert finding.node == "transformer.layers.0.attention/Attention"
    assert finding.module == "transformer.layers.0.attention"
    assert "upper left" in finding.reason
    assert "TRT_Attention" in finding.remedy
    assert report.exit_code == 1
    for text in (repr(report), report._repr_html_()):
        assert finding.node in text


def test_equal_findings_of_all_layers_are_one_row(tmp_path: Path) -> None:
    report = lint_file(faulty(tmp_path / "a.onnx", layers=5))
    assert len(report.findings) == 5
    assert len(report.tables()[0].rows) == 1
    assert "and 4 more" in repr(report)


def test_shell_gives_json_and_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = faulty(tmp_path / "bad.onnx")
    good = saved(tmp_path / "good.onnx", [helper.make_node("Relu", ["x"], ["y"])])
    assert main(["lint", str(good)]) == 0
    assert main(["lint", str(bad), "--json", "-o", str(tmp_path / "report.json")]) == 1
    printed = capsys.readouterr().out
    payload = json.loads(printed[printed.index("{") :])
    assert payload["ok"] is False
    assert payload["findings"][0]["module"] == "transformer.layers.0.attention"
    assert json.loads((tmp_path / "report.json").read_text()) == payload
    assert main(["lint", str(tmp_path / "none.onnx")]) == 1
    assert "Check the path" in capsys.readouterr().err
    assert main(["lint"]) == 2


def with_external_data(path: Path) -> Path:
    weight = numpy_helper.from_array(np.ones((16, 16), np.float32), "lm_head.weight")
    saved(path, [helper.make_node("MatMul", ["x", "lm_head.weight"], ["y"], name="lm_head/MatMul")], (weight,))
    model = onnx.load(path)
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_external_data_is_measured_and_not_read(tmp_path: Path) -> None:
    path = with_external_data(tmp_path / "a.onnx")
    report = lint_file(path)
    assert report.ok
    assert report.weights_bytes == 16 * 16 * 4
    (tmp_path / "weights.bin").write_bytes(b"short")
    truncated = lint_file(path).findings[0]
    assert (truncated.rule, truncated.module) == ("external data", "lm_head")
    assert "beyond the end" in truncated.reason
    (tmp_path / "weights.bin").unlink()
    assert "not there" in lint_file(path).findings[0].reason


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", ""])
def test_external_data_outside_of_the_folder(tmp_path: Path, location: str) -> None:
    path = with_external_data(tmp_path / "a.onnx")
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
    path.write_bytes(model.SerializeToString())
    assert "outside" in lint_file(path).findings[0].reason


def test_file_beyond_protobufs_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.onnx"
    with open(path, "wb") as handle:  # sparse: takes no space
        handle.truncate((2 << 30) + 1)
    report = lint_file(path)
    assert [finding.rule for finding in report.findings] == ["file size"]
    assert "external data" in report.findings[0].remedy
    with pytest.raises(EngineError, match="larger than the 2 GiB"):
        onnx_report.load_onnx(path)


@pytest.mark.parametrize("content", [b"", b"not a network", b"\x08\x0a", b"\xff" * 1000])
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(EngineError, match="damaged, or no ONNX"):
        lint_file(tmp_path / "a.onnx")


def test_truncated_file(tmp_path: Path) -> None:
    whole = faulty(tmp_path / "a.onnx").read_bytes()
    (tmp_path / "a.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EngineError):
        lint_file(tmp_path / "a.onnx")


def test_folders_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="a folder"):
        lint_file(tmp_path)
