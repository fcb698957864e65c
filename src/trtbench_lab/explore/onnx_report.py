"""An ONNX file against what TensorRT's parser takes: findings with node, module of ours, reason, remedy."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EngineError
from ..network.node_names import module_group, module_of_node
from ..results.render import Table, html_document, plain_document

if TYPE_CHECKING:
    import onnx

_PROTOBUF_LIMIT = 2 << 30
_EXTERNAL_REMEDY = "Export with external data: onnx.save_model(model, path, save_as_external_data=True)."


@dataclass(frozen=True, kw_only=True)
class LintFinding:
    """One thing that TensorRT's parser refuses, or reads otherwise than ONNX says.

    Attributes
    ----------
    rule
        Short name of the rule.
    node
        The node or tensor, as it is named in the file.
    module
        The module of ours that emitted it; None for a network that this project did not export.
    reason, remedy
        What is wrong; what to do.
    """

    rule: str
    node: str
    module: str | None
    reason: str
    remedy: str


@dataclass(frozen=True, kw_only=True, repr=False)
class LintReport:
    """What a file's examination found.

    Attributes
    ----------
    file
        The file.
    findings
        In the order of the network; none means that TensorRT's parser takes the file.
    nodes, functions, opset
        Nodes of the network; model-local functions; version of ONNX's own operators, None where the file has none.
    weights_bytes
        Size of all initializers, external ones included.
    notes
        What was not looked at, and why.
    """

    file: str
    findings: tuple[LintFinding, ...]
    nodes: int
    functions: int
    opset: int | None
    weights_bytes: int
    notes: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def exit_code(self) -> int:
        """What a shell is told: 0 for nothing found, 1 otherwise."""
        return 0 if self.ok else 1

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data."""
        return {"ok": self.ok, **dataclasses.asdict(self)}

    def tables(self) -> list[Table]:
        """The findings, equal ones of all layers together, and the facts of the file."""
        tables = []
        if self.findings:
            rows = [
                (rule, module or "unknown", node if count == 1 else f"{node} and {count - 1} more", reason, remedy)
                for (rule, module, reason, remedy), (node, count) in self._alike().items()
            ]
            columns = ("rule", "module", "node", "why TensorRT refuses or misreads it", "what to do")
            tables.append(Table(columns, rows))
        facts = [("nodes", self.nodes), ("functions", self.functions), ("opset", self.opset)]
        facts.append(("weights (MiB)", round(self.weights_bytes / 2**20, 1)))  # type: ignore[arg-type]
        tables.append(Table(("file", self.file), facts))
        if self.notes:
            tables.append(Table(("notes",), [(note,) for note in self.notes]))
        return tables

    def __repr__(self) -> str:
        return plain_document(self._title, self._byline, self.tables())

    def _repr_html_(self) -> str:
        return html_document(self._title, self._byline, self.tables())

    @property
    def _title(self) -> str:
        if self.ok:
            return "Lint: TensorRT's parser takes this network; no rule is broken."
        count = len(self.findings)
        return f"Lint: {count} finding{'s' if count != 1 else ''} that TensorRT's parser refuses or misreads."

    @property
    def _byline(self) -> str:
        return "Rules of TensorRT 11.1's ONNX parser and later; TensorRT itself is not needed and was not asked."

    def _alike(self) -> dict[tuple[str, str, str, str], tuple[str, int]]:
        """Return the first node and the number of findings that differ in the layer's number only."""
        counts: Counter[tuple[str, str, str, str]] = Counter()
        first: dict[tuple[str, str, str, str], str] = {}
        for finding in self.findings:
            module = module_group(finding.module) if finding.module else ""
            key = finding.rule, module, _without_names(finding.reason, finding.node), finding.remedy
            counts[key] += 1
            first.setdefault(key, finding.node)
        return {key: (first[key], count) for key, count in counts.items()}


