"""The demo models and the demo corpus that ship with the package, so that every cell works without a hub.

Both models were trained by ``scripts/make_demo.py`` on stories that ``trtbench_lab.demo.corpus`` writes. Importing this
package costs nothing: no model library is loaded, and paths are checked only when they are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from trtbench_lab.errors import TrtbenchError, did_you_mean

DEMO_MODELS: Mapping[str, str] = MappingProxyType(
    {
        "gpt2": "GPT-2 family: 4 layers of 256, learned positions, tied embeddings",
        "llama": "LLaMA family: 4 layers of 256, 8 query heads on 2 key/value heads, RoPE, RMSNorm, SwiGLU",
    }
)
"""Name of each demo model and one line on its kind."""

SHIPPED_SPLITS: tuple[str, ...] = ("validation", "test")
"""Splits that ship as files; the train split is generated, see `trtbench_lab.demo.corpus.make_record`."""

_HERE = Path(__file__).resolve().parent


def demo_model_dir(name: str = "gpt2") -> Path:
    """Return the folder of a demo model, in the layout of a Hugging Face checkpoint.

    Parameters
    ----------
    name
        One of `DEMO_MODELS`.

    Raises
    ------
    TrtbenchError
        When there is no demo model of that name, or the installation lacks its weights.
    """
    if name not in DEMO_MODELS:
        raise TrtbenchError(
            f"There is no demo model named {name!r}.", where="demo model", remedy=did_you_mean(name, list(DEMO_MODELS))
        )
    folder = _HERE / name
    if not (folder / "model.safetensors").is_file():
        raise TrtbenchError(
            f"The weights of the demo model {name!r} are missing from this installation.",
            where=str(folder),
            remedy=f"Install the package again, or train them: python scripts/make_demo.py all --family {name}",
        )
    return folder


def demo_corpus_path(split: str = "test") -> Path:
    """Return the JSONL file of a shipped split: `article`, `highlights`, `id` and `entities` a line.

    Parameters
    ----------
    split
        ``"validation"`` or ``"test"``.

    Raises
    ------
    TrtbenchError
        When the split does not ship as a file.
    """
    if split == "train":
        raise TrtbenchError(
            "The train split does not ship as a file; it is generated on demand.",
            where="demo corpus",
            remedy="Write it with: python scripts/make_demo.py corpus --split train --records 100000 --out FOLDER",
        )
    path = _HERE / "corpus" / f"{split}.jsonl"
    if split not in SHIPPED_SPLITS or not path.is_file():
        raise TrtbenchError(
            f"There is no demo corpus split named {split!r}.",
            where="demo corpus",
            remedy=did_you_mean(split, SHIPPED_SPLITS),
        )
    return path
