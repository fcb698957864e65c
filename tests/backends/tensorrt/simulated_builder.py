"""The backend's builder over a simulated TensorRT and host memory, in whatever process it is made: builds end to end.

Its engines are named after the simulation: nothing here was computed by TensorRT.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from tests.backends.tensorrt.host_cuda import HostCuda
from tests.backends.tensorrt.recorder import Recorder
from tests.backends.tensorrt.simulated_runtime import add_runtime_behaviours
from tests.backends.tensorrt.simulation import add_behaviours

from trtbench_lab.backends.protocol import Availability
from trtbench_lab.backends.tensorrt import loading
from trtbench_lab.backends.tensorrt.builder import TensorRTBuilder

SLOW = "SIMULATED_STEPS"
"""Environment variable: how many steps of 20 ms TensorRT's own build takes."""


class SimulatedBuilder(TensorRTBuilder):
    """See `TensorRTBuilder`."""

    backend = "simulated"

    def __init__(self) -> None:
        self.recorder = Recorder()
        cuda = HostCuda()
        add_behaviours(self.recorder)
        add_runtime_behaviours(self.recorder, cuda)
        build = self.recorder.behaviours["Builder.build_serialized_network"]

        def slowly(builder: Any, network: Any, config: Any) -> Any:
            monitor = config._values["progress_monitor"]
            monitor.phase_start("Timing kernels", None, 10)
            for step in range(int(os.environ.get(SLOW, "1"))):
                time.sleep(0.02)
                if not monitor.step_complete("Timing kernels", step):
                    return None
            monitor.phase_finish("Timing kernels")
            return build(builder, network, config)

        self.recorder.behaviours["Builder.build_serialized_network"] = slowly
        sys.modules["tensorrt"] = self.recorder.module
        loading.cuda_device = lambda device=None: cuda

    def available(self) -> Availability:
        return Availability(True)

    def version(self) -> str:
        return "simulated"
