"""Tests of NVIDIA ModelOpt itself are collected where it is installed (the extra `modelopt`)."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("modelopt") is not None else ["test_*.py"]
