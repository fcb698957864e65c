"""Find a format for each layer under a budget: measure what every layer loses in every format, then choose the mix.

What a layer loses is measured where it matters, in the distribution of the next token: the layer alone is quantized,
the hidden states run through the rest of the model, and the mean KL divergence from the unquantized model is taken over
calibration tokens. Losses of layers are taken to add up, which they do while they are small; the mix that is chosen is
measured as a whole afterwards, and the report has both numbers. The unquantized model is held in memory in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.quantized_layout import SMOOTHED_HERE
from ..checkpoint.reader import Checkpoint
from ..checkpoint.source import TensorSource
from ..errors import QuantizationError
from ..network import ops
from ..network.decoder import Decoder
from ..network.loading import assign_tensors
from ..progress import ProgressSink, phase
from ..quantization.checkpoint import open_model, whole_reader
from ..quantization.layer import quantized_layer, unclipped_channels
from ..quantization.mix import MixOption, best_mix
from ..quantization.smoothquant import smoothing_factors
from ..specs import Mapping, ModelConfig, QuantAlgo, QuantConfig
from .defined import DefinedLinear, replace_module
from .layers import BATCH_TOKENS, CalibratedLayer, calibrated_layers, decoder_tables
from .search_report import LayerChoice, SearchReport
from .tokens import CalibrationTokens

AS_IT_IS = "as it is"
_GROUPED = {"int4_wo": QuantAlgo.W4A16, "int4_awq": QuantAlgo.W4A16_AWQ, "int4_gptq": QuantAlgo.W4A16_GPTQ}
_CHUNK_ELEMENTS = 1 << 23
"""Logits held at a time."""


@dataclass(frozen=True)
class _Candidate:
    """One unit in one format: its modules as they would run, their configurations, and their bytes."""

    name: str
    modules: dict[str, DefinedLinear]
    configs: dict[str, QuantConfig]
    size_bytes: int


@dataclass(frozen=True)
class _Unit:
    """What is chosen together: one linear layer, or the two of an MLP that read the same norm."""

    layer: int | None
    modules: tuple[str, ...]
    plain_bytes: int
    candidates: tuple[_Candidate, ...]

    @property
    def offered(self) -> list[tuple[str, int]]:
        """Name and bytes of every option, leaving the unit as it is first."""
        return [(AS_IT_IS, self.plain_bytes), *((made.name, made.size_bytes) for made in self.candidates)]


def search_mix(
    source: Path | str | TensorSource | Checkpoint,
    tokens: CalibrationTokens,
    *,
    budget: float,
    formats: Sequence[str],
    metric: str = "kl",
    num_tokens: int = 4096,
    group_size: int | None = None,
    alpha: float = 0.5,
    exclude: QuantConfig | None = None,
    dtype: str = "auto",
    mapping: Mapping | None = None,
    device: torch.device | str = "cpu",
    progress: ProgressSink | None = None,
) -> tuple[QuantConfig, SearchReport]:
    """Return the mixed recipe and how it was found.

    Parameters
    ----------
    source, tokens, dtype, mapping, device, progress
        As `quantize_model` takes them.
    budget
        Most bytes of the linear layers, scales included, as a share of what they take unquantized in the checkpoint's
        type. Excluded layers are outside of it.
    formats
        ``int8_wo``, ``int4_wo``, ``int4_awq``, ``int4_gptq``, ``int8_sq``, ``fp8``; leaving a layer as it is is always
        an option.
    metric
        ``"kl"``, or ``"nll"``: the mean change of the negative log-likelihood of the text's own tokens.
    num_tokens
        Calibration tokens that losses are measured on, in whole rows.
    group_size
        Of the 4-bit formats; None takes the largest of 128, 64, 32 that divides a layer's inputs on every rank.
    alpha
        SmoothQuant's.
    exclude
        Whose `exclude_modules` are left alone; None leaves ``lm_head`` alone.

    Raises
    ------
    QuantizationError
        When the budget is too small for the formats.
    """
    plain, read, _ = whole_reader(open_model(source), dtype, mapping, {})
    excluded = exclude or QuantConfig()
    with_head = not excluded.excludes("lm_head")
    tensor_type = getattr(torch, plain.dtype)
    choose = _Formats(plain, tuple(formats), group_size, alpha, tensor_type)
    units: list[_Unit] = []
    layers = calibrated_layers(
        plain, read, tokens.token_ids, with_gram="int4_gptq" in formats, with_head=with_head, device=device
    )
    weights: list[dict[str, torch.Tensor]] = []
    depth = plain.num_hidden_layers
    with phase("quantize every layer in every format", progress, total=depth, unit="layer") as current:
        for layer in layers:
            if layer.number is not None:
                weights.append(layer.weights)
                current.advance()
            units += choose.units(layer, excluded)
    model = _Model(plain, read, weights, device)
    rows = max(1, min(len(tokens.token_ids), num_tokens // tokens.token_ids.shape[1]))
    sensitivity = _Sensitivity(model, tokens.token_ids[:rows].to(device), metric)
    losses: list[list[float]] = []
    total = sum(len(unit.candidates) for unit in units)
    with phase("measure what each layer loses", progress, total=total, unit="measurement") as current:
        for unit in units:
            losses.append([0.0])
            for candidate in unit.candidates:
                losses[-1].append(sensitivity.loss([(unit, candidate)]))
                current.advance(1, f"{unit.modules[0]}, {candidate.name}")
    options = [
        [MixOption(name, size, max(0.0, loss)) for (name, size), loss in zip(unit.offered, found, strict=True)]
        for unit, found in zip(units, losses, strict=True)
    ]
    plain_bytes = sum(unit.plain_bytes for unit in units)
    mix = best_mix(options, int(budget * plain_bytes))
    chosen = [(unit, unit.candidates[i - 1]) for unit, i in zip(units, mix.choice, strict=True) if i]
    config = QuantConfig()
    if chosen:
        recipe = {module: quant for _, candidate in chosen for module, quant in candidate.configs.items()}
        config = QuantConfig(quant_algo=QuantAlgo.MIXED_PRECISION, quantized_layers=recipe)
    report = SearchReport(
        metric=metric,
        budget=budget,
        budget_bytes=int(budget * plain_bytes),
        plain_bytes=plain_bytes,
        size_bytes=mix.size_bytes,
        predicted_loss=mix.loss,
        measured_loss=sensitivity.loss(chosen),
        lower_bound=mix.lower_bound,
        is_exact=mix.is_exact,
        price=mix.price,
        tokens=rows * tokens.token_ids.shape[1],
        layers=[
            LayerChoice.of(" + ".join(unit.modules), found, i, mix.price)
            for unit, found, i in zip(units, options, mix.choice, strict=True)
        ],
    )
    return config, report


class _Formats:
    """Makes the candidates of a layer."""

    def __init__(
        self, config: ModelConfig, formats: tuple[str, ...], group_size: int | None, alpha: float, dtype: torch.dtype
    ):
        self._config, self._formats, self._group, self._alpha, self._dtype = config, formats, group_size, alpha, dtype

    def units(self, layer: CalibratedLayer, excluded: QuantConfig) -> Iterator[_Unit]:
        left = [module for module in layer.inputs if not excluded.excludes(module)]
        while left:
            module = left.pop(0)
            gate = module.replace("mlp.fc", "mlp.gate")
            together = (module, gate) if module.endswith("mlp.fc") and gate in left else (module,)
            left = [other for other in left if other not in together]
            plain = sum(layer.weights[f"{name}.weight"].numel() * self._dtype.itemsize for name in together)
            made = [self._candidate(layer, together, name) for name in self._formats]
            yield _Unit(layer.number, together, plain, tuple(candidate for candidate in made if candidate is not None))

    def _candidate(self, layer: CalibratedLayer, modules: tuple[str, ...], name: str) -> _Candidate | None:
        """Return the unit in one format; None where the format does not fit its shapes."""
        made, configs, size = {}, {}, 0
        weights = {module: layer.weights[f"{module}.weight"] for module in modules}
        factors = None
        if name == "int8_sq":
            factors = smoothing_factors(layer.inputs[modules[0]], list(weights.values()), self._alpha)
        for module, weight in weights.items():
            quant = self._quant(name, module, weight.shape[1])
            if quant is None or quant.quant_algo is None:
                return None
            tensors = quantized_layer(
                weight, layer.inputs[module], quant, self._dtype, factors=factors,
                clip_from=unclipped_channels(self._config, module),
            )  # fmt: skip
            kept_here = factors is not None and module.endswith(SMOOTHED_HERE)
            if kept_here and factors is not None:
                tensors["smoother"] = factors
            bias = layer.weights.get(f"{module}.bias")
            divided = None if kept_here else factors
            made[module] = DefinedLinear(tensors, quant.quant_algo, bias, divided=divided)
            configs[module] = quant
            size += sum(tensor.nbytes for tensor in tensors.values())
        return _Candidate(name, made, configs, size)

    def _quant(self, name: str, module: str, in_features: int) -> QuantConfig | None:
        if name in _GROUPED:
            algo = _GROUPED[name]
            rows = in_features
            if module.endswith(SMOOTHED_HERE):  # divided by input over the ranks
                rows = in_features // self._config.mapping.tp_size
            fitting = [size for size in (128, 64, 32) if rows % size == 0 and self._group in (None, size)]
            if not fitting:
                return None
            awq = algo is QuantAlgo.W4A16_AWQ
            return QuantConfig(quant_algo=algo, group_size=fitting[0], pre_quant_scale=awq)
        if name == "int8_sq":
            # The norm before lm_head is not divided by anything.
            if module == "lm_head":
                return None
            return QuantConfig(
                quant_algo=QuantAlgo.W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN, smoothquant_val=self._alpha
            )
        if name == "int8_wo":
            return QuantConfig(quant_algo=QuantAlgo.W8A16)
        if name == "fp8":
            return QuantConfig(quant_algo=QuantAlgo.FP8)
        raise QuantizationError(f"The search knows no format {name!r}.", where="formats", remedy="Choose int8_wo, say.")


class _Model:
    """The unquantized model in float32, a decoder of one layer for each layer."""

    def __init__(self, config: ModelConfig, read: Any, weights: list[dict[str, torch.Tensor]], device: Any):
        from ..checkpoint.layout import whole_tensors

        self.config = config.replace(quantization=QuantConfig(), mapping=Mapping(), dtype="float32")
        tensors = {tensor.name: tensor for tensor in whole_tensors(self.config)}
        self.device = torch.device(device)

        def whole(name: str) -> torch.Tensor:
            return read(tensors[name]).float().to(self.device)  # type: ignore[no-any-return]

        self.table = whole("transformer.vocab_embedding.weight")
        learned = self.config.position_embedding_type == "learned_absolute"
        self.positions = whole("transformer.position_embedding.weight") if learned else None
        self.head = whole("lm_head.weight") if "lm_head.weight" in tensors else self.table
        self.quantized_head: DefinedLinear | None = None
        with torch.device("meta"):
            outer = Decoder(self.config.replace(num_hidden_layers=2), Mapping(pp_size=2, rank=1), num_layers=0)
        self.norm = outer.transformer.ln_f
        prefix = "transformer.ln_f."
        assign_tensors(self.norm, {n.removeprefix(prefix): whole(n) for n in tensors if n.startswith(prefix)})
        self.layers = []
        for number, held in enumerate(weights):
            with torch.device("meta"):
                layer = Decoder(self.config.replace(num_hidden_layers=3), Mapping(pp_size=3, rank=1))
            given = {name.replace(f".{number}.", ".0.", 1): w.to(self.device) for name, w in held.items()}
            tables = {name: table.to(self.device) for name, table in decoder_tables(layer).items()}
            assign_tensors(layer, {**given, **tables})
            self.layers.append(layer)

    def embedded(self, token_ids: torch.Tensor) -> torch.Tensor:
        """(rows, length, hidden)."""
        hidden = self.table[token_ids]
        return hidden if self.positions is None else hidden + self.positions[: token_ids.shape[1]]

    def run(self, number: int, hidden: torch.Tensor) -> torch.Tensor:
        """Run one layer over (rows, length, hidden)."""
        layer, length = self.layers[number], hidden.shape[1]
        step = max(1, BATCH_TOKENS // length)
        parts = []
        for part in hidden.split(step):
            shape = (len(part), self.config.kv_heads, length, self.config.head_width)
            caches = [torch.zeros(shape, device=self.device) for _ in range(2)]
            start = torch.zeros(len(part), dtype=torch.int64, device=self.device)
            parts.append(layer(part, start, None, caches)[0])
        return torch.cat(parts)

    def logits(self, hidden: torch.Tensor, *, quantized: bool = True) -> torch.Tensor:
        """(n, V) of (n, hidden)."""
        normed = self.norm(hidden)
        if quantized and self.quantized_head is not None:
            return self.quantized_head(normed)  # type: ignore[no-any-return]
        return ops.linear(normed, self.head, None)

    @contextmanager
    def with_modules(self, chosen: Sequence[tuple[_Unit, _Candidate]]) -> Iterator[None]:
        """Put quantized layers in the places of the plain ones for a while."""
        before: list[tuple[Decoder, str, torch.nn.Module]] = []
        try:
            for unit, candidate in chosen:
                for module, linear in candidate.modules.items():
                    if unit.layer is None:
                        self.quantized_head = linear
                        continue
                    path = module.replace(f".{unit.layer}.", ".0.", 1)
                    decoder = self.layers[unit.layer]
                    before.append((decoder, path, decoder.get_submodule(path)))
                    replace_module(decoder, path, linear)
            yield
        finally:
            self.quantized_head = None
            for decoder, path, plain in before:
                replace_module(decoder, path, plain)


class _Sensitivity:
    """What the distribution of the next token loses when some layers are quantized."""

    def __init__(self, model: _Model, token_ids: torch.Tensor, metric: str):
        self._model, self._metric = model, metric
        self._targets = token_ids[:, 1:]
        with torch.inference_mode():
            self._inputs = [model.embedded(token_ids)]  # of each layer
            for number in range(len(model.layers)):
                self._inputs.append(model.run(number, self._inputs[-1]))

    def loss(self, chosen: Sequence[tuple[_Unit, _Candidate]]) -> float:
        """Mean over tokens, in nats."""
        if not chosen:
            return 0.0
        depth = len(self._model.layers)
        first = min(depth if unit.layer is None else unit.layer for unit, _ in chosen)
        with torch.inference_mode(), self._model.with_modules(chosen):
            hidden = self._inputs[first]
            for number in range(first, depth):
                hidden = self._model.run(number, hidden)
            return self._mean_loss(hidden)

    def _mean_loss(self, hidden: torch.Tensor) -> float:
        # The last token of a row has no next one to compare likelihoods of; KL takes the same tokens.
        ours, theirs = (x[:, :-1].flatten(0, 1) for x in (hidden, self._inputs[-1]))
        targets = self._targets.flatten()
        step = max(1, _CHUNK_ELEMENTS // len(self._model.head))
        total = 0.0
        for start in range(0, len(ours), step):
            part = slice(start, start + step)
            q = self._model.logits(ours[part]).log_softmax(-1)
            p = self._model.logits(theirs[part], quantized=False).log_softmax(-1)
            if self._metric == "kl":
                total += float((p.exp() * (p - q)).sum(-1).sum(dtype=torch.float64))
            else:
                total += float((p - q).gather(1, targets[part, None]).sum(dtype=torch.float64))
        return total / len(ours)
