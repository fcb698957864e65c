"""`Planner`: what a model will need and reach, for any machine, division, quantization and workload, before a build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trtbench_lab import workbench
from trtbench_lab.benchmark.planner import PlanResult
from trtbench_lab.benchmark.planner.gpus import GPUS, THIS
from trtbench_lab.demo import DEMO_MODELS
from trtbench_lab.engine.present import bytes_text, seconds_text
from trtbench_lab.reports.plan import plan_choices, plan_memory, plan_roofline
from trtbench_lab.specs.command_line import parse
from trtbench_lab.specs.requests import PlanSpec
from trtbench_lab.workbench.planning import predicted

from .board import Board, plain_json
from .choices import magic_line, python_lines, shell_line

_SIZES = [[str(size), str(size)] for size in (1, 2, 4, 8, 16)]
_GIB = float(1 << 30)


class Planner(Board):
    """Memory by part, what fits, predicted times, disk and build time, and the cheapest choice that meets a target.

    From config.json alone: nothing is run, and of a hub's model only that file is fetched. Every change is planned
    anew, in some milliseconds; the machine at hand (``gpu="this"``) is measured once, in two seconds.

    Parameters
    ----------
    model
        A folder or config.json, ``"demo:gpt2"``, or an id on the hub.
    theme
        ``"auto"``, ``"light"`` or ``"dark"``.
    **values
        What the controls begin with: `gpu`, `tp_size`, `pp_size`, `quant`, `kv_cache_dtype`, `batch_size` (``"1;8"``),
        `input_len`, `output_len`, `target` (``"itl_ms=5"``).

    Attributes
    ----------
    plan
        The `PlanResult` that is shown; None before the first that could be made.
    spec
        The request as it is chosen; what the lines to copy say.

    Raises
    ------
    TypeError
        For a name that is no control.
    """

    def __init__(self, model: str | Path = "demo:gpt2", *, theme: str = "auto", **values: Any) -> None:
        begin: dict[str, Any] = {
            "model": str(model), "gpu": THIS, "tp_size": "1", "pp_size": "1", "quant": "none", "kv_cache_dtype": "",
            "batch_size": "1", "input_len": 512, "output_len": 128, "target": "",
        }  # fmt: skip
        if unknown := sorted(values.keys() - begin.keys()):
            raise TypeError(f"Planner has no {', '.join(unknown)}; it has {', '.join(begin)}.")
        given = {name: value if isinstance(begin[name], int) else str(value or "") for name, value in values.items()}
        self.plan: PlanResult | None = None
        super().__init__(heading="Plan", theme=theme, values=plain_json({**begin, **given}))
        self.controls = _controls()
        self.refresh()

    @property
    def spec(self) -> PlanSpec:
        """The request as it is chosen.

        Raises
        ------
        SpecError
            When a choice does not fit.
        """
        values = self.values
        words = [
            "--model_dir", values["model"], "--gpu", values["gpu"], "--tp_size", values["tp_size"],
            "--pp_size", values["pp_size"], "--quant", values["quant"], "--batch_size", values["batch_size"],
            "--input_len", str(values["input_len"]), "--output_len", str(values["output_len"]),
        ]  # fmt: skip
        if values["kv_cache_dtype"]:
            words += ["--kv_cache_dtype", values["kv_cache_dtype"]]
        if values["target"]:
            words += ["--target", *values["target"].replace(",", " ").replace(";", " ").split()]
        spec = parse("plan", words)[0]
        assert isinstance(spec, PlanSpec)  # noqa: S101 - what the verb's words make
        return spec

    def keep(self) -> PlanResult:
        """Keep the plan in the history, where a later benchmark of the same finds it and tells how far it was off."""
        kept = workbench.plan(self.spec)
        assert isinstance(kept, PlanResult)  # noqa: S101
        self.plan = kept
        self.actions = [{"kind": "keep", "label": f"Kept as {kept.id}", "disabled": True}]
        return kept

    def redraw(self) -> None:
        spec = self.spec
        plan = predicted(spec)
        self.plan = plan
        figures = [("memory", "", plan_memory(plan)), ("roofline", "", plan_roofline(plan))]
        if plan.target:
            figures.append(("choices", "", plan_choices(plan)))
        with self.hold_sync():
            self.facts = facts_of(plan)
            self.table = _speeds(plan) if len(plan.predictions) > 1 else {}
            self.lines = {
                "magic": magic_line("plan", spec), "python": python_lines("plan", spec),
                "shell": shell_line("plan", spec),
            }  # fmt: skip
            self.actions = [{"kind": "keep", "label": "Keep in history", "disabled": False}]
            words = [plan.model or plan.architecture, plan.gpu, f"tp {plan.tp_size} × pp {plan.pp_size}"]
            self.summary = " · ".join([*words, f"quantization {plan.quantization}", "predicted, nothing was run"])
            self.show(figures)

    def on_message(self, message: dict[str, Any]) -> None:
        if message.get("kind") == "keep":
            self.notice = ""
            self.keep()


def facts_of(plan: PlanResult) -> list[dict[str, str]]:
    """Return the plan's answers one by one: label, value, note, and whether it is good or bad news."""
    first = plan.prediction
    off = f"off by up to {100 * first.spread:.0f} %"
    fits = "fits" if plan.fits else "does not fit"
    most = f"{plan.largest_batch:,}" if plan.largest_batch is not None else "none"
    disk = f"download {bytes_text(plan.download_bytes)}, checkpoint {bytes_text(plan.checkpoint_bytes)}"
    batch = f"batch {first.batch_size}"
    rate = f"{first.tokens_per_sec:,.0f}" if first.tokens_per_sec >= 100 else f"{first.tokens_per_sec:.3g}"
    found = [
        _fact("Can be built and run", "yes" if plan.supported else "no",
              f"{plan.target_backend} backend, {plan.dtype}" if plan.supported else " ".join(plan.reasons),
              "good" if plan.supported else "bad"),
        _fact("Memory of a rank", f"{plan.memory_bytes / _GIB:,.2f} GiB",
              f"{fits}: the machine has {plan.capacity_bytes / _GIB:,.1f} GiB", "good" if plan.fits else "bad"),
        _fact("Most sequences", most, f"of {first.input_length + first.output_length:,} tokens each",
              "" if plan.largest_batch else "bad"),
        _fact(f"Time to first token, {batch}", f"{first.ttft_ms:,.3g} ms", off),
        _fact(f"Inter-token latency, {batch}", f"{first.itl_ms:,.3g} ms", f"{off}; waits for {first.bound_by}"),
        _fact(f"Output tokens a second, {batch}", rate, off),
        _fact("Engine on disk", bytes_text(plan.engine_bytes), disk),
        _fact("Convert and build", seconds_text(plan.build_s) if plan.build_s else "n/a",
              "by this project's own measurements; the processor and disk decide"),
    ]  # fmt: skip
    if plan.target:
        asked = " ".join(f"{name}={limit:g}" for name, limit in plan.target.items())
        best = plan.cheapest
        if best is None:
            found.append(_fact(f"Cheapest for {asked}", "none", "Nothing that was weighed meets it.", "bad"))
        else:
            words = f"tp {best.tp_size} × pp {best.pp_size}, ITL {best.itl_ms:.3g} ms, TTFT {best.ttft_ms:.3g} ms"
            value = f"{best.gpus} × {best.gpu}, {'as it is' if best.quantization == 'none' else best.quantization}"
            found.append(_fact(f"Cheapest for {asked}", value, words, "good"))
    for check in plan.checks[:2]:
        words = f"predicted {check.predicted:.3g}, off by {check.error_percent:+.0f} %"
        found.append(_fact(f"Measured {check.metric}, {check.label}", f"{check.measured:.3g}", words))
    return found


