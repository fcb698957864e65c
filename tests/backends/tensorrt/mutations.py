"""Wrong copies of the backend: one use of TensorRT changed in each, as a slip of the hand or a new version would."""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .calls import nodes_of
from .recorder import SOURCE
from .scenarios import PACKAGE


@dataclass(frozen=True)
class Mutation:
    """One change: where, what was done, and the changed source."""

    file: str
    line: int
    name: str
    change: str
    source: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.name}: {self.change}"


def mutations_of(file: str) -> Iterator[Mutation]:
    """Yield two mutations of each use in one source file (below the package): misspelt, and one other slip in turn."""
    source = (SOURCE / file).read_text(encoding="utf-8")
    tree = ast.parse(source)
    misspelt, *others = _CHANGES
    for number, node in enumerate(nodes_of(tree)):
        start = number % len(others)
        found = 0
        for change in (misspelt, *others[start:], *others[:start]):
            mutated = ast.parse(source)  # a third of the time of a deep copy, some thousand times
            target = list(nodes_of(mutated))[number]
            if _CHANGES[change](target, _parent(mutated, target)):
                text = ast.unparse(ast.fix_missing_locations(mutated))
                yield Mutation(file, node.end_lineno or node.lineno, node.attr, change, text)
                found += 1
            if found == 2:
                break


def _parent(tree: ast.AST, target: ast.AST) -> ast.AST | None:
    for node in ast.walk(tree):
        if any(child is target for child in ast.iter_child_nodes(node)):
            return node
    return None


def _misspelt(node: ast.Attribute, parent: ast.AST | None) -> bool:
    node.attr += "_x"
    return True


def _unknown_keyword(node: ast.Attribute, parent: ast.AST | None) -> bool:
    if not _is_call(node, parent):
        return False
    parent.keywords.append(ast.keyword("no_such_keyword", ast.Constant(1)))  # type: ignore[union-attr]
    return True


def _one_more(node: ast.Attribute, parent: ast.AST | None) -> bool:
    if not _is_call(node, parent):
        return False
    parent.args.append(ast.Constant(1j))  # type: ignore[union-attr]
    return True


def _one_less(node: ast.Attribute, parent: ast.AST | None) -> bool:
    if not _is_call(node, parent) or not parent.args or isinstance(parent.args[-1], ast.Starred):  # type: ignore[union-attr]
        return False
    parent.args.pop()  # type: ignore[union-attr]
    return True


def _wrong_type(node: ast.Attribute, parent: ast.AST | None) -> bool:
    if _is_call(node, parent) and parent.args:  # type: ignore[union-attr]
        parent.args[0] = ast.Constant(1j)  # type: ignore[union-attr]
        return True
    if isinstance(parent, ast.Assign) and node in parent.targets:
        parent.value = ast.Constant(1j)
        return True
    return False


_CHANGES = {
    "misspelt": _misspelt,
    "unknown keyword": _unknown_keyword,
    "one argument more": _one_more,
    "one argument less": _one_less,
    "argument of a wrong type": _wrong_type,
}


def _is_call(node: ast.Attribute, parent: ast.AST | None) -> bool:
    return isinstance(parent, ast.Call) and parent.func is node


class _Override(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, name: str, source: str, path: str):
        self._name, self._source, self._path = name, source, path

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self._name:
            return None
        return importlib.util.spec_from_file_location(name, self._path, loader=self)

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        exec(compile(self._source, self._path, "exec"), module.__dict__)  # noqa: S102


@contextmanager
def in_place(mutation: Mutation) -> Iterator[None]:
    """Let the backend's modules be imported anew, one of them mutated; afterwards all are as before."""
    name = "trtbench_lab." + mutation.file.removesuffix(".py").replace("/", ".")
    before = {key: module for key, module in sys.modules.items() if key == PACKAGE or key.startswith(f"{PACKAGE}.")}
    finder = _Override(name, mutation.source, str(SOURCE / mutation.file))
    for key in before:
        del sys.modules[key]
    sys.meta_path.insert(0, finder)
    parent = importlib.import_module(PACKAGE.rpartition(".")[0])
    package = parent.__dict__.get("tensorrt")
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for key in [key for key in sys.modules if key == PACKAGE or key.startswith(f"{PACKAGE}.")]:
            del sys.modules[key]
        sys.modules.update(before)
        if package is not None:
            parent.__dict__["tensorrt"] = package
