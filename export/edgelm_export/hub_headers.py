"""A hub repository's checkpoint without its weights: small files, and weight files that hold nothing behind their headers.

The weight files have their true length as sparse files, so the readers open and check them as they would the real ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgelm_export import hub
from edgelm_export.catalogue import HubSource
from edgelm_export.fetched import Source
from edgelm_export.hub_files import wanted_files

# Most safetensors headers are shorter; a GGUF header holds the whole vocabulary and says nowhere how long it is.
_FIRST_BYTES = {".safetensors": 1 << 17, ".gguf": 1 << 25}
_LENGTH_BYTES = 8
_DESCRIPTIONS = ("config.json", "modules.json", "config_sentence_transformers.json")


def fetch_headers(wanted: HubSource, folder: Path) -> Source:
    """Fills `folder` with what the headers of a checkpoint on the hub say; for `inspect`, never for an export.

    Raises:
        CheckpointError: no such repository, revision or file; no permission; nothing to read.
        Unreachable: the hub does not answer, or the transfer broke off.
    """
    listing = hub.look_up(wanted, hub.LOOKUP_SECONDS)
    small, weights = wanted_files(listing.sizes.keys(), wanted.file, wanted.id)
    try:
        for name in itertools.chain((name for name in small if _describes(name)), weights):
            target = folder / (Path(name).name if wanted.file else name)
            target.parent.mkdir(exist_ok=True)
            _write(target, listing.sizes, name, _Remote(wanted, listing.commit, name))
    except Exception as error:
        raise hub.explained(error, wanted)  # noqa: B904 - it chains the original itself, or is the original
    path = folder / Path(wanted.file).name if wanted.file else folder
    return Source(path, f"{wanted.id}/{wanted.file}" if wanted.file else wanted.id, listing.commit)


class _Remote:
    """One file of a repository, read from its start."""

    def __init__(self, wanted: HubSource, commit: str, name: str) -> None:
        self._library = hub.library()
        self._url = self._library.hf_hub_url(wanted.id, name, revision=commit, endpoint=hub.endpoint())

    def first(self, count: int) -> bytes:
        """The first `count` bytes, or fewer where the file ends."""
        utils = self._library.utils
        headers = {**utils.build_hf_headers(), "Range": f"bytes=0-{count - 1}"}
        response: Any = utils.get_session().get(self._url, headers=headers)
        utils.hf_raise_for_status(response)
        return response.content[:count]


def _describes(name: str) -> bool:
    """Whether a small file says what the model is; vocabularies do not."""
    return Path(name).name in _DESCRIPTIONS or name.endswith((".index.json", "_config.json", ".safetensors"))


def _write(target: Path, sizes: Mapping[str, int], name: str, remote: _Remote) -> None:
    size = sizes[name]
    head = remote.first(min(size, _FIRST_BYTES.get(target.suffix.lower(), size)))
    if target.suffix == ".safetensors" and len(head) >= _LENGTH_BYTES:
        needed = _LENGTH_BYTES + int.from_bytes(head[:_LENGTH_BYTES], "little")
        if len(head) < needed <= size:
            head = remote.first(needed)
    with target.open("wb") as file:
        file.write(head)
        file.truncate(size)
