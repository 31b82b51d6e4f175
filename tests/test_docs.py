"""Generated pages are what the code says today."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from edgelm_export.architectures import REGISTRY
from tests.architectures.running import FLOAT_TOLERANCE

DOCS = Path(__file__).parent.parent / "docs"
PAGES: dict[str, Callable[[], str]] = runpy.run_path(str(DOCS / "generate.py"))["PAGES"]


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_current(name: str) -> None:
    current = (DOCS / name).read_text(encoding="utf-8")
    assert current == PAGES[name](), "run: python docs/generate.py"


@pytest.mark.parametrize("model_type", sorted(REGISTRY))
def test_every_model_type_was_measured_against_transformers(model_type: str) -> None:
    recorded = json.loads((DOCS / "parity.json").read_text(encoding="utf-8"))
    errors = [entry["errors"][model_type] for entry in recorded.values() if model_type in entry["errors"]]
    assert errors, "run: make figures"
    assert max(errors) < FLOAT_TOLERANCE
