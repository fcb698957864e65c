"""Which kernel computes each product: timed on the GPU at build time, kept in ``model.cache``, looked up to run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ....plugins.matmul import tuning as matmul_tuning
from ....plugins.matmul.candidates import candidates
from ....plugins.matmul.choice import Choice, Problem
from ....plugins.matmul.launch import Workspace, problem_of
from ....storage import folder_lock, write_json
from .lowered import LoweredModel, Product

FORMAT = "trtbench-torch-tuning-1"
TOKEN_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Token counts that are timed; between them the next larger one's choice holds, beyond them the library."""
MOST_BY_RULE = 64
"""Tokens up to which quantized products that were not timed take a kernel by rule; beyond, the library's."""
PROMPT_COUNT = 4096
"""Token count that stands for prompts, for products with kernels that beat the library's there: INT8 by INT8."""
GEMM_KINDS = ("dense", "fp8", "fp8_fp8")
"""Kinds of weights whose products `gemm_plugin` is about; the others have plugins of their own names."""
_WAIT_S = 60.0
"""Longest wait for another rank that writes its timings; that takes milliseconds."""
CANDIDATES_BY_LEVEL = {0: 0, 1: 4, 2: 8, 3: 16, 4: 24, 5: 64}


def environment() -> dict[str, str]:
    """What a timing is good for: GPU, driver, versions of torch and Triton."""
    found = {"torch": torch.__version__, "triton": _triton_version(), "gpu": "none", "driver": "none"}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["driver"] = _driver_version()
    return found


def _triton_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("triton")
    except PackageNotFoundError:
        return "none"


def _driver_version() -> str:
    try:
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").split("Module", 1)[1].split()[0]
    except (OSError, IndexError):
        return "unknown"


@dataclass
class ChoiceTable:
    """Choices by product and token count, with the times they were chosen for.

    Attributes
    ----------
    choices
        `Problem.key` → choice.
    times_us
        The same keys → microseconds by kernel: the best of each.
    """

    choices: dict[str, Choice] = field(default_factory=dict)
    times_us: dict[str, dict[str, float]] = field(default_factory=dict)
    _known: dict[tuple[str, int, int], Choice] = field(default_factory=dict)

    def choose(self, name: str, product: Product, tokens: int) -> Choice:
        """Return the choice for a product of `tokens` tokens (see `step.Chooser`)."""
        known = self._known.get((name, id(product), tokens))
        if known is None:
            known = self._known[name, id(product), tokens] = self._looked_up(name, product, tokens)
        return known

    def choose_without_gemm(self, name: str, product: Product, tokens: int) -> Choice:
        """Return the choice with `gemm_plugin` off: dense and FP8 products are the library's."""
        return Choice("library") if product.weights.kind in GEMM_KINDS else self.choose(name, product, tokens)

    def _looked_up(self, name: str, product: Product, tokens: int) -> Choice:
        counted = next((count for count in TOKEN_COUNTS if count >= tokens), None)
        if counted is None and product.weights.kind == "int8_int8":
            counted = PROMPT_COUNT
        if counted is None:
            return Choice("library")
        if tokens == 1 or counted > 1:
            problem = problem_for(product, counted)
            found = self.choices.get(problem.key)
            if found is not None:
                return found
            kind = product.weights.kind
            by_rule = tokens == 1 or kind == "int8_int8" or (kind != "dense" and counted <= MOST_BY_RULE)
            if problem.dtype != "float32" and by_rule:
                return candidates(problem)[0]
        return Choice("library")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a file."""
        return {
            "choices": {key: choice.to_dict() for key, choice in sorted(self.choices.items())},
            "times_us": dict(sorted(self.times_us.items())),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ChoiceTable:
        """Undo `to_dict`."""
        return cls(
            {key: Choice.from_dict(choice) for key, choice in values.get("choices", {}).items()},
            dict(values.get("times_us", {})),
        )


def problem_for(product: Product, tokens: int) -> Problem:
    """Return the problem that a product of a step is timed as."""
    norm, whole = product.fused_norm, product.whole
    if tokens == PROMPT_COUNT and whole is not None:
        return problem_of(tokens, whole, product.dtype)
    return problem_of(tokens, product.weights, product.dtype, gated=product.gate is not None, norm=norm)


def read_cache(path: Path) -> ChoiceTable:
    """Return the table that a ``model.cache`` file holds for this GPU and these versions; empty where it holds none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for entry in content["entries"]:
            if content["format"] == FORMAT and entry["environment"] == environment():
                return ChoiceTable.from_dict(entry)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return ChoiceTable()


def write_cache(path: Path, table: ChoiceTable) -> None:
    """Merge the table into the file, which ranks that are built side by side extend meanwhile.

    What the file holds for other GPUs and versions stays; of this one's choices, `table`'s come before the file's.
    """
    here = environment()
    with folder_lock(path, timeout_s=_WAIT_S):
        others: list[Any] = []
        earlier = read_cache(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] == FORMAT:
                others = [entry for entry in content["entries"] if entry["environment"] != here]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        merged = ChoiceTable({**earlier.choices, **table.choices}, {**earlier.times_us, **table.times_us})
        entries = [*others, {"environment": here, **merged.to_dict()}]
        write_json(path, {"format": FORMAT, "entries": entries})


