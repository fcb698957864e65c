"""What quantizing a model did to each of its layers: rows that a person can sort and plot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..storage import write_json

REPORT = "quantize_report.json"
"""Beside a quantized checkpoint's config.json: what it was calibrated on and what each layer lost."""
_OF_THE_RUN = ("directory", "source", "seconds")


@dataclass(frozen=True)
class LayerError:
    """One quantized linear layer.

    Attributes
    ----------
    module
        Its name.
    out_features, in_features
        Extents of its weight.
    relative_rms_error
        ``‖w' − w‖ / ‖w‖``.
    max_abs_error
        Largest ``|w' − w|``.
    clipped_share
        Share of weights above the largest level by more than half a step, 0 … 1; where activations have a static step,
        the share of the calibration sample beyond it.
    bytes_before, bytes_after
        Of the weight, and of the packed weight with its scales.
    output_relative_error
        ``‖y' − y‖ / ‖y‖`` of the layer's outputs on the calibration sample; None without calibration.
    weight_largest, inputs_largest
        Largest |w| and largest |x| on the calibration text.
    outlier_channels
        Input features whose largest |x| is over 20 times the median feature's.
    """

    module: str
    out_features: int
    in_features: int
    relative_rms_error: float
    max_abs_error: float
    clipped_share: float
    bytes_before: int
    bytes_after: int
    output_relative_error: float | None = None
    weight_largest: float | None = None
    inputs_largest: float | None = None
    outlier_channels: int | None = None


@dataclass(frozen=True)
class QuantizeReport:
    """What `quantize_checkpoint` did.

    Attributes
    ----------
    directory, source
        The new checkpoint; the folder that the weights came from.
    algo, group_size
        Of the quantization.
    layers
        One row a quantized layer, in the order of the network.
    seconds
        Wall time.
    calibration
        Source, size, length, seed and digest of the calibration tokens; None without calibration.
    kv_cache
        Layer number → step of the quantized K/V cache; empty without one.
    quantizer
        Who found the scales: ``"ours"``, ModelOpt with its version, or the file that they were given in.
    """

    directory: str
    source: str
    algo: str
    group_size: int | None
    layers: tuple[LayerError, ...]
    seconds: float
    calibration: dict[str, Any] | None = None
    kv_cache: dict[int, float] = field(default_factory=dict)
    quantizer: str = "ours"

    @property
    def bytes_before(self) -> int:
        """Bytes of the quantized layers' weights before."""
        return sum(layer.bytes_before for layer in self.layers)

    @property
    def bytes_after(self) -> int:
        """Bytes of the same layers after."""
        return sum(layer.bytes_after for layer in self.layers)

    def worst(self, count: int = 5) -> list[LayerError]:
        """Return the `count` layers with the largest relative error, the worst first."""
        return sorted(self.layers, key=lambda layer: -layer.relative_rms_error)[:count]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {**asdict(self), "layers": [asdict(layer) for layer in self.layers]}

    def write(self, directory: Path) -> None:
        """Write `REPORT` into a checkpoint's folder: what follows from the inputs alone, not the time that it took."""
        kept = {name: value for name, value in self.to_dict().items() if name not in _OF_THE_RUN}
        write_json(directory / REPORT, kept)

    def __repr__(self) -> str:
        groups = "a scale a channel" if self.group_size is None else f"groups of {self.group_size}"
        lines = [
            f"{self.algo}, {groups}: {len(self.layers)} layers, {self.bytes_before:,} → {self.bytes_after:,} bytes, "
            f"{self.seconds:.2f} s → {self.directory}",
            f"{'largest relative errors':44} {'‖Δw‖/‖w‖':>10} {'max |Δw|':>10}",
        ]
        lines += [
            f"{layer.module:44} {layer.relative_rms_error:10.4f} {layer.max_abs_error:10.4g}" for layer in self.worst()
        ]
        return "\n".join(lines)


def read_report(directory: Path) -> Mapping[str, Any]:
    """Return what `QuantizeReport.write` left in a checkpoint's folder; empty where there is none.

    Raises
    ------
    CheckpointError
        When the file is damaged.
    """
    from ..checkpoint.manifest import read_json

    path = directory / REPORT
    if not path.exists():
        return {}
    found = read_json(path)
    if not isinstance(found.get("layers"), list) or not isinstance(found.get("calibration"), dict | None):
        raise CheckpointError("The report is damaged.", where=str(path), remedy="Delete it, or quantize again.")
    return found
