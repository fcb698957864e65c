"""What holds for every plugin: the op's schema, PTX without Triton's own parameters, refusals with a reason."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.plugins.cases import PLUGINS, attributes, inputs
from tests.plugins.forms import by_kernel, by_reference, compiled

from trtbench_lab.errors import BuildError, SpecError
from trtbench_lab.network.onnx_lint import TENSORRT_OPS, _is_standard
from trtbench_lab.plugins.frame import Launch, Plugin, cdiv, compile_kernel, maximum, minimum, power_of_two, product
from trtbench_lab.plugins.frame.ptx import check_entry, parse_entry, strip_trailing_pointers
from trtbench_lab.plugins.registry import all_plugins, plugins_by_op_type, plugins_for
from trtbench_lab.specs import PluginConfig

PTX = """
.version 8.7
.target sm_90a
.visible .entry copy(
\t.param .u64 .ptr .global .align 16 copy_param_0,
\t.param .u32 copy_param_1,
\t.param .u64 .ptr .global .align 16 copy_param_2,
\t.param .u64 .ptr .global .align 1 copy_param_3,
\t.param .u64 .ptr .global .align 1 copy_param_4
)
.reqntid 128
{
\tld.param.b64 %rd1, [copy_param_0];
\tld.param.b64 %rd2, [copy_param_2];
\tret;
}
"""


def accumulate(cache: torch.Tensor, x: torch.Tensor) -> None:
    """A reference that changes its input."""
    cache += x


def in_place() -> Plugin:
    """A plugin whose only output is its first input, run by the residual sum's kernel."""
    return Plugin(
        name="test_accumulate",
        op_type="TestAccumulate",
        inputs=("cache", "x"),
        outputs=("cache_out",),
        attributes={},
        types=(("float32",) * 3,),
        reference=accumulate,
        results=lambda operands, attributes: (operands[0],),
        plan=lambda call: Launch(
            "accumulate", (call.inputs[0].rows,), constants={"W": call.inputs[0].fixed(-1), "BLOCK": 8}
        ),
        kernels="tests.plugins.kernels.accumulate",
        onnx_body="    cache_out = Add (cache, x)",
        switches=(),
        replaces="a sum",
        aliases={"cache_out": "cache"},
    )


def test_hidden_pointers_are_taken_off():
    assert parse_entry(PTX).types == ["u64", "u32", "u64", "u64", "u64"]
    stripped = strip_trailing_pointers(PTX, 2)
    assert parse_entry(stripped).parameters == (
        ("copy_param_0", "u64"),
        ("copy_param_1", "u32"),
        ("copy_param_2", "u64"),
    )
    assert stripped.replace(" ", "").count("copy_param_2") == 2
    check_entry(stripped, "copy", 1, ["n"], 1)


def test_hidden_pointers_that_are_read_are_refused():
    with pytest.raises(BuildError, match="is read by the kernel"):
        strip_trailing_pointers(PTX.replace("[copy_param_2]", "[copy_param_4]"), 2)
    with pytest.raises(BuildError, match="is no pointer"):
        strip_trailing_pointers(PTX.replace(".u64 .ptr .global .align 1 copy_param_4", ".u32 copy_param_4"), 2)


def test_other_parameter_lists_than_tensorrt_passes_are_refused():
    with pytest.raises(BuildError, match="takes"):
        check_entry(PTX, "copy", 1, ["n"], 1)
    with pytest.raises(BuildError, match="2 kernels"):
        parse_entry(PTX + PTX)
    with pytest.raises(BuildError, match="not understood"):
        parse_entry(PTX.replace(".u32 copy_param_1", ".align 4 .b8 copy_param_1[12]"))


@pytest.mark.parametrize("name", ["add_rms_norm_per_token", "lookup"])
def test_stripped_text_assembles(name: str, tmp_path: Path):
    from triton import knobs

    plugin = PLUGINS[name]
    kernel = compiled(plugin, inputs(plugin, (2, 64), torch.float16), attributes(plugin))
    (tmp_path / "kernel.ptx").write_text(kernel.ptx)
    command = [knobs.nvidia.ptxas.path, "-arch=sm_90a", "-o", tmp_path / "kernel.cubin", tmp_path / "kernel.ptx"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "kernel.cubin").read_bytes().startswith(b"\x7fELF")


def test_no_path_of_this_machine_gets_into_the_text():
    plugin = PLUGINS["rms_norm"]
    kernel = compiled(plugin, inputs(plugin, (2, 32), torch.float16), attributes(plugin))
    assert ".loc" not in kernel.ptx
    assert str(Path(__file__).parents[2]) not in kernel.ptx


def test_rows_are_read_in_loads_of_16_bytes():
    plugin = PLUGINS["rms_norm"]
    kernel = compiled(plugin, inputs(plugin, (2, 4096), torch.float16), attributes(plugin))
    assert "ld.global.v4.b32" in kernel.ptx


def test_interpreting_leaves_compiling_alone():
    plugin = PLUGINS["rms_norm_per_token"]
    tensors, values = inputs(plugin, (2, 24), torch.float32), attributes(plugin)
    before = compiled(plugin, tensors, values, capability=86).ptx
    by_kernel(plugin, tensors, values)
    from trtbench_lab.plugins.frame.triton_form import kernel_function

    function = kernel_function(plugin, plugin.name)
    function.hash = None  # forget what was compiled
    assert compiled(plugin, tensors, values, capability=86).ptx == before


