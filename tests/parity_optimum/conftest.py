"""Settings of every test of the real Optimum: two threads for torch, and its own warnings left to transformers."""

from __future__ import annotations

import pytest
import torch

_TOLERATED = ("DeprecationWarning", "FutureWarning", "UserWarning", "PendingDeprecationWarning")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(2)
    for category in _TOLERATED:
        config.addinivalue_line("filterwarnings", f"ignore::{category}:(torch|transformers|huggingface_hub|optimum)")