def tune(
    model: LoweredModel,
    token_counts: Sequence[int],
    level: int,
    table: ChoiceTable,
    *,
    gemm: bool = True,
    check: Callable[[], None] = lambda: None,
    log: Callable[[str], None] = lambda line: None,
) -> int:
    """Time what the table does not hold yet; returns the number of timings taken.

    Parameters
    ----------
    model
        Weights on the GPU.
    token_counts
        Of `TOKEN_COUNTS`.
    level
        Optimization level 0-5: 0 takes the defaults, higher ones try more candidates.
    table
        Changed in place.
    gemm
        Whether dense and FP8 products are timed: not where `gemm_plugin` is off.
    check
        Called between products; may raise to stop.
    log
        Told of each result.
    """
    taken = 0
    if level == 0 or model.dtype == torch.float32:
        return 0
    for tokens in token_counts:
        taken += _tune_count(model, tokens, level, table, gemm, check, log)
    if any(product.weights.kind == "int8_int8" for _, product in _products(model)):
        taken += _tune_count(model, PROMPT_COUNT, level, table, gemm, check, log)
    return taken


def _products(model: LoweredModel) -> Iterator[tuple[str, Product]]:
    """Every product of the model with its name in a layer; recipes may differ from layer to layer."""
    for layer in model.layers:
        for name in ("qkv", "dense", "fc", "proj"):
            product = getattr(layer, name)
            yield name, product
            if product.partner is not None:
                yield name, product.partner
    yield "head", model.head


def _tune_count(
    model: LoweredModel,
    tokens: int,
    level: int,
    table: ChoiceTable,
    gemm: bool,
    check: Callable[[], None],
    log: Callable[[str], None],
) -> int:
    """Time the products of `tokens` tokens that the table does not hold; at `PROMPT_COUNT` those of INT8 by INT8."""
    taken = 0
    alike: dict[str, list[tuple[str, Product]]] = {}
    for name, product in _products(model):
        if not gemm and product.weights.kind in GEMM_KINDS:
            continue
        if tokens != PROMPT_COUNT or (product.weights.kind == "int8_int8" and name != "head"):
            alike.setdefault(problem_for(product, tokens).key, []).append((name, product))
    for key, products in alike.items():
        if key in table.choices:
            continue
        check()
        name, product = products[0]
        problem = problem_for(product, tokens)
        tried = [choice for choice in candidates(problem) if choice.kernel != "library"]
        timings = _timed(problem, model.device, tried[: CANDIDATES_BY_LEVEL[level]])
        if product.inputs is not None and product.inputs.apart:  # whichever follows, the inputs' kernel stays
            timings += _timed(problem, model.device, [Choice("library")])
        else:
            microseconds = _library_us(model, name, [each for _, each in products], tokens)
            timings.append(matmul_tuning.Timing(Choice("library"), microseconds))
        best = _quickest(timings)
        table.choices[key] = best
        table._known.clear()
        by_kernel: dict[str, float] = {}
        for timing in timings:
            if timing.microseconds is not None:
                kernel = timing.choice.kernel
                by_kernel[kernel] = round(min(timing.microseconds, by_kernel.get(kernel, 1e9)), 2)
        table.times_us[key] = by_kernel
        taken += len(timings)
        rate = problem.weight_bytes / by_kernel[best.kernel] / 1e3
        log(f"{key}: {best.kernel}, {by_kernel} µs, {rate:,.0f} GB/s; {best}")
    return taken


def _timed(problem: Problem, device: torch.device, tried: Sequence[Choice]) -> list[matmul_tuning.Timing]:
    return matmul_tuning.measure(problem, device, tried, pdl=_pdl(device))


def _quickest(timings: Sequence[matmul_tuning.Timing]) -> Choice:
    measured = [timing for timing in timings if timing.microseconds is not None]
    return min(measured, key=lambda timing: timing.microseconds or 0.0).choice


def _library_us(model: LoweredModel, name: str, products: Sequence[Product], tokens: int) -> float:
    """Microseconds of one of like products by the library, with this engine's kernels for norm and activation.

    As the candidates are timed: one graph over the weights of several layers, so that none is in a cache.
    """
    from . import ops

    device, weights = model.device, products[0].weights
    products = products[: max(2, min(32, -(-matmul_tuning.COLD_BYTES // products[0].nbytes)))]
    x = torch.randn(tokens, weights.in_features, device=device).to(model.dtype)
    residual = torch.zeros(tokens, weights.out_features, device=device, dtype=model.dtype)
    first = model.layers[0]
    norm = {"qkv": first.input_norm, "fc": first.post_norm, "head": model.final_norm}.get(name)
    work = Workspace(device)

    def run() -> None:
        for each in products:
            ops.linear(
                x,
                each,
                Choice("library"),
                work,
                norm=norm,
                act=model.activation if name == "fc" else None,
                residual=residual if name in ("dense", "proj") else None,
            )

    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream), torch.inference_mode():
        run()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            run()
        samples = []
        for _ in range(matmul_tuning.REPEATS + 1):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record(stream)
            graph.replay()
            end.record(stream)
            end.synchronize()
            samples.append(begin.elapsed_time(end) * 1000 / len(products))
    return sorted(samples[1:])[matmul_tuning.REPEATS // 2]


def _pdl(device: torch.device) -> bool:
    from .ops import dependent_launch

    return dependent_launch(device)