@pytest.mark.parametrize("name", list(PLUGINS))
def test_op_is_well_formed(name: str):
    """torch's own examination: schema, fake results and aliasing agree with what the op does."""
    plugin = PLUGINS[name]
    tensors = inputs(plugin, (2, 3, 8), torch.float32)
    torch.library.opcheck(
        plugin.torch_op.default,
        (*tensors, *plugin.ordered(attributes(plugin))),
        test_utils=("test_schema", "test_faketensor"),
    )


def test_output_that_is_an_input_is_changed_in_every_form():
    plugin = in_place()
    cache, x = torch.randn(3, 5), torch.randn(3, 5)
    expected = cache + x
    for call in (plugin, plugin.launch):
        own = cache.clone()
        assert call(own, x) is own
        assert torch.equal(own, expected)
    own = cache.clone()
    assert plugin.torch_op(own, x) is None
    assert torch.equal(own, expected)
    torch.library.opcheck(plugin.torch_op.default, (own, x), test_utils=("test_schema", "test_faketensor"))
    assert parse_entry(compiled(plugin, [cache, x], {}).ptx).types == ["u64"] * 3


def test_memory_changed_in_place_must_be_whole():
    with pytest.raises(SpecError, match="must be contiguous"):
        in_place().launch(torch.zeros(4, 6)[:, ::2], torch.zeros(4, 3))


def test_kernel_writes_into_given_memory():
    plugin = PLUGINS["add_rms_norm"]
    tensors, values = inputs(plugin, (2, 3, 8), torch.float32), attributes(plugin)
    outputs = [torch.empty(2, 3, 8), torch.empty(2, 3, 8)]
    plugin.launch_into(tensors, outputs, **values)
    torch.testing.assert_close(tuple(outputs), by_reference(plugin, tensors, values))
    with pytest.raises(SpecError, match="Output total"):
        plugin.launch_into(tensors, [outputs[0], torch.empty(3, 8)], **values)


def test_views_are_read_as_what_they_show():
    plugin = PLUGINS["swiglu"]
    x, gate = torch.randn(2, 3, 16).chunk(2, dim=-1)  # not contiguous
    torch.testing.assert_close(plugin.launch(x, gate), plugin.reference(x, gate))


def test_wrong_calls_are_refused_with_a_reason():
    plugin = PLUGINS["rms_norm"]
    x, weight = torch.zeros(2, 8), torch.zeros(8)
    with pytest.raises(SpecError, match=r"does not take the types float32, float16, float32"):
        plugin.launch(x, weight.half(), epsilon=1e-5)
    with pytest.raises(SpecError, match="2 tensors were given"):
        PLUGINS["layer_norm"].launch(x, weight, epsilon=1e-5)
    with pytest.raises(SpecError, match=r"Attributes \['eps'\] were given"):
        plugin.ordered({"eps": 1e-5})


def test_kernels_whose_parameters_are_in_another_order_are_refused():
    plugin = PLUGINS["rms_norm"]
    tensors, values = inputs(plugin, (2, 8), torch.float32), attributes(plugin)
    crooked = replace(plugin, name="test_crooked", plan=lambda call: replace(plugin.plan(call), arguments={"rows": 2}))
    with pytest.raises(BuildError, match="its plan passes 2 inputs"):
        compiled(crooked, tensors, values)


def test_missing_triton_is_said(monkeypatch: pytest.MonkeyPatch):
    from trtbench_lab.plugins.frame import triton_form

    triton_form.kernel_module.cache_clear()
    monkeypatch.setattr(triton_form, "has_triton", lambda: False)
    with pytest.raises(SpecError, match="need Triton"):
        PLUGINS["rms_norm"].launch(torch.zeros(2, 8), torch.zeros(8), epsilon=1e-5)


def test_registry_has_each_name_and_node_once():
    plugins = all_plugins()
    assert set(PLUGINS) <= set(plugins)
    assert len(plugins_by_op_type()) == len(plugins)
    for plugin in plugins.values():
        assert plugin.op_type not in TENSORRT_OPS  # TensorRT's parser would take its own operator instead
        assert not _is_standard(plugin.op_type)
        known = {info.name for info in PluginConfig.options()}
        assert plugin.switches
        assert set(plugin.switches) <= known


def test_registry_finds_what_a_configuration_turns_on():
    off = {info.name: "disable" for info in PluginConfig.options() if info.name.endswith("_plugin")}
    assert plugins_for(PluginConfig(**off)) == []
    on = plugins_for(PluginConfig(**(off | {"rmsnorm_plugin": "float16"})))
    assert [plugin.name for plugin in on] == ["rms_norm", "add_rms_norm"]


def test_sizes_of_numbers():
    assert (cdiv(7, 4), cdiv(8, 4), maximum(2, 3), minimum(2, 3), product([2, 3, 4])) == (2, 2, 3, 2, 24)
    assert [power_of_two(number) for number in (1, 2, 3, 64, 65)] == [1, 2, 4, 64, 128]


def test_interpreted_process_cannot_compile(monkeypatch: pytest.MonkeyPatch):
    from triton.runtime.interpreter import InterpretedFunction

    from trtbench_lab.plugins.frame import compile as compiling

    plugin = PLUGINS["rms_norm"]
    function = compiling.kernel_function(plugin, "rms_norm")
    monkeypatch.setattr(compiling, "kernel_function", lambda *_: InterpretedFunction(function.fn))
    with pytest.raises(BuildError, match="cannot compile"):
        compiled(plugin, inputs(plugin, (2, 8), torch.float32), attributes(plugin))
    assert callable(compile_kernel)
