"""What a model is calibrated on."""

from __future__ import annotations

from .options import option
from .spec import Spec


class CalibrationConfig(Spec):
    """Text that is run through the model, layer by layer, to find the ranges of its activations."""

    calib_dataset: str = option(
        default="demo",
        help="Text: 'demo' for the demo corpus, or a .jsonl, .json, .csv, .parquet or .txt file, or a dataset folder.",
        flags=("--calib_data", "--dataset_dir"),
        metavar="PATH",
        group="calibration",
        effect="Ranges fit text like this: use text like what the model will see.",
    )
    calib_size: int = option(
        default=128,
        help="Rows of calibration tokens.",
        minimum=1,
        unit="rows",
        group="calibration",
        effect="Time grows with it; beyond a few hundred rows ranges hardly change.",
    )
    calib_max_seq_length: int = option(
        default=512,
        help="Tokens of a row; texts follow each other in it.",
        minimum=1,
        flags=("--tokenizer_max_seq_length",),
        unit="tokens",
        group="calibration",
    )
    calib_seed: int = option(
        default=0,
        help="Seed of the choice among the texts.",
        minimum=0,
        flags=("--seed", "--random_seed"),
        group="calibration",
    )
    calib_device: str = option(
        default="auto",
        help="Where the layers run: auto takes the GPU if there is one.",
        choices=("auto", "cpu", "cuda"),
        flags=("--device",),
        group="calibration",
    )
