"""What sentence-transformers 2 to 6 keeps beside a model: modules.json, pooling, dense layers, prompts. A folder in, one record out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgelm.errors import CheckpointError, UnsupportedConfig
from edgelm_export.checkpoint.base import LazyTensor
from edgelm_export.checkpoint.files import corrupt, exists, is_plain_name, parse_list, read_bytes, read_object, shown
from edgelm_export.checkpoint.safetensors import read_safetensors

_MAX_BYTES = 1 << 20
_PACKAGE = "sentence_transformers."
# In the order in which the results of several stand beside each other.
_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean-sqrt-length",
    "pooling_mode_weightedmean_tokens": "weighted-mean",
    "pooling_mode_lasttoken": "last",
}
_SHORT = {"mean_sqrt_len_tokens": "mean-sqrt-length", "weightedmean": "weighted-mean", "lasttoken": "last"}
_TORCH_ACTIVATIONS = {
    "Tanh": "tanh",
    "Identity": "linear",
    "ReLU": "relu",
    "GELU": "gelu",
    "Sigmoid": "sigmoid",
    "SiLU": "silu",
}
_EMBEDDING = "sentence_embedding"  # what modules behind the pooling read and write


@dataclass(frozen=True)
class DenseFolder:
    """A dense layer in a folder of its own; its tensors are named after the folder."""

    folder: str
    out_features: int
    bias: bool
    activation: str


@dataclass(frozen=True)
class SentenceModules:
    """The modules behind the transformer, in order: pooling, dense layers, normalization; and how texts come to it.

    `truncate_dim` is how many values of an embedding the checkpoint wants kept, None for all.
    """

    pooling: tuple[str, ...]
    dense: tuple[DenseFolder, ...] = ()
    normalized: bool = False
    truncate_dim: int | None = None
    max_seq_length: int | None = None
    lowercase: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    default_prompt: str | None = None
    files: tuple[Path, ...] = ()
    tensors: Mapping[str, LazyTensor] = field(default_factory=dict[str, LazyTensor])


@dataclass(frozen=True)
class ModuleList:
    """What modules.json lists, still unread: a folder that serves as something else may hold modules that edgelm lacks."""

    index: Path
    entries: tuple[tuple[str, str], ...]  # class and folder

    @property
    def embeds(self) -> bool:
        """Whether the modules make one vector of a text."""
        return any(kind.rsplit(".", 1)[-1] == "Pooling" for kind, _ in self.entries)

    def activation(self) -> tuple[str | None, tuple[Path, ...]]:
        """The class of torch that a CrossEncoder's logit goes through, if it is stated here, and the file it comes from.

        Raises:
            CorruptFile: the file is not what it should be.
        """
        file = self.index.parent / "config_sentence_transformers.json"
        named = read_object(file).get("activation_fn") if exists(file) else None
        return (None, ()) if named is None else (str(named), (file,))

    def read(self) -> SentenceModules:
        """The modules.

        Raises:
            UnsupportedConfig: a module or a setting that edgelm does not have.
            CorruptFile: a file is not what it should be.
            CheckpointError: a file is missing, or a dense layer's weights are pickled.
        """
        folder = self.index.parent
        found = _with_settings(SentenceModules((), files=(self.index,)), folder)
        for kind, place in self.entries:
            name = _known(kind, self.index)
            if name == "Transformer" and place == "":
                continue
            read = _READERS.get(name)
            in_order = bool(found.pooling) is not (name == "Pooling") and not (found.normalized and name == "Dense")
            if read is None or place == "" or not in_order:
                raise UnsupportedConfig(
                    f"{self.index}: module {shown(kind)} in {shown(place)} is not supported in this place (known: "
                    "Transformer in the folder itself, then Pooling, Dense, Normalize); --task hidden-states leaves all out"
                )
            found = read(found, folder / place)
        return found


def find_modules(folder: Path) -> ModuleList | None:
    """The list of modules in a folder in the layout of sentence-transformers; None where there is no modules.json.

    Raises:
        CorruptFile: it is no list of modules, or leads out of the folder.
    """
    index = folder / "modules.json"
    if not exists(index):
        return None
    entries: list[tuple[str, str]] = []
    for entry in parse_list(index, read_bytes(index, _MAX_BYTES)):
        kind, place = (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(place, str) or not _is_folder_name(place):
            raise corrupt(index, f"{shown(str(entry))} names no module of this folder")
        entries.append((kind, place))
    return ModuleList(index, tuple(entries))


def _is_folder_name(place: str) -> bool:
    """Whether it is empty, for the folder itself, or the name of a folder in it."""
    return place == "" or (is_plain_name(place) and place not in (".", "..") and not set(place) & set('/\\:"'))


def _known(kind: str, index: Path) -> str:
    """The name of a class of sentence-transformers itself; its modules moved between releases, their classes kept their names."""
    if not kind.startswith(_PACKAGE):
        raise UnsupportedConfig(
            f"{index}: module {shown(kind)} is code of another package or of the checkpoint itself, which edgelm never runs; "
            "--task hidden-states leaves the modules out"
        )
    return kind.rsplit(".", 1)[-1]


def _dropout(found: SentenceModules, folder: Path) -> SentenceModules:
    return found  # it acts in training only


def _pooling(found: SentenceModules, folder: Path) -> SentenceModules:
    file = folder / "config.json"
    config = read_object(file)
    if config.get("include_prompt", True) is not True:
        raise UnsupportedConfig(f"{file}: include_prompt false is not supported; the prompt's tokens are always pooled")
    named = config.get("pooling_mode")
    if named is None:
        named = [mode for key, mode in _MODES.items() if config.get(key)] or ["mean"]
    modes = tuple(_SHORT.get(str(name), str(name)) for name in (named if isinstance(named, list) else [named]))
    unknown = [shown(mode) for mode in modes if mode not in _MODES.values()]
    if unknown or not modes:
        raise UnsupportedConfig(
            f"{file}: pooling {', '.join(unknown) or 'of no kind'} is not supported (known: {', '.join(_MODES.values())})"
        )
    return replace(found, pooling=modes, files=(*found.files, file))


def _dense(found: SentenceModules, folder: Path) -> SentenceModules:
    file, weights = folder / "config.json", folder / "model.safetensors"
    config = read_object(file)
    out, bias = config.get("out_features"), config.get("bias", True)
    if type(out) is not int or not 0 < out < 1 << 20 or type(bias) is not bool:
        raise corrupt(file, "out_features is no size, or bias neither true nor false")
    _check_place(file, config)
    if config.get("use_residual", False) is not False:
        raise UnsupportedConfig(f"{file}: use_residual is not supported; leave it out when the model is trained")
    if not exists(weights):
        raise CheckpointError(
            f"{weights}: is missing; edgelm reads no pickles, so save this model again with sentence-transformers 3 or later"
        )
    name = folder.name
    tensors = {f"{name}.{key}": replace(t, name=f"{name}.{key}") for key, t in read_safetensors(weights).items()}
    layer = DenseFolder(name, out, bias, _activation(file, config.get("activation_function", "torch.nn.Tanh")))
    return replace(
        found,
        dense=(*found.dense, layer),
        files=(*found.files, file, weights),
        tensors={**found.tensors, **tensors},
    )


def _activation(file: Path, name: Any) -> str:
    """Ours for a class of torch; sentence-transformers takes no other without being told to trust it."""
    known = _TORCH_ACTIVATIONS.get(str(name).rsplit(".", 1)[-1])
    if known is None or not str(name).startswith("torch."):
        raise UnsupportedConfig(
            f"{file}: activation {shown(str(name))} is not supported (known: torch's {', '.join(_TORCH_ACTIVATIONS)})"
        )
    return known


def _normalize(found: SentenceModules, folder: Path) -> SentenceModules:
    file = folder / "config.json"
    if exists(file):  # since sentence-transformers 5
        _check_place(file, read_object(file))
        found = replace(found, files=(*found.files, file))
    return replace(found, normalized=True)


def _check_place(file: Path, config: Mapping[str, Any]) -> None:
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, _EMBEDDING):
            raise UnsupportedConfig(
                f"{file}: {key} {shown(str(config[key]))} is not supported; modules behind the pooling read and write "
                f"the {_EMBEDDING}"
            )


_READERS = {
    "Pooling": _pooling,
    "Dense": _dense,
    "Normalize": _normalize,
    "Dropout": _dropout,
}


def _with_settings(found: SentenceModules, folder: Path) -> SentenceModules:
    """Longest text, lower case or not, prompts and the default one, size of an embedding; and the files they come from."""
    # The first of them counts; the names of old ones hold the kind of model.
    files = sorted(
        folder.glob("sentence_*_config.json"), key=lambda file: (file.name != "sentence_bert_config.json", file)
    )
    files, main = files[:1], folder / "config_sentence_transformers.json"
    own = read_object(files[0]) if files else {}
    config = read_object(main) if exists(main) else {}
    longest = own.get("max_seq_length")
    if longest is None:
        longest = _tokenizer_limit(folder)
    elif type(longest) is not int or longest < 1:
        raise corrupt(files[0], f"max_seq_length {shown(str(longest))} is no number of tokens")
    prompts, default, size = (config.get(key) for key in ("prompts", "default_prompt_name", "truncate_dim"))
    prompts = {} if prompts is None else prompts
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise corrupt(main, "its prompts are no texts by name")
    if default is not None and (not isinstance(default, str) or default not in prompts):
        raise corrupt(main, f"its default prompt {shown(str(default))} is none of its prompts")
    if size is not None and (type(size) is not int or size < 1):
        raise corrupt(main, f"truncate_dim {shown(str(size))} is no number of values")
    return replace(
        found,
        truncate_dim=size,
        max_seq_length=longest,
        lowercase=own.get("do_lower_case") is True,
        prompts={name: text or "" for name, text in prompts.items()},
        default_prompt=default,
        files=(*found.files, *files, *([main] if exists(main) else [])),
    )


def _tokenizer_limit(folder: Path) -> int | None:
    """Where the tokenizer cuts, which is where newer releases keep the longest text."""
    file = folder / "tokenizer_config.json"
    limit = read_object(file).get("model_max_length") if exists(file) else None
    return limit if type(limit) is int and limit > 0 else None
