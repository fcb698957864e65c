"""The library imports without any of its extras, and lightly."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import trtbench_lab

SOURCE = Path(trtbench_lab.__file__).parent

BLOCK = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    names = {names!r}
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
EXTRA_PACKAGES = {
    "IPython",
    "ipywidgets",
    "ipyparallel",
    "mpi4py",
    "onnxruntime",
    "pandas",
    "plotly",
    "pyarrow",
    "tensorrt",
    "traitlets",
    "triton",
}


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=240)


def modules_below_the_faces() -> list[str]:
    found = pkgutil.walk_packages([str(SOURCE)], prefix="trtbench_lab.")
    # Kernels are Triton's source text: the plugin frame imports a module of them when it launches or compiles one.
    apart = ("trtbench_lab.magics", "trtbench_lab.__main__")
    return [one.name for one in found if not one.name.startswith(apart) and "kernels" not in one.name.split(".")]


def test_every_module_below_the_magics_imports_without_the_extras():
    names = modules_below_the_faces()
    assert len(names) > 40
    every = f"import importlib\nfor name in {names!r}:\n    importlib.import_module(name)\n"
    done = run(BLOCK.format(names=EXTRA_PACKAGES) + every)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_nothing_heavy():
    heavy = {"torch", "numpy", "transformers", "onnx", "onnxruntime", "IPython", "plotly", "pandas", "huggingface_hub"}
    rooms = "trtbench_lab.specs, trtbench_lab.cli, trtbench_lab.engine.worker, trtbench_lab.checkpoint.reader"
    done = run(f"import sys, {rooms}\nprint(sorted({heavy!r} & set(sys.modules)))")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_every_public_name_resolves():
    for name in trtbench_lab.__all__:
        assert getattr(trtbench_lab, name) is not None


def test_unknown_public_name_is_an_attribute_error():
    done = run("import trtbench_lab; trtbench_lab.Enigne")
    assert "has no attribute 'Enigne'" in done.stderr
