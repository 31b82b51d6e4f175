"""What edgelm.json says of a package, and its text; read_manifest.py reads and checks one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from edgelm.adapters import KeptAdapter
from edgelm.errors import ManifestError
from edgelm.signature import CacheGeometry
from edgelm.tasks import EncoderFacts

MANIFEST = "edgelm.json"
PROBES = "probes.onnx"  # known answers of operators, see known_answers.py
FORMAT_VERSION = 1
SEAL = "sha256"  # the manifest's key for its own digest

# Who made the graphs, which says what their programs take: edgelm itself, or Optimum (a growing cache).
EDGELM, OPTIMUM = "edgelm", "optimum"


@dataclass(frozen=True)
class Manifest:
    """What edgelm.json says. Field names are its keys; docs/package-format.md describes them."""

    family: str
    task: str
    architecture: str
    programs: Mapping[str, str]  # program name -> its .onnx file
    cache: CacheGeometry | None  # of a decoder
    context_length: int
    vocab_size: int
    parameters: int
    device: str
    precision: str
    recipe: Mapping[str, Any]
    source: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]  # path in the package -> {"sha256", "size"}
    generation: Mapping[str, Any]
    quality: Mapping[str, Any]
    versions: Mapping[str, str]
    activations: str = "float32"  # dtype of hidden states, as NumPy spells it
    encoder: EncoderFacts | None = None  # of an encoder
    weight_bytes_per_step: int | None = None  # what a decode step reads of the data file; looked-up rows do not count
    probes: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict[str, Mapping[str, Any]]
    )  # output of probes.onnx -> {"operator", "tolerance"}: a known answer of an operator, see known_answers.py
    forms: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict[str, Mapping[str, Any]]
    )  # other device -> what differs there: "programs", "cache", "activations", "probes", "quality", "recorded_run"
    recorded_run: Mapping[str, Any] = field(default_factory=dict[str, Any])  # to be repeated, see recorded_run.py
    adapters: Mapping[str, KeptAdapter] = field(default_factory=dict[str, KeptAdapter])  # kept apart, by name
    notes: tuple[str, ...] = ()
    exporter: str = EDGELM
    format_version: int = FORMAT_VERSION
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def devices(self) -> tuple[str, ...]:
        """Execution providers the package has programs for."""
        return (self.device, *self.forms)

    def on(self, device: str) -> Manifest:
        """The manifest of the programs for one of `devices`."""
        if device == self.device:
            return self
        form = self.forms[device]
        cache = None if form["cache"] is None else CacheGeometry.from_manifest(form["cache"])
        return replace(
            self,
            device=device,
            programs=form["programs"],
            probes=form["probes"],
            cache=cache,
            activations=activations_of(form, cache),
            forms={},
            quality=form.get("quality", {}),
            recorded_run=form.get("recorded_run", {}),
        )

    def measured(self, device: str, **found: Mapping[str, Any]) -> Manifest:
        """The same with another `quality` or `recorded_run` of the programs for one of `devices`."""
        if device == self.device:
            return replace(self, **cast("dict[str, Any]", found))
        return replace(self, forms={**self.forms, device: {**self.forms[device], **found}})

    @property
    def kv_cache(self) -> CacheGeometry:
        """The KV cache of a decoder.

        Raises:
            ManifestError: the package is no decoder.
        """
        if self.cache is None:
            raise ManifestError(f"a package of family {self.family!r} has no KV cache; use a decoder's")
        return self.cache

    @property
    def grows(self) -> bool:
        """Whether decoder programs put out a longer cache each time, instead of writing into the one they are given."""
        return self.exporter == OPTIMUM

    @property
    def encoder_facts(self) -> EncoderFacts:
        """How an encoder is fed and read.

        Raises:
            ManifestError: the package is no encoder.
        """
        if self.encoder is None:
            raise ManifestError(f"a package of family {self.family!r} is no encoder; export an encoder")
        return self.encoder

    @property
    def start_token(self) -> int:
        """The token that targets of an encoder-decoder begin with.

        Raises:
            ManifestError: the checkpoint did not say it.
        """
        start = self.generation.get("decoder_start_token_id", self.generation.get("bos_token_id"))
        if not isinstance(start, int) or not 0 <= start < self.vocab_size:
            raise ManifestError(
                f"the package's decoder_start_token_id {start!r} is no token; correct the checkpoint's "
                "generation_config.json and export it again"
            )
        return start

    def to_json(self) -> str:
        """The manifest's text; the same manifest gives the same bytes."""
        values = {key: value for key, value in vars(self).items() if key != "extra"}
        values["cache"] = None if self.cache is None else self.cache.as_manifest()
        values["encoder"] = None if self.encoder is None else self.encoder.as_manifest()
        values["adapters"] = {name: vars(adapter) for name, adapter in self.adapters.items()}
        return sealed(values)

    def save(self, folder: Path) -> None:
        """Writes it into a package folder."""
        (folder / MANIFEST).write_text(self.to_json(), encoding="utf-8", newline="\n")


def activations_of(values: Mapping[str, Any], cache: CacheGeometry | None) -> str:
    """The dtype of activations that a manifest, or a form of it, names; the cache's where the key is missing.

    Raises:
        TypeError: it is no name.
    """
    named = values.get("activations", "float32" if cache is None else cache.dtype)
    if not isinstance(named, str):
        raise TypeError("activations is no name of a dtype")
    return named


def form_file(name: str, device: str) -> str:
    """What a file of the package is called in its form for another device: decoder.onnx is decoder.cuda.onnx for CUDA."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}.{device}{dot}{suffix}"


def sealed(values: Mapping[str, Any]) -> str:
    """The text of a manifest, its own digest inside: the SHA-256 of the text in which the value of `sha256` is empty."""
    text = json.dumps({**values, SEAL: ""}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    return text.replace(_seal(""), _seal(hashlib.sha256(text.encode("utf-8")).hexdigest()), 1)


def _seal(digest: str) -> str:
    return f'\n "{SEAL}": "{digest}"'  # one space, so of the outermost object


def is_sealed(text: str, digest: object) -> bool:
    """Whether that is the digest of the text of a manifest."""
    unsealed = text.replace(_seal(str(digest)), _seal(""), 1)
    return hashlib.sha256(unsealed.encode("utf-8")).hexdigest() == digest
