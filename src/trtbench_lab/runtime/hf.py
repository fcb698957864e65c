"""The Hugging Face side: ``transformers``' own generate behind the runner's interface, timed by the same clock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch

from ..errors import IntakeError, RequestError
from ..specs import SamplingConfig
from .hf_generation import HFGeneration, Recorder
from .limits import EngineLimits, prompts_from_request
from .request import settle
from .timing import TokenClock

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class HFRunner:
    """Generates with a Hugging Face model; the same keywords and outputs as `ModelRunner`.

    The model's own generation_config.json is set aside (`model_defaults` keeps it), so that both sides follow the
    request alone. Ragged batches are padded on the left, with the attention mask passed explicitly.

    Parameters
    ----------
    model
        A causal language model of ``transformers``.
    name
        Its label, for results.
    """

    backend = "huggingface"

    def __init__(self, model: Any, *, name: str | None = None) -> None:
        from transformers import GenerationConfig

        self.model = model.eval()
        self.name = name
        self.model_defaults = model.generation_config
        model.generation_config = GenerationConfig()
        config = model.config.get_text_config()
        self.limits = EngineLimits(
            vocab_size=config.vocab_size, max_seq_len=getattr(config, "max_position_embeddings", None)
        )

    @classmethod
    def from_dir(
        cls,
        model_dir: str | Path,
        *,
        dtype: str = "float32",
        device: str | torch.device = "cpu",
        trust_remote_code: bool = False,
    ) -> Self:
        """Load a local model folder.

        Parameters
        ----------
        model_dir
            Folder with config.json and weights.
        dtype
            ``"float32"``, ``"float16"`` or ``"bfloat16"``.
        device
            Where to run it.
        trust_remote_code
            Whether code that lies in the folder may be executed.

        Raises
        ------
        IntakeError
            When the folder is missing or cannot be loaded.
        """
        if dtype not in DTYPES:
            raise RequestError(
                f"{dtype!r} is not a dtype to load a model in.", where="dtype", remedy=f"Use {', '.join(DTYPES)}."
            )
        if not (Path(model_dir) / "config.json").is_file():
            raise IntakeError(
                "There is no Hugging Face model here: config.json is missing.",
                where=str(model_dir),
                remedy="Give the folder of the original model (the engine folder holds no such model).",
            )
        from transformers import AutoModelForCausalLM

        try:
            with _no_progress_bars():
                model = AutoModelForCausalLM.from_pretrained(
                    str(model_dir), dtype=DTYPES[dtype], trust_remote_code=trust_remote_code, local_files_only=True
                )
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            raise IntakeError(
                "Hugging Face's transformers could not load the model.",
                where=str(model_dir),
                remedy="Check that config.json and the weight files belong together; the details tell what it said.",
                details=str(error),
            ) from error
        return cls(model.to(device), name=Path(model_dir).name)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return torch.device(self.model.device)

    @property
    def dtype(self) -> str:
        """Element type of the weights, for example ``"float32"``."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return self.limits.vocab_size

    def generate(
        self,
        batch_input_ids: Any,
        sampling_config: SamplingConfig | None = None,
        *,
        streaming: bool = False,
        return_dict: bool = True,
        **keywords: Any,
    ) -> Any:
        """As `ModelRunner.generate`, by ``transformers``.

        Differences that cannot be hidden: with sampling, the rows of a batch share one random stream (one prompt at a
        time draws exactly as the engine's runner does), so a list of seeds is refused; streaming gives no beams.
        """
        clock = TokenClock()
        self.synchronize()
        clock.start()
        prompts = prompts_from_request(batch_input_ids, self.vocab_size)
        request = settle(sampling_config, keywords, num_prompts=len(prompts), vocab_size=self.vocab_size)
        prompts = self.limits.fitted(prompts, request.truncation, request.config.max_new_tokens)
        self.limits.check_size([len(p) for p in prompts], request.config.max_new_tokens, request.config.num_beams)
        if not request.rules.greedy and len(set(request.rules.seeds)) > 1:
            raise RequestError(
                "Hugging Face draws a whole batch from one random stream: one seed a row is not possible.",
                where="random_seed",
                remedy="Give one seed, or one prompt at a time.",
            )
        generation = HFGeneration(self, prompts, request, clock)
        if streaming:
            if request.config.num_beams > 1:
                raise RequestError(
                    "Hugging Face does not stream beams.", where="streaming", remedy="Use num_beams=1, or no streaming."
                )
            return generation.stream(return_dict)
        generation.run(Recorder(generation))
        return generation.outputs(return_dict)

    def logits_of(self, sequences: Sequence[Sequence[int]], first: Sequence[int] | None = None) -> list[torch.Tensor]:
        """As `ModelRunner.logits_of`: the logits at every position of each sequence, one forward pass a sequence."""
        checked = prompts_from_request(sequences, self.vocab_size)
        first = list(first) if first is not None else [0] * len(checked)
        logits = []
        with torch.no_grad():
            for ids, start in zip(checked, first, strict=True):
                row = torch.tensor([ids], device=self.device)
                kept = self.model(input_ids=row, attention_mask=torch.ones_like(row), logits_to_keep=len(ids) - start)
                logits.append(kept.logits[0].float().cpu())
        return logits

    def memory(self) -> dict[str, int]:
        """Bytes of the weights."""
        tensors = {t.data_ptr(): t.numel() * t.element_size() for t in self.model.parameters()}
        return {"weights_bytes": sum(tensors.values())}

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def close(self) -> None:
        """Let go of the model."""
        self.model = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"HFRunner({self.name or 'model'}, {self.dtype}, {self.device})"


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keep ``transformers`` from drawing bars of its own into a notebook or log; its setting comes back afterwards."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
