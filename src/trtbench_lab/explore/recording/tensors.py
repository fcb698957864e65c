"""What the parts of a model give in one run, on every backend: one conversation, so that engines can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...network.node_names import output_nodes, parts_of
from .workload import DECODE, PROMPT, Step, bind_step, step_tensors

if TYPE_CHECKING:
    import torch

    from ...backends.protocol import Executor

_SUFFIX = ".output"


def part_tensors(executor: Any, step: Step) -> dict[str, torch.Tensor]:
    """Return part (see `network.node_names.parts_of`) → its output in `step`, on the host.

    A decode step follows a prompt of its `input_length` tokens, so that what it reads of the cache is what the model
    wrote. Tokens are random and the same for every engine of one vocabulary.

    Raises
    ------
    EngineError
        For a TensorRT engine that was built without enable_debug_output.
    """
    bound = bind_step(executor, step)
    if step.phase == DECODE:
        before = Step(PROMPT, step.batch_size, step.input_length)
        caches = {name: tensor for name, tensor in bound.items() if name.startswith(("past_", "kv_cache_"))}
        _run(executor, {**step_tensors(executor, before, like=step), **caches})
        _bind(executor, bound)
    if executor.backend == "tensorrt":
        from ...backends.tensorrt.debug_tensors import debug_run

        return {name.removesuffix(_SUFFIX): tensor for name, tensor in debug_run(executor).items()}
    if executor.backend == "torch":
        return _of_modules(executor)
    return _of_network(executor.network_files[0], bound)


def _bind(executor: Executor, tensors: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        executor.bind(name, tensor)


def _run(executor: Executor, tensors: Mapping[str, torch.Tensor]) -> None:
    _bind(executor, tensors)
    executor.run()
    executor.synchronize()


def _of_modules(executor: Any) -> dict[str, torch.Tensor]:
    """Read the modules' results as they are computed."""
    from ...network.decoder import Hidden

    found: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, arguments: Any, result: Any) -> None:
            first = result[0] if isinstance(result, tuple) else result
            tensor = first.summed() if isinstance(first, Hidden) else first
            found[name] = tensor.detach().cpu().clone()

        return hook

    handles = [
        module.register_forward_hook(keep(name))
        for name, module in executor.modules().named_modules()
        if name in parts_of(name)
    ]
    try:
        executor.run()
        executor.synchronize()
    finally:
        for handle in handles:
            handle.remove()
    return found


def _of_network(path: Path, bound: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Run the engine's network once more in a session of its own, with the parts' results as outputs."""
    import torch

    from ...backends.onnxruntime.session import session_with_outputs

    def choose(nodes: list[Any]) -> dict[str, str]:
        outputs = {node.name: node.output[0] for node in nodes}
        return {part: outputs[node] for part, node in output_nodes(outputs).items()}

    session, wanted = session_with_outputs(path, choose)
    feeds = {value.name: bound[value.name].numpy() for value in session.get_inputs()}
    names = list(dict.fromkeys(wanted.values()))
    results = dict(zip(names, session.run(names, feeds), strict=True))
    return {part: torch.from_numpy(results[name]) for part, name in wanted.items()}
