"""Settings of every parity test: two threads for torch, and transformers' own warnings left to transformers."""

from __future__ import annotations

import pytest
import torch

# Deprecations inside the reference are not ours to mend, whatever module they are reported from.
_TOLERATED = ("DeprecationWarning", "FutureWarning", "UserWarning", "PendingDeprecationWarning")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(2)
    for category in _TOLERATED:
        config.addinivalue_line("filterwarnings", f"ignore::{category}:(torch|transformers|huggingface_hub|gguf)")