def _fact(label: str, value: str, note: str, state: str = "") -> dict[str, str]:
    return {"label": label, "value": value, "note": note, "state": state}


def _speeds(plan: PlanResult) -> dict[str, Any]:
    """Return the predictions of all batch sizes as a table."""
    columns = ["batch", "TTFT (ms)", "ITL (ms)", "tokens/s", "ITL at the limit (ms)", "a step waits for"]
    rows = [
        [str(one.batch_size), f"{one.ttft_ms:.4g}", f"{one.itl_ms:.4g}", f"{one.tokens_per_sec:,.0f}",
         f"{one.itl_floor_ms:.4g}", one.bound_by]
        for one in plan.predictions
    ]  # fmt: skip
    return {"columns": columns, "rows": rows}


def _controls() -> list[dict[str, Any]]:
    options = {info.name: info for info in PlanSpec.options()}
    help = {name: info.help for name, info in options.items()}
    quants = [[name, name] for name in options["quant"].choices or ()]
    caches = [["", "compute type"], *([name, name] for name in options["kv_cache_dtype"].choices or ())]
    gpus = [[THIS, "this machine"], *([gpu.name, gpu.name] for gpu in GPUS)]
    models = [[f"demo:{name}", what] for name, what in DEMO_MODELS.items()]
    return [
        {"name": "model", "label": "Model", "kind": "line", "help": help["model"], "suggestions": models},
        {"name": "gpu", "label": "GPU", "kind": "select", "options": gpus, "help": help["gpu"]},
        {"name": "tp_size", "label": "Tensor parallel", "kind": "select", "options": _SIZES},
        {"name": "pp_size", "label": "Pipeline parallel", "kind": "select", "options": _SIZES},
        {"name": "quant", "label": "Quantization", "kind": "select", "options": quants, "help": help["quant"]},
        {"name": "kv_cache_dtype", "label": "K/V cache", "kind": "select", "options": caches,
         "help": help["kv_cache_dtype"]},
        {"name": "batch_size", "label": "Batch sizes", "kind": "line", "placeholder": "1;8;64",
         "help": help["batch_size"]},
        {"name": "input_len", "label": "Input tokens", "kind": "number", "min": 1, "help": help["input_len"]},
        {"name": "output_len", "label": "Output tokens", "kind": "number", "min": 1, "help": help["output_len"]},
        {"name": "target", "label": "Target", "kind": "line", "placeholder": "itl_ms=5 ttft_ms=200",
         "help": help["target"]},
    ]  # fmt: skip
