"""One plugin: the definition that its four forms are made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from ...errors import SpecError
from . import onnx_form, torch_form, triton_form
from .call import Attributes, Call, Launch, Operand

NAMESPACE = "trtbench"
"""Namespace of the plugins in TensorRT, and domain of their nodes in ONNX."""


@dataclass(frozen=True)
class Plugin:
    """An operation with a plain reference and a kernel.

    Calling the object runs it: the kernel on a GPU (where Triton is), the reference elsewhere; while `torch.export`
    traces, the call becomes one node of the network.

    Attributes
    ----------
    name
        The torch op is ``trtbench_plugins::{name}``.
    op_type
        Op type of its ONNX nodes and name of its TensorRT plugin; must be no operator of ONNX or TensorRT.
    inputs, outputs
        Names, in order.
    attributes
        Name → ``int`` or ``float``, in order.
    types
        Supported rows of types, one torch name for each input and output.
    reference
        ``reference(*inputs, **attributes)`` → its result, or a tuple of several, in plain PyTorch: the definition.
        Results that alias an input are written into it and not returned (None where there are no others).
    results
        ``results(operands, attributes)`` → shape and type of each output. It may not ask operands for fixed extents.
    plan
        ``plan(call)`` → the launch.
    kernels
        Name of a module in `plugins.kernels`, full name of another module, or a mapping of names to Triton functions.
    onnx_body
        Lines of the ONNX function's body, of standard ops; ``@name`` refers to an attribute.
    switches
        Fields of `PluginConfig` that turn it on.
    replaces
        What it computes in the place of, for people.
    tactics
        ``tactics(attributes)`` → ids (above 0) of different launches of the same result, for TensorRT to time.
    aliases
        Output → the input that it is, changed in place.
    version
        Changes when the meaning of a node does.
    """

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, type]
    types: tuple[tuple[str, ...], ...]
    reference: Callable[..., Any]
    results: Callable[[Sequence[Operand], Attributes], tuple[Operand, ...]]
    plan: Callable[[Call], Launch]
    kernels: str | Mapping[str, Any]
    onnx_body: str
    switches: tuple[str, ...]
    replaces: str
    tactics: Callable[[Attributes], Sequence[int]] = field(default=lambda attributes: ())
    aliases: dict[str, str] = field(default_factory=dict)
    version: str = "1"

    def __post_init__(self) -> None:
        torch_form.define(self)

    @property
    def id(self) -> str:
        """Name with its namespace, as TensorRT and ONNX know it."""
        return f"{NAMESPACE}::{self.op_type}"

    def __call__(self, *tensors: torch.Tensor, **attributes: Any) -> Any:
        """Return the result, or a tuple of all results; those that alias an input are that input, changed."""
        if torch.compiler.is_exporting():
            return onnx_form.record(self, tensors, attributes)
        if torch.compiler.is_compiling():
            return self.with_aliases(tensors, self.torch_op(*tensors, *self.ordered(attributes)))
        if tensors[0].is_cuda and triton_form.has_triton():
            return self.launch(*tensors, **attributes)
        return self.with_aliases(tensors, self.reference(*tensors, **attributes))

    def launch(self, *tensors: torch.Tensor, tactic: int = 0, **attributes: Any) -> Any:
        """Run the kernel: on the GPU, or in Triton's interpreter for tensors of the CPU (slow; for tests)."""
        return triton_form.launch(self, tensors, attributes, tactic)

    def launch_into(self, tensors: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor], **attributes: Any) -> None:
        """Run the kernel into given memory: one tensor for each output (an aliased input again)."""
        triton_form.launch_into(self, tensors, outputs, attributes)

    @cached_property
    def torch_op(self) -> Any:
        """The op of the ``trtbench_plugins`` library."""
        return getattr(getattr(torch.ops, torch_form.LIBRARY), self.name)

    def ordered(self, attributes: Attributes) -> list[Any]:
        """Return the attributes' values in the declared order.

        Raises
        ------
        SpecError
            When one is missing or unknown.
        """
        if attributes.keys() != self.attributes.keys():
            raise SpecError(
                f"Attributes {sorted(attributes)} were given and {sorted(self.attributes)} are declared.",
                where=self.id,
                remedy="Give each declared attribute by its name.",
            )
        return [kind(attributes[name]) for name, kind in self.attributes.items()]

    def signature(self, operands: Sequence[Operand], attributes: Attributes) -> tuple[Operand, ...]:
        """Return what each output is, after a check of the types.

        Raises
        ------
        SpecError
            For types that no row of `types` has.
        """
        self.check_count(operands)
        results = self.results(operands, attributes)
        row = tuple(one.dtype for one in (*operands, *results))
        if row not in self.types:
            known = "; ".join(", ".join(types) for types in self.types)
            raise SpecError(
                f"It does not take the types {', '.join(row)}.", where=self.id, remedy=f"Supported: {known}."
            )
        return results

    def check_count(self, given: Sequence[Any]) -> None:
        """Demand as many tensors as there are inputs."""
        if len(given) != len(self.inputs):
            wanted = ", ".join(self.inputs)
            raise SpecError(
                f"{len(given)} tensors were given where it takes {len(self.inputs)}.",
                where=self.id,
                remedy=f"Pass {wanted}.",
            )

    def with_aliases(self, tensors: Sequence[torch.Tensor], returned: Any) -> Any:
        """Add the inputs that were changed in place to what an op or reference returned."""
        own = list(returned) if isinstance(returned, (tuple, list)) else [] if returned is None else [returned]
        if self.aliases:
            position = self.aliased_inputs
            own = [own.pop(0) if at is None else tensors[at] for at in position]
        return tuple(own) if len(own) > 1 else own[0]

    @cached_property
    def aliased_inputs(self) -> tuple[int | None, ...]:
        """For each output, the position of the input that it is, or None."""
        return tuple(self.inputs.index(self.aliases[name]) if name in self.aliases else None for name in self.outputs)