def lint_file(path: Path | str, *, fixed_capacity: bool = True) -> LintReport:
    """Examine an ONNX file by every rule of TensorRT's parser; external data is measured and not read.

    Parameters
    ----------
    path
        The file.
    fixed_capacity
        Demand a constant cache length, which TensorRT's own cache update needs.

    Raises
    ------
    EngineError
        When there is no such file, or it is damaged or no ONNX.
    """
    from ..network.onnx_lint import lint_onnx

    path = Path(path).expanduser()
    if path.is_file() and path.stat().st_size >= _PROTOBUF_LIMIT:
        return _too_large(path)
    model = load_onnx(path)
    findings = [
        LintFinding(
            rule=found.rule,
            node=found.where,
            module=_module(found.where),
            reason=found.message,
            remedy=found.remedy,
        )
        for found in lint_onnx(model, fixed_capacity=fixed_capacity)
    ]
    weights_bytes, of_data = _external(model, path)
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), None)
    return LintReport(
        file=str(path),
        findings=(*findings, *of_data),
        nodes=len(model.graph.node),
        functions=len(model.functions),
        opset=opset,
        weights_bytes=weights_bytes,
    )


def load_onnx(path: Path) -> onnx.ModelProto:
    """Return the model of a file, without its external data.

    Raises
    ------
    EngineError
        When the file is not there, too large for protobuf, damaged, or no ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    if path.is_dir():
        raise EngineError(
            "This is a folder, not an ONNX file.",
            where=str(path),
            remedy="Name the file in it; `--visualize` at a build writes network.onnx into the engine folder.",
        )
    try:
        if path.stat().st_size >= _PROTOBUF_LIMIT:
            raise EngineError(
                "The file is larger than the 2 GiB that protobuf reads.", where=str(path), remedy=_EXTERNAL_REMEDY
            )
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise EngineError(
            f"The file cannot be read: {error.strerror or error}.", where=str(path), remedy="Check the path."
        ) from error
    except (DecodeError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not model.HasField("graph") or not (model.graph.node or model.graph.input or model.graph.initializer):
        raise _damaged(path, "there is no graph in it")
    return model


def _damaged(path: Path, detail: str) -> EngineError:
    return EngineError(
        "The file is damaged, or no ONNX model.",
        where=str(path),
        remedy="Export it again, or copy it again from where it is whole.",
        details=detail,
    )


def _too_large(path: Path) -> LintReport:
    finding = LintFinding(
        rule="file size",
        node=path.name,
        module=None,
        reason=f"The file has {path.stat().st_size / 2**30:.1f} GiB with its weights inside; protobuf, which "
        "TensorRT's "
        "parser reads it with, ends at 2 GiB",
        remedy=_EXTERNAL_REMEDY,
    )
    note = "The network itself could not be read, so no other rule was looked at."
    return LintReport(
        file=str(path), findings=(finding,), nodes=0, functions=0, opset=None, weights_bytes=0, notes=(note,)
    )


def _external(model: onnx.ModelProto, path: Path) -> tuple[int, list[LintFinding]]:
    """Return the size of all weights, and what is wrong with the files that hold them."""
    from onnx import TensorProto

    total, findings = 0, []
    for tensor in _tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            total += tensor.ByteSize()
            continue
        facts = {entry.key: entry.value for entry in tensor.external_data}
        length = int(facts["length"]) if facts.get("length", "").isdigit() else 0
        total += length
        problem = _place_fault(path, facts, length)
        if problem is not None:
            reason, remedy = problem
            findings.append(
                LintFinding(
                    rule="external data",
                    node=tensor.name,
                    module=_module(tensor.name),
                    reason=reason,
                    remedy=remedy,
                )
            )
    return total, findings


def _place_fault(path: Path, facts: dict[str, str], length: int) -> tuple[str, str] | None:
    location = facts.get("location", "")
    target = path.parent / location
    if not location or Path(location).is_absolute() or ".." in Path(location).parts:
        return f"its data is said to be at {location!r}, outside of the model's folder", "Keep data beside the model."
    if not target.is_file():
        return f"its data file {location!r} is not there", "Put the data file beside the model, or export again."
    offset = int(facts["offset"]) if facts.get("offset", "").isdigit() else 0
    if offset + length > target.stat().st_size:
        return f"its data ends beyond the end of {location!r}", "The data file is truncated: copy or export it again."
    return None


def _tensors(model: onnx.ModelProto) -> Iterator[Any]:
    yield from model.graph.initializer
    for node in model.graph.node:
        yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def _module(where: str) -> str | None:
    return module_of_node(where.partition(" (")[0])


def _without_names(text: str, node: str) -> str:
    """Leave out what only tells one layer's finding from the next: names of tensors in quotes."""
    import re

    return re.sub(r"'[^']*\d[^']*'", "'…'", text.replace(node, "…"))
