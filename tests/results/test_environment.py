"""The environment names versions and machine without importing what it names."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata

import trtbench_lab
from trtbench_lab.results import collect_environment
from trtbench_lab.results.environment import machine_of


def test_versions_are_those_installed():
    packages = collect_environment()["packages"]
    assert packages["numpy"] == metadata.version("numpy")
    assert packages["trtbench-lab"] == trtbench_lab.__version__
    assert packages["torch"] == metadata.version("torch")


def test_it_is_plain_data():
    assert json.loads(json.dumps(collect_environment())) == collect_environment()


def test_collecting_imports_none_of_the_packages():
    code = (
        "import sys; from trtbench_lab.results import collect_environment; collect_environment()\n"
        "print(sorted({'torch', 'numpy', 'transformers', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_machine_in_one_phrase():
    machine = {"cpu_model": "AMD EPYC", "cpu_cores_usable": 2, "gpus": [{"name": "NVIDIA H200"}]}
    assert machine_of({"machine": machine}) == "AMD EPYC (2 cores), NVIDIA H200"
    assert machine_of({}) == "unnamed CPU"
