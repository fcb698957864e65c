"""Random numbers of sampled requests, as a function of the request's seed and the token's number and nothing else."""

from __future__ import annotations

import numpy as np

_STEP = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seeds: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return one draw in [0, 1) a row.

    SplitMix64 (Steele, Lea and Flood 2014): the seed is mixed first, so that neighbouring seeds give streams that have
    nothing to do with each other; then the stream is entered at `numbers`. No state is kept: a token's draw is the same
    whatever else is in the batch and however often its request was put off.

    Parameters
    ----------
    seeds
        (K,) uint64.
    numbers
        (K,) which new token of its request is drawn, from 0.

    Returns
    -------
    np.ndarray
        (K,) float32 multiples of 2⁻²⁴.
    """
    with np.errstate(over="ignore"):
        state = _mixed(seeds.astype(np.uint64) + _STEP) + (numbers.astype(np.uint64) + np.uint64(1)) * _STEP
        return ((_mixed(state) >> np.uint64(40)).astype(np.float32)) * np.float32(2.0**-24)


def _mixed(values: np.ndarray) -> np.ndarray:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
