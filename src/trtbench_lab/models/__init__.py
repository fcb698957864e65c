"""Models in memory, under the names that TensorRT-LLM's users know: change the import and the code moves over."""

from .classes import (
    AutoModelForCausalLM,
    CausalLM,
    GPTBigCodeForCausalLM,
    GPTForCausalLM,
    InternLMForCausalLM,
    LLaMAForCausalLM,
    MistralForCausalLM,
    QWenForCausalLM,
    class_for,
)

__all__ = [
    "AutoModelForCausalLM",
    "CausalLM",
    "GPTBigCodeForCausalLM",
    "GPTForCausalLM",
    "InternLMForCausalLM",
    "LLaMAForCausalLM",
    "MistralForCausalLM",
    "QWenForCausalLM",
    "class_for",
]
