"""How one plugin stands in four forms: torch op, Triton kernel, ONNX function, TensorRT plugin."""

from .call import Attributes, Call, Launch, Operand
from .compile import CompiledKernel, compile_kernel
from .onnx_form import function_source, one_node_model
from .plugin import NAMESPACE, Plugin
from .sizes import cdiv, maximum, minimum, power_of_two, product
from .tensorrt_form import register_plugins

__all__ = [
    "NAMESPACE",
    "Attributes",
    "Call",
    "CompiledKernel",
    "Launch",
    "Operand",
    "Plugin",
    "cdiv",
    "compile_kernel",
    "function_source",
    "maximum",
    "minimum",
    "one_node_model",
    "power_of_two",
    "product",
    "register_plugins",
]
