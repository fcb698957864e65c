"""The tokenizer of a local model folder, loaded without network and without running code from the folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import IntakeError, MissingPackageError
from .identify import require_folder, visible_names
from .model_config import read_json_object

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Each row is enough by itself to say which text makes which tokens.
VOCABULARY_FILES: tuple[tuple[str, ...], ...] = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("spiece.model",),
    ("sentencepiece.bpe.model",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("*.tiktoken",),
    ("tekken.json",),
)
_JSON_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "config.json")


def load_tokenizer(directory: Path | str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer in `directory` with transformers.

    Only local files are read. A tokenizer without a padding token (GPT-2, LLaMA) gets its end-of-text token as one, and
    so does one whose padding token lies outside the model's embedding table: lengths and attention masks decide what
    counts here, so the padding token's value never reaches a result, but it must be an id that the model takes.

    Parameters
    ----------
    directory
        The model folder, or any folder with its tokenizer files.
    trust_remote_code
        Run the tokenizer's own Python code from the folder, where it comes with such.

    Raises
    ------
    IntakeError
        No such folder, no tokenizer files (the message lists what was looked for), damaged files, or code of its own
        without consent.
    MissingPackageError
        The tokenizer needs a package that is not installed.
    """
    directory = Path(directory).expanduser()
    require_folder(directory)
    _require_vocabulary(directory)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=trust_remote_code)
    except ImportError as error:
        first_line = str(error).strip().splitlines()[0]
        raise MissingPackageError(
            f"The tokenizer needs a package that is not installed: {first_line}",
            where=str(directory), remedy="Install it with pip, or use a folder that has tokenizer.json.",
        ) from error  # fmt: skip
    except Exception as error:  # transformers lets through whatever damaged files lead to
        raise _refusal(error, directory) from error
    _settle_padding(tokenizer, directory)
    return tokenizer


def _require_vocabulary(directory: Path) -> None:
    # With config.json alone transformers makes a tokenizer of an empty vocabulary, so its files are looked for here.
    names = visible_names(directory)
    rows = [[any(Path(name).match(pattern) for name in names) for pattern in row] for row in VOCABULARY_FILES]
    if any(all(row) for row in rows):
        return
    partly = [pattern for patterns, found in zip(VOCABULARY_FILES, rows, strict=True) if any(found)
              for pattern, is_there in zip(patterns, found, strict=True) if not is_there]  # fmt: skip
    what = f"The tokenizer is incomplete: {', '.join(partly)} is missing." if partly else "There is no tokenizer here."
    looked_for = ", ".join(" with ".join(row) for row in VOCABULARY_FILES)
    raise IntakeError(
        f"{what} Looked for {looked_for}.",
        where=str(directory),
        remedy="Give the folder of the Hugging Face model (--tokenizer_dir), or fetch its tokenizer files.",
    )


def _refusal(error: Exception, directory: Path) -> IntakeError:
    text = str(error)
    if "trust_remote_code" in text or "custom code" in text:
        return IntakeError(
            "The tokenizer comes with Python code of its own, which is not run without consent.",
            where=str(directory),
            remedy="Read that code; if you trust it, pass trust_remote_code=True (--trust_remote_code).",
            details=text,
        )
    for name in _JSON_FILES:
        if (directory / name).is_file():
            try:
                read_json_object(directory / name, what="tokenizer file" if name != "config.json" else "configuration")
            except IntakeError as damage:
                return damage
    return IntakeError(
        f"transformers cannot make a tokenizer of these files ({type(error).__name__}: {text[:160]}).",
        where=str(directory), remedy="Fetch the tokenizer files again.", details=text,
    )  # fmt: skip


def _settle_padding(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    vocab_size = _vocab_size(directory)
    pad_id = tokenizer.pad_token_id
    if pad_id is not None and (vocab_size is None or pad_id < vocab_size):
        return
    for name in ("eos_token", "unk_token", "bos_token"):
        token_id = getattr(tokenizer, f"{name}_id")
        if isinstance(token_id, int) and (vocab_size is None or token_id < vocab_size):
            tokenizer.pad_token = getattr(tokenizer, name)
            return


def _vocab_size(directory: Path) -> int | None:
    """Return the rows of the model's embedding table, where a readable config.json beside the tokenizer tells."""
    try:
        size = read_json_object(directory / "config.json", what="configuration").get("vocab_size")
    except IntakeError:
        return None
    return size if isinstance(size, int) and not isinstance(size, bool) else None
