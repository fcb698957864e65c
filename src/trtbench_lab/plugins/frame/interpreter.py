"""Run a Triton kernel on the CPU, in a process whose Triton compiles kernels too.

``TRITON_INTERPRET=1`` decides for a whole process, when Triton is imported; then nothing can be compiled. Here one
launch is interpreted: for its duration, functions that were made for the compiler run in Triton's interpreter when a
kernel calls them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .interpreter_numbers import exact_numbers

_lock = threading.RLock()  # the interpreter replaces functions of triton.language while it runs


def interpret(kernel: Any, grid: Sequence[int], arguments: Sequence[Any], constants: Mapping[str, Any]) -> None:
    """Run `kernel` for every point of `grid`, in Python and NumPy, on tensors of the CPU."""
    from triton.runtime.interpreter import InterpretedFunction

    with _lock:
        if isinstance(kernel, InterpretedFunction):  # TRITON_INTERPRET=1
            kernel[tuple(grid)](*arguments, **constants)
            return
        with _interpreted_calls():
            InterpretedFunction(kernel.fn)[tuple(grid)](*arguments, **constants)


@contextmanager
def _interpreted_calls() -> Iterator[None]:
    import triton
    from triton.runtime import interpreter
    from triton.runtime.jit import JITFunction

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        scope = interpreter._patch_lang(self.fn)
        try:
            return interpreter.InterpretedFunction(self.fn).rewrite()(*args, **kwargs)
        finally:
            # Undone after each call: a caller's own replacements do not cover all that a callee's do.
            scope.restore()

    def patch_tensor(tensor: Any, scope: Any) -> None:
        patched(tensor, scope)
        # Scalars are arrays of one element there, which NumPy 2.4 no longer turns into the bound of a loop.
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        # bfloat16 is kept as its bits there, and they would be multiplied as integers.
        if a.dtype == triton.language.bfloat16:
            a, b = (self.cast_impl(side, triton.language.float32) for side in (a, b))
        return dot(self, a, b, *rest)

    compiled_call = JITFunction.__call__
    dot = interpreter.InterpreterBuilder.create_dot
    interpreter.InterpreterBuilder.create_dot = create_dot
    patched = interpreter._patch_lang_tensor
    interpreter._patch_lang_tensor = patch_tensor
    with triton.knobs.runtime.scope(), exact_numbers():
        triton.knobs.runtime.interpret = True
        JITFunction.__call__ = call
        try:
            yield
        finally:
            JITFunction.__call__ = compiled_call
            interpreter.InterpreterBuilder.create_dot = dot
            interpreter._patch_lang_tensor = patched
