"""The user's cache folder: where fetched checkpoints and packages exported at first use lie. Creates nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def home() -> Path:
    """The cache folder: EDGELM_HOME, else `edgelm` in the platform's cache folder (XDG_CACHE_HOME is heeded)."""
    chosen = os.environ.get("EDGELM_HOME", "")
    if chosen:
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", "")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "edgelm" / "cache"
    # The XDG specification tells to ignore a relative value.
    shared = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if shared.is_absolute():
        return shared / "edgelm"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "edgelm"


def sources_folder() -> Path:
    """Checkpoints fetched for the catalogue, one folder a SHA-256 (the hub's files stay in the hub's own cache)."""
    return home() / "sources"


def packages_folder() -> Path:
    """Packages exported at first use, one folder a catalogue name."""
    return home() / "packages"


def answers_folder() -> Path:
    """What operators answered to their probes, a file for each set of probes, build of ONNX Runtime and kind of processor."""
    return home() / "answers"
