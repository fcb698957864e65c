"""TensorRT's real bindings on a machine without its libraries: empty libraries of the same names, made with gcc.

The bindings link to a handful of C entry points. Libraries in which each of them answers NULL let the module load with
every class, enum and docstring in place; what would need CUDA fails as it does without a driver.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import re
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

VERSION_NUMBER = 110400  # major · 10,000 + minor · 100 + patch, as getInferLibVersion answers
_OWNERS = (("Onnx", "libnvonnxparser.so"), ("initLibNvInferPlugins", "libnvinfer_plugin.so"), ("", "libnvinfer.so"))
_OF_TENSORRT = re.compile(r"^(create(Infer|NvOnnx)\w+|get(Infer|NvOnnx|Plugin|Builder)\w+|initLibNvInferPlugins)$")


@cache
def bindings() -> ModuleType:
    """Return the module `tensorrt_bindings`, over real libraries where they are installed and over stubs elsewhere."""
    if "tensorrt_bindings" in sys.modules:
        return sys.modules["tensorrt_bindings"]
    spec = importlib.util.find_spec("tensorrt_bindings")
    if spec is None or spec.origin is None:
        raise RuntimeError("The tests need TensorRT's bindings: pip install 'trtbench-lab[test]' brings them.")
    try:
        return importlib.import_module("tensorrt_bindings")
    except ImportError:
        for name in [name for name in sys.modules if name.split(".")[0] == "tensorrt_bindings"]:
            del sys.modules[name]
    folder = Path(tempfile.mkdtemp(prefix="tensorrt-stubs-"))
    for library in make_stub_libraries(Path(spec.origin).with_name("tensorrt.so"), folder):
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)  # later loads of the same SONAME find it
    return importlib.import_module("tensorrt_bindings")


def make_stub_libraries(extension: Path, folder: Path) -> list[Path]:
    """Compile one library for each that the extension module names, and return their paths."""
    needed = _lines(["readelf", "-d", extension], r"NEEDED.*\[(libnv\w+\.so\.\d+)\]")
    symbols = set(_lines(["nm", "-D", "--undefined-only", extension], r"^\s+U (\w+)$"))
    wanted = sorted({symbol for symbol in symbols if _OF_TENSORRT.match(symbol)} | {"getInferLibVersion"})
    made = []
    for name in needed:
        own = [symbol for symbol in wanted if name.startswith(f"{_owner(symbol)}.")]
        source = folder / f"{name}.c"
        source.write_text("".join(map(_definition, own)) or "int trtbench_empty;\n")
        target = folder / name
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(target), str(source)]
        subprocess.run(command, check=True, capture_output=True)
        made.append(target)
    return made


def _owner(symbol: str) -> str:
    return next(library for part, library in _OWNERS if part in symbol)


def _definition(symbol: str) -> str:
    if symbol.endswith("Version"):
        return f"int {symbol}(void) {{ return {VERSION_NUMBER}; }}\n"
    if symbol == "initLibNvInferPlugins":
        return f"_Bool {symbol}(void *logger, const char *space) {{ return 1; }}\n"
    return f"void *{symbol}() {{ return 0; }}\n"


def _lines(command: list[object], pattern: str) -> list[str]:
    answer = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout
    return re.findall(pattern, answer, flags=re.MULTILINE)
