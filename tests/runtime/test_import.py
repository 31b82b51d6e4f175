"""What `import edgelm` costs, and what it says about a missing or doubled ONNX Runtime."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgelm.errors import ProviderError
from edgelm.providers import check_onnxruntime

HEAVY = (
    "edgelm_export",
    "gguf",
    "huggingface_hub",
    "llguidance",
    "onnx",
    "onnx_ir",
    "safetensors",
    "torch",
    "transformers",
)

LOADED = """
import json, sys
import edgelm
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""

SECONDS = """
import time
import onnxruntime
start = time.perf_counter()
import edgelm
print(time.perf_counter() - start)
"""


def in_clean_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def add_distribution(folder: Path, name: str) -> None:
    """What an installer leaves behind for importlib.metadata to find."""
    info = folder / f"{name.replace('-', '_')}-1.31.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.31.0\n", encoding="utf-8")


def test_import_leaves_exporter_and_frameworks_alone() -> None:
    loaded = json.loads(in_clean_process(LOADED))
    assert "edgelm" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_import_takes_under_300_milliseconds_beside_onnxruntime() -> None:
    # The best of several: the others measure what else the machine was doing.
    assert min(float(in_clean_process(SECONDS)) for _ in range(4)) < 0.3


def test_one_onnxruntime_is_fine() -> None:
    check_onnxruntime()


def test_a_missing_onnxruntime_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # the import system's own way to say "not there"
    with pytest.raises(
        ProviderError, match=r"not installed.*pip install 'edgelm\[cpu\]'.*pip install 'edgelm\[cuda\]'"
    ):
        check_onnxruntime()


def test_two_onnxruntimes_name_the_line_that_repairs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    add_distribution(tmp_path, "onnxruntime")
    add_distribution(tmp_path, "onnxruntime-gpu")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ProviderError, match=r"(?s)both installed.*pip uninstall .*onnxruntime.*pip install 'edgelm\[cpu\]'"
    ):
        check_onnxruntime()
