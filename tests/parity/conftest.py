"""Settings of every parity test: two threads for torch, transformers' own warnings left to transformers, figures written on demand.

With --record-figures, the worst relative error of each model type goes into docs/parity.json, under the version it was seen with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import transformers

FIGURES = Path(__file__).parents[2] / "docs" / "parity.json"

# Deprecations inside the reference are not ours to mend, whatever module they are reported from.
_TOLERATED = ("DeprecationWarning", "FutureWarning", "UserWarning", "PendingDeprecationWarning")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(2)
    for category in _TOLERATED:
        config.addinivalue_line("filterwarnings", f"ignore::{category}:(torch|transformers|huggingface_hub|gguf)")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record-figures", action="store_true", help="write the worst error of each type to docs/parity.json"
    )


@pytest.fixture(scope="session")
def noted(request: pytest.FixtureRequest) -> Iterator[Callable[[str, float], float]]:
    """Notes a relative error of a model type, and gives it back to be judged."""
    worst: dict[str, float] = {}

    def note(model_type: str, error: float) -> float:
        worst[model_type] = max(worst.get(model_type, 0.0), error)
        return error

    yield note
    if request.config.getoption("--record-figures"):
        _write(worst)


def _write(worst: dict[str, float]) -> None:
    recorded = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.is_file() else {}
    major = transformers.__version__.split(".")[0]
    entry = recorded.get(major, {}).get("errors", {})
    errors = {**entry, **{name: _rounded_up(error) for name, error in worst.items()}}
    recorded[major] = {"transformers": transformers.__version__, "errors": dict(sorted(errors.items()))}
    FIGURES.write_text(json.dumps(dict(sorted(recorded.items())), indent=1) + "\n", encoding="utf-8")


def _rounded_up(error: float) -> float:
    """To two digits."""
    if not 0 < error < math.inf:
        return error
    unit = 10.0 ** (math.floor(math.log10(error)) - 1)
    return float(f"{math.ceil(error / unit) * unit:.1e}")
