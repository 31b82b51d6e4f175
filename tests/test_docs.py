"""Generated pages are what the code says today."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from edgelm.generation_config import GenerationConfig
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


def test_the_table_of_options_has_a_row_for_each_and_names_tests_that_exist() -> None:
    page = (DOCS / "generation.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| `")]
    assert [len(row) for row in rows] == [8] * len(rows)
    assert sorted(row[0].strip(" `") for row in rows) == sorted(f.name for f in dataclasses.fields(GenerationConfig))
    for row in rows:
        file, test = re.fullmatch(r" `(\S+)::(\S+)` ", row[7]).groups()  # type: ignore[union-attr]
        code = ast.parse((DOCS.parent / "tests" / file).read_text(encoding="utf-8"))
        assert test in {node.name for node in code.body if isinstance(node, ast.FunctionDef)}, file
