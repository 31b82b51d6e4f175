"""Virtual environments of peers, made from the package index and kept until their requirements change."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "benchmarks"

_VERSIONS = """
import importlib.metadata, json, platform, sys
found = {name: importlib.metadata.version(name) for name in sys.argv[1:]}
print(json.dumps({"python": platform.python_version(), **found}))
"""


def environment(name: str) -> Path:
    """The interpreter of `.venv-NAME`, installed from requirements-NAME.txt where it is not yet."""
    requirements = HERE / f"requirements-{name}.txt"
    folder = ROOT / f".venv-{name}"
    python, stamp = folder / "bin" / "python", folder / ".installed"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text(encoding="ascii") == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-input"]
    subprocess.run(
        [*install, "-r", str(requirements)], check=True, env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}
    )
    stamp.write_text(wanted, encoding="ascii")
    return python


def versions(python: Path, names: list[str]) -> dict[str, str]:
    """Versions of distributions in an environment, and of its Python."""
    found = subprocess.run([str(python), "-c", _VERSIONS, *names], check=True, capture_output=True, text=True)
    return json.loads(found.stdout)
