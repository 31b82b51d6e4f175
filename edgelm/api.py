"""The two functions a program starts with: export a checkpoint, load a package."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgelm.errors import CheckpointError, InvalidOption, ManifestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgelm.package import Package

# What a package of each family becomes: the module, and the class in it.
_MODELS = {
    "decoder": ("text_generation", "DecoderModel"),
    "encoder": ("text_encoding", "EncoderModel"),
    "encoder-decoder": ("text_to_text", "Seq2SeqModel"),
}


def export(source: str | Path, out: str | Path, **options: Any) -> Package:
    """Exports a checkpoint into a package folder.

    Args:
        source: a folder in hub layout, a .gguf file, a hub id or a name of the catalogue.
        out: the folder to make.
        options: precision ("fp32", "fp16", "int8", "int4", "int4-plain"), block_size, context_length, device, revision, offline,
            recipe (a file), kv_cache ("int8"), max_kld (nats), target_size ("100MB"), write_recipe (a file), calibration_text (a file),
            eval_text (a file), adapter (folders of LoRA adapters to merge), keep_adapter (folders by name, to choose from at
            run time), max_ram (bytes, or such as "2GB"), verify, force.

    Returns:
        The package, opened; its manifest holds the quality figures.

    Raises:
        CheckpointError: the source cannot be exported.
        PackageError: `out` cannot be written.
        VerificationError: the package disagrees with itself or yields NaN.
        InvalidOption: an unknown option or value.
    """
    pipeline = exporter("pipeline")
    return pipeline.export(source, out, pipeline.export_options(options))


def load(
    package: str | Path,
    device: str = "auto",
    threads: int | None = None,
    max_length: int | None = None,
    *,
    max_batch: int | None = None,
    prefix_cache_mib: int | None = None,
    draft_model: str | Path | None = None,
    provider_options: Mapping[str, str] | None = None,
) -> Any:
    """Loads a package.

    Args:
        package: a package folder, or a name of the catalogue (exported at first use into the user's cache folder).
        device: "auto" (CUDA where package and machine both can, else the CPU), or an execution provider's short name, with a number
            where there are several, as in "cuda:1".
        threads: threads inside an operator; None leaves the choice to ONNX Runtime.
        max_length: most positions of prompt and new tokens together; None allows the package's whole context. Memory is
            taken as sequences grow, so a large value costs nothing by itself.
        max_batch: of a decoder: most requests that are answered at the same time (8); the others wait.
        prefix_cache_mib: of a decoder: most memory for what earlier requests computed, in MiB (512); 0 keeps nothing.
        draft_model: of a decoder: the package of a smaller one with the same vocabulary, which guesses tokens that this one
            verifies, several in one step; the text is the same (speculative decoding).
        provider_options: of ONNX Runtime's execution provider, such as {"gpu_mem_limit": "4000000000"}, bytes that CUDA's weights and
            activations may take; the KV cache comes beside them.

    Raises:
        PackageError: the package cannot be opened.
        ProviderError: ONNX Runtime or the provider is missing.
        InvalidOption: a value out of range.
    """
    from edgelm.package import Package
    from edgelm.providers import find_provider

    opened = Package.open(find_package(package))
    family = opened.manifest.family
    if family not in _MODELS:
        raise ManifestError(
            f"{opened.path} is of family {family!r}; this edgelm runs {' and '.join(_MODELS)}, update it"
        )
    module, name = _MODELS[family]
    model = getattr(importlib.import_module(f"edgelm.{module}"), name)  # the other kinds need not be imported
    provider = find_provider(device, package_devices=opened.manifest.devices, options=provider_options)
    options = {"max_batch": max_batch, "prefix_cache_mib": prefix_cache_mib}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if draft_model is not None:
        given["draft_model"] = draft_model
    if given and family != "decoder":
        raise InvalidOption(f"{' and '.join(given)}: only a decoder takes that, and {opened.path} is an {family}")
    if draft_model is not None:
        drafts = Package.open(find_package(draft_model))
        if drafts.manifest.family != "decoder":
            raise InvalidOption(
                f"draft_model {drafts.path} is an {drafts.manifest.family}: only a decoder can guess for another one"
            )
        runs = find_provider(device, package_devices=drafts.manifest.devices, options=provider_options).taking_turns()
        given["draft_model"] = model(drafts.on(runs.runs), runs, threads=threads)
        provider = provider.taking_turns()
    return model(opened.on(provider.runs), provider, threads=threads, max_length=max_length, **given)


def find_package(package: str | Path) -> Path:
    """The folder of a package given by path, or by a catalogue name that is exported on first use."""
    from edgelm.home import packages_folder
    from edgelm.manifest import MANIFEST

    path = Path(package)
    if path.exists() or not isinstance(package, str) or len(path.parts) != 1:
        return path
    target = packages_folder() / package
    if not (target / MANIFEST).is_file():
        catalogue = exporter("catalogue")
        if package not in catalogue.names():
            raise ManifestError(
                f"{package} is neither a package folder nor a name of the catalogue ({', '.join(catalogue.names())}); "
                "make a package with edgelm export"
            )
        export(package, target)
    return target


def exporter(module: str) -> Any:
    """A module of the exporter, the one place where the runtime reaches for it.

    Raises:
        CheckpointError: the exporter's dependencies are not installed.
    """
    try:
        return importlib.import_module(f"edgelm_export.{module}")
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"exporting needs {error.name}, which is not installed: pip install 'edgelm[export]'"
        ) from error
