"""Compile a plugin's Triton kernel ahead of time, for a given GPU architecture; no GPU is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import BuildError
from .call import Call, Launch
from .ptx import check_entry, strip_trailing_pointers
from .triton_form import kernel_function

if TYPE_CHECKING:
    from .plugin import Plugin

WARP = 32
POINTER_ALIGNMENT = 16
"""Bytes that every tensor of an engine is aligned to at least, so that 16 bytes are loaded at once."""
PTX_VERSION = 87
"""8.7, of CUDA 12.8: whoever assembles the text may be older than the Triton that wrote it."""
HIDDEN_POINTERS = 2
"""Global scratch and profile scratch, which Triton 3.4 and later append to each kernel."""

_PTX_87_KNOWS = (75, 80, 86, 87, 89, 90, 100, 101, 120)

TRITON_TYPES = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float8_e4m3fn": "fp8e4nv",
    "int8": "i8",
    "uint8": "u8",
    "int32": "i32",
    "int64": "i64",
    "bool": "i1",
}


@dataclass(frozen=True)
class CompiledKernel:
    """A kernel as TensorRT takes it.

    Attributes
    ----------
    name
        Of the function.
    ptx
        Its text, with TensorRT's parameters only.
    num_threads
        Of a block.
    shared_bytes
        Shared memory of a block.
    launch
        What it was compiled for.
    """

    name: str
    ptx: str
    num_threads: int
    shared_bytes: int
    launch: Launch


def compile_kernel(plugin: Plugin, call: Call) -> CompiledKernel:
    """Compile the kernel that `plugin` launches for `call`.

    Raises
    ------
    BuildError
        When the kernel needs scratch memory or takes other parameters than TensorRT passes.
    SpecError
        When Triton is not installed.
    """
    launch = plugin.plan(call)
    function = kernel_function(plugin, launch.kernel)
    import triton
    from triton.backends.compiler import GPUTarget

    if not hasattr(function, "cache_key"):
        raise BuildError(
            "Triton interprets kernels in this process and cannot compile them.",
            where=plugin.id,
            remedy="Unset TRITON_INTERPRET and start anew.",
        )
    inputs = [f"*{TRITON_TYPES[one.dtype]}" for one in call.inputs]
    outputs = [f"*{TRITON_TYPES[one.dtype]}" for one in call.outputs]
    arguments = list(launch.arguments)
    kinds = [*inputs, *["i32"] * len(arguments), *outputs, *["constexpr"] * len(launch.constants)]
    names = list(function.arg_names)
    if len(names) != len(kinds) or set(names[len(kinds) - len(launch.constants) :]) != set(launch.constants):
        raise BuildError(
            f"Kernel {launch.kernel} has the parameters {', '.join(names)}; its plan passes {len(inputs)} inputs, the "
            f"arguments {arguments}, {len(outputs)} outputs and the constants {list(launch.constants)}.",
            where=plugin.id,
            remedy="Order the kernel's parameters: inputs, int32 arguments, outputs, constants.",
        )
    aligned = {
        (position,): [["tt.divisibility", POINTER_ALIGNMENT]]
        for position, kind in enumerate(kinds)
        if kind.startswith("*")
    }
    source = triton.compiler.ASTSource(
        fn=function, signature=dict(zip(names, kinds, strict=True)), constexprs=dict(launch.constants), attrs=aligned
    )
    target = GPUTarget("cuda", call.compute_capability, WARP)
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    options["enable_fp_fusion"] = True  # the default of versions differs
    if call.compute_capability in _PTX_87_KNOWS:
        options["ptx_version"] = PTX_VERSION
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.disable_line_info = True  # paths of this machine have no place in an engine
        compiled = triton.compile(source, target=target, options=options)
    return _checked(plugin, compiled, launch, len(inputs), arguments, len(outputs))


def _checked(
    plugin: Plugin, compiled: Any, launch: Launch, inputs: int, arguments: list[str], outputs: int
) -> CompiledKernel:
    metadata = compiled.metadata
    scratch = metadata.global_scratch_size + metadata.profile_scratch_size
    if scratch or metadata.num_ctas != 1 or getattr(metadata, "launch_cooperative_grid", False):
        raise BuildError(
            f"Kernel {metadata.name} needs {scratch} bytes of scratch memory, a cluster or a cooperative launch.",
            where=plugin.id,
            remedy="TensorRT gives a compiled plugin none of these: write partial results to an output instead.",
        )
    ptx = strip_trailing_pointers(compiled.asm["ptx"], HIDDEN_POINTERS)
    check_entry(ptx, metadata.name, inputs, arguments, outputs)
    return CompiledKernel(metadata.name, ptx, metadata.num_warps * WARP, metadata.shared, launch)
