"""The texts that a package is measured on and calibrated with: those shipped with edgelm, which share nothing, or the user's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

from edgelm.errors import InvalidOption

Purpose = Literal["evaluation", "calibration"]

# Read at most: far more than any measurement reads, and a wrong file cannot fill the memory.
_LARGEST = 16 << 20


@dataclass(frozen=True)
class EvaluationText:
    """A text, and what the manifest says of it: a name without a folder, and the SHA-256 of the file."""

    name: str
    sha256: str
    text: str

    def as_manifest(self) -> dict[str, str]:
        """What the quality card is about."""
        return {"name": self.name, "sha256": self.sha256}


def built_in_text(purpose: Purpose = "evaluation") -> EvaluationText:
    """The text shipped with edgelm; its first lines in the file name its origin."""
    content = (files("edgelm_export") / "data" / f"{purpose}.txt").read_bytes()
    text = content.decode("utf-8").split("\n\n", 1)[1]
    return EvaluationText("built-in", hashlib.sha256(content).hexdigest(), text)


def choose_text(file: str | Path | None, purpose: Purpose = "evaluation") -> EvaluationText:
    """The text of a file, or the built-in one.

    Raises:
        InvalidOption: the file cannot be read, is no UTF-8, is larger than 16 MB, or holds nothing.
    """
    if file is None:
        return built_in_text(purpose)
    path = Path(file)
    try:
        with path.open("rb") as opened:
            content = opened.read(_LARGEST + 1)
    except OSError as error:
        raise InvalidOption(f"{purpose} text {path} cannot be read: {error.strerror}; name a text file") from error
    if len(content) > _LARGEST:
        raise InvalidOption(f"{purpose} text {path} is larger than {_LARGEST >> 20} MB; a few pages of it will do")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidOption(
            f"{purpose} text {path} is not UTF-8 at byte {error.start}; convert it first, for instance with iconv"
        ) from error
    if not text.strip():
        raise InvalidOption(f"{purpose} text {path} is empty; a few pages of the kind of text that matters will do")
    return EvaluationText(path.name, hashlib.sha256(content).hexdigest(), text)
