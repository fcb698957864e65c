"""Every place where the backend's source uses TensorRT, found without running it.

A use is an attribute whose name the bindings know: of the module (``trt.X`` and what hangs on it), or of an object.
Names that plain Python, torch or this project use as well count only behind the names that the backend gives TensorRT's
objects.
"""

from __future__ import annotations

import ast
import functools
import pathlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch

from .recorder import SOURCE
from .signatures import core
from .stubs import bindings

FOLDER = SOURCE / "backends" / "tensorrt"
MODULES = frozenset({"trt", "tensorrt"})
HANDLES = frozenset(
    {
        "builder",
        "network",
        "config",
        "parser",
        "profile",
        "cache",
        "earlier",
        "memory",
        "debug_tensor",
        "layer",
        "logger",
        "runtime",
        "engine",
        "context",
        "refitter",
        "parser_refitter",
        "inspector",
        "registry",
        "parser_fault",
    }
)
_OTHERS = (str, bytes, dict, list, tuple, set, int, pathlib.Path, threading.Thread, torch.Tensor, np.ndarray)


@dataclass(frozen=True, order=True)
class Use:
    """One use: the file below the package, the line, the attribute; `called` for a method or constructor."""

    file: str
    line: int
    name: str
    called: bool = False

    @property
    def key(self) -> tuple[str, int, str]:
        return self.file, self.line, self.name


def uses(folder: Path = FOLDER) -> list[Use]:
    """Return every use in the backend's source."""
    found: set[Use] = set()
    for path in sorted(folder.rglob("*.py")):
        found.update(uses_in(path.read_text(encoding="utf-8"), str(path.relative_to(SOURCE))))
    return sorted(found)


def uses_in(source: str, file: str) -> Iterator[Use]:
    """Yield the uses in one source text."""
    tree = ast.parse(source)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in nodes_of(tree):
        yield Use(file, node.end_lineno or node.lineno, node.attr, id(node) in called)


def nodes_of(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Yield the attribute nodes that are uses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_use(node):
            yield node


def _is_use(node: ast.Attribute) -> bool:
    if node.attr.startswith("_") and node.attr != "__version__":
        return False
    root = node.value
    if isinstance(root, ast.Name) and root.id in MODULES:
        return True
    if isinstance(root, ast.Attribute) and _chain_root(root) in MODULES:
        return node.attr in api_names()
    if node.attr not in api_names():
        return False
    receiver = root.id if isinstance(root, ast.Name) else root.attr if isinstance(root, ast.Attribute) else ""
    return receiver.lstrip("_") in HANDLES if node.attr in ambiguous_names() else True


def _chain_root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


@functools.cache
def api_names() -> frozenset[str]:
    """Return the names of all members of all classes and enums."""
    found: set[str] = set()
    for name in dir(core()):
        kind = getattr(core(), name)
        if isinstance(kind, type) and not (name.startswith("IPlugin") and name != "IPluginRegistry"):
            found |= {member for member in vars(kind) if not member.startswith("_")}
    return frozenset(found)


@functools.cache
def ambiguous_names() -> frozenset[str]:
    """Return those of `api_names` that other objects in the backend's reach have too."""
    taken = {name for kind in _OTHERS for name in dir(kind)}
    taken |= {*dir(onnx.ModelProto()), *dir(onnx.TensorProto()), *dir(onnx.NodeProto())}
    for path in SOURCE.rglob("*.py"):
        if FOLDER in path.parents or "plugins" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                taken.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                taken.add(node.target.id)
            elif isinstance(node, ast.ClassDef):  # members of enums
                assigned = [target for inner in node.body if isinstance(inner, ast.Assign) for target in inner.targets]
                taken |= {target.id for target in assigned if isinstance(target, ast.Name)}
    for path in FOLDER.rglob("*.py"):  # the backend's own classes
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not _is_tensorrt_class(node):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef):
                        taken.add(inner.name)
                    elif isinstance(inner, ast.AnnAssign) and isinstance(inner.target, ast.Name):
                        taken.add(inner.target.id)
    return frozenset(taken & api_names())


def _is_tensorrt_class(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Attribute) and _chain_root(base) in MODULES for base in node.bases)


def report(hits: set[tuple[str, int, str]]) -> str:
    """Return the coverage as text: a line a file, then what no test went through."""
    every = uses()
    missed = [use for use in every if use.key not in hits]
    lines = [f"Uses of TensorRT {bindings().__version__} in the backend's source that tests went through:"]
    for file in sorted({use.file for use in every}):
        own = [use for use in every if use.file == file]
        covered = sum(use.key in hits for use in own)
        lines.append(f"  {covered:4} of {len(own):4}  {file}")
    share = 100 * (len(every) - len(missed)) / len(every)
    lines.append(f"  {len(every) - len(missed):4} of {len(every):4}  in all: {share:.1f} %")
    lines += [f"  not exercised: {use.file}:{use.line} {use.name}" for use in missed]
    return "\n".join(lines)
