"""Gives a plan weights: a stripped one its own when it is loaded, one built with refit those of another checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ...errors import EngineError
from .bindings_check import created, has_feature
from .error_recorder import ErrorLog


class Refit:
    """One refit of one engine.

    Parameters
    ----------
    trt, engine, logger
        The bindings, a deserialized engine, and a logger that outlives it.
    errors
        Where TensorRT's errors go.
    where
        The plan's file, for messages.
    last
        No other refit of this object follows, nor is it serialized: what TensorRT holds for that is let go.
    """

    def __init__(self, trt: Any, engine: Any, logger: Any, errors: ErrorLog, where: str, *, last: bool = True):
        if not engine.refittable:
            raise EngineError(
                "The plan cannot take other weights than it was built with.",
                where=where,
                remedy="Build the engine again, with --refit.",
            )
        self.refitter = created(lambda: trt.Refitter(engine, logger), "a refitter")
        self.parser = created(lambda: trt.OnnxParserRefitter(self.refitter, logger), "a refitter of ONNX weights")
        self._errors, self._where, self._last = errors, where, last

    def from_network(self, path: Path) -> None:
        """Take the weights of an ONNX file and the data beside it."""
        parser_refitter = self.parser
        if not parser_refitter.refit_from_file(str(path)):
            raise self._parser_fault()
        self._finish()

    def from_tensors(self, proto: bytes, initializers: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Take weights from host memory; each tensor is let go only when the engine has them all."""
        parser_refitter = self.parser
        if not parser_refitter.load_model_proto(proto):
            raise self._parser_fault()
        alive = []  # the refitter reads where they lie
        for name, tensor in initializers:
            tensor = tensor.contiguous()
            alive.append(tensor)
            if not parser_refitter.load_initializer(name, tensor.data_ptr(), tensor.nbytes):
                raise self._errors.fault(f"TensorRT does not take the weights {name!r}.", where=self._where)
        if not parser_refitter.refit_model_proto():
            raise self._parser_fault()
        self._finish()

    def _finish(self) -> None:
        refitter = self.refitter
        if missing := refitter.get_missing_weights():
            raise EngineError(
                f"{len(missing)} weights of the plan are not in its source, the first is {missing[0]!r}.",
                where=self._where,
                remedy="Build the engine again: network and plan do not belong together.",
            )
        if not refitter.refit_cuda_engine():
            raise self._errors.fault("TensorRT could not put the weights in.", where=self._where)
        if self._last and has_feature(refitter, "release_refit_resources"):  # from 11.4 on
            refitter.release_refit_resources()

    def _parser_fault(self) -> EngineError:
        parser_refitter = self.parser
        found = [parser_refitter.get_error(index).desc() for index in range(parser_refitter.num_errors)]
        fault = self._errors.fault("TensorRT could not read the weights from the network.", where=self._where)
        fault.details = "\n".join([*found, fault.details or ""]).strip() or None
        if found:
            fault.what = f"TensorRT could not read the weights from the network: {found[0]}"
        return fault
