"""Decides what an export is for: from the option, the checkpoint's modules, or the class its config names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgelm import tasks
from edgelm.errors import InvalidOption, UnsupportedConfig
from edgelm_export.architectures.base import Architecture
from edgelm_export.blocks.pooling import POOLINGS
from edgelm_export.checkpoint.base import Checkpoint
from edgelm_export.checkpoint.sentence_transformers import ModuleList
from edgelm_export.task import DenseModule, Task

# The end of a class name of transformers -> what its head was trained for.
_CLASSES = {
    "ForConditionalGeneration": tasks.TEXT_TO_TEXT,
    "MTModel": tasks.TEXT_TO_TEXT,
    "T5WithLMHeadModel": tasks.TEXT_TO_TEXT,
    "ForCausalLM": tasks.TEXT_GENERATION,
    "LMHeadModel": tasks.TEXT_GENERATION,
    "ForMaskedLM": tasks.FILL_MASK,
    "ForSequenceClassification": tasks.SEQUENCE_CLASSIFICATION,
    "ForTokenClassification": tasks.TOKEN_CLASSIFICATION,
    "ForQuestionAnswering": tasks.QUESTION_ANSWERING,
    "ForPreTraining": tasks.FILL_MASK,
    "Model": tasks.HIDDEN_STATES,
}
_HEADLESS = (tasks.HIDDEN_STATES, tasks.EMBEDDING)
_ACTIVATIONS = {"Sigmoid": tasks.MULTI_LABEL, "Identity": tasks.REGRESSION}  # of a CrossEncoder -> problem type
_ORIGINAL_OR_REPLACED = ("original", "replaced")


def choose_task(
    checkpoint: Checkpoint, architecture: Architecture, asked: str | None, pooling: str | None = None
) -> Task:
    """The task of an export with all that belongs to it.

    Args:
        asked: a task's name or alias; None leaves it to the checkpoint.
        pooling: how token vectors become an embedding; None leaves it to the checkpoint.

    Raises:
        InvalidOption: an unknown task or pooling, or a pooling for a task without one.
        UnsupportedConfig: the checkpoint has no head for the task, or the architecture does not define it.
    """
    trained = _trained_for(checkpoint, architecture)
    name = tasks.find_task(asked) if asked is not None else _default(checkpoint, architecture, trained)
    if pooling is not None and name != tasks.EMBEDDING:
        raise InvalidOption(f"--pooling belongs to --task {tasks.EMBEDDING}; this export is for {name}")
    _check_served(checkpoint, architecture, name, trained)
    if name == tasks.EMBEDDING:
        return _embedding(checkpoint.modules, architecture, pooling)
    if name in (tasks.SEQUENCE_CLASSIFICATION, tasks.TOKEN_CLASSIFICATION, tasks.RERANKING):
        labels = _labels(checkpoint.config)
        if name == tasks.RERANKING and len(labels) != 1:
            raise UnsupportedConfig(
                f"{checkpoint.files[0]}: a reranker has one output, this classifier {len(labels)} ({', '.join(labels[:4])} …); "
                f"export it with --task {tasks.SEQUENCE_CLASSIFICATION}"
            )
        if name == tasks.RERANKING:
            return _reranker(checkpoint, labels)
        return Task(name, labels=labels, problem_type=_problem_type(checkpoint.config, name, labels))
    if name == tasks.REPLACED_TOKEN_DETECTION:
        return Task(name, labels=_ORIGINAL_OR_REPLACED)
    return Task(name)


def _trained_for(checkpoint: Checkpoint, architecture: Architecture) -> str | None:
    """What the head in the checkpoint was trained for, None where its config names no class that we know."""
    name = _class_name(checkpoint)
    if not name:
        return None
    found = next((task for suffix, task in _CLASSES.items() if name.endswith(suffix)), None)
    if name.endswith("ForPreTraining") and tasks.REPLACED_TOKEN_DETECTION in architecture.heads:
        return tasks.REPLACED_TOKEN_DETECTION
    return found


def _class_name(checkpoint: Checkpoint) -> str:
    """The class of transformers that a config names first, or nothing."""
    names = checkpoint.config.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    return name if isinstance(name, str) else ""


def _default(checkpoint: Checkpoint, architecture: Architecture, trained: str | None) -> str:
    if checkpoint.modules is not None and checkpoint.modules.embeds:
        return tasks.EMBEDDING
    if trained == tasks.SEQUENCE_CLASSIFICATION and _is_reranker(checkpoint.config):
        return tasks.RERANKING
    if architecture.decoder is not None and (
        trained is None or (trained == tasks.HIDDEN_STATES and _has_head(checkpoint))
    ):
        return _written(architecture)
    return trained or tasks.HIDDEN_STATES


def _written(architecture: Architecture) -> str:
    """What a decoder of this architecture writes: the text on, or another text."""
    return tasks.TEXT_TO_TEXT if architecture.seq2seq else tasks.TEXT_GENERATION


def _has_head(checkpoint: Checkpoint) -> bool:
    """Whether a decoder's base class can write text all the same: with a tied head, or one that is there."""
    if _class_name(checkpoint).endswith("EncoderModel"):
        return False  # half of an encoder-decoder
    return checkpoint.config.get("tie_word_embeddings") is True or "lm_head.weight" in checkpoint.tensors


def _check_served(checkpoint: Checkpoint, architecture: Architecture, name: str, trained: str | None) -> None:
    """That architecture and checkpoint have what the task needs."""
    defined = [*architecture.heads, *([_written(architecture)] if architecture.decoder is not None else [])]
    if tasks.SEQUENCE_CLASSIFICATION in defined:
        defined.append(tasks.RERANKING)
    if name not in defined:
        raise UnsupportedConfig(
            f"task {name} is not defined for {checkpoint.config.get('model_type', architecture.family)} (it has {', '.join(defined)})"
        )
    head = tasks.SEQUENCE_CLASSIFICATION if name == tasks.RERANKING else name
    if name in _HEADLESS or trained is None or head == trained:
        return
    half = _class_name(checkpoint).endswith("EncoderModel")
    if head == _written(architecture) and trained == tasks.HIDDEN_STATES and not half:
        return  # a decoder's base class, whose tied head needs no tensor
    raise UnsupportedConfig(
        f"{checkpoint.files[0]}: the checkpoint is a {checkpoint.config['architectures'][0]}, so it holds no head for {name}; "
        f"it serves {', '.join(dict.fromkeys((trained, *(n for n in _HEADLESS if n in defined))))}"
    )


def _embedding(listed: ModuleList | None, architecture: Architecture, pooling: str | None) -> Task:
    if pooling is not None and pooling not in POOLINGS:
        raise InvalidOption(f"pooling {pooling!r} is not known (known: {', '.join(POOLINGS)})")
    if listed is None or not listed.embeds:
        causal = architecture.decoder is not None and not architecture.seq2seq
        chosen = pooling or ("last" if causal else "mean")
        note = f"the checkpoint names no pooling, so {chosen} pooling was taken; --pooling chooses another"
        return Task(tasks.EMBEDDING, pooling=(chosen,), notes=() if pooling else (note,))
    modules = listed.read()
    dense = [
        DenseModule(f"dense_{i}", f"{d.folder}.linear", d.out_features, d.bias, d.activation)
        for i, d in enumerate(modules.dense)
    ]
    return Task(
        tasks.EMBEDDING,
        pooling=modules.pooling if pooling is None else (pooling,),
        dense=tuple(dense),
        normalized=modules.normalized,
        truncate_dim=modules.truncate_dim,
        lowercase=modules.lowercase,
        max_seq_length=modules.max_seq_length,
        prompts=modules.prompts,
        default_prompt=modules.default_prompt,
        tensors=modules.tensors,
        files=modules.files,
    )


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    """The names of a classifier's outputs, by index; transformers has two where a config names none."""
    named = config.get("id2label")
    if not isinstance(named, dict) or not named:
        count = 2 if config.get("num_labels") is None else config["num_labels"]
        if type(count) is not int or not 0 < count < 1 << 20:
            raise UnsupportedConfig(f"num_labels {count!r} of config.json is no number of labels; correct it")
        return tuple(f"LABEL_{i}" for i in range(count))
    try:
        by_index = {int(index): str(label) for index, label in named.items()}
    except ValueError:
        by_index = {}
    if sorted(by_index) != list(range(len(named))):
        raise UnsupportedConfig("id2label of config.json does not number its labels from 0; correct it")
    return tuple(by_index[i] for i in range(len(by_index)))


def _problem_type(config: dict[str, Any], name: str, labels: Sequence[str]) -> str:
    """As stated, or as transformers' text-classification pipeline assumes."""
    stated = config.get("problem_type")
    if stated in (tasks.SINGLE_LABEL, tasks.MULTI_LABEL, tasks.REGRESSION):
        return str(stated)
    if stated is not None:
        raise UnsupportedConfig(
            f"problem_type {stated!r} of config.json is not known "
            f"(known: {tasks.SINGLE_LABEL}, {tasks.MULTI_LABEL}, {tasks.REGRESSION}); correct it"
        )
    if name != tasks.TOKEN_CLASSIFICATION and len(labels) == 1:
        return tasks.MULTI_LABEL  # one output alone is a sigmoid's
    return tasks.SINGLE_LABEL


def _reranker(checkpoint: Checkpoint, labels: tuple[str, ...]) -> Task:
    """The task of a CrossEncoder of sentence-transformers: its logit is a sigmoid's, unless the checkpoint names another."""
    stated, files = (None, ()) if checkpoint.modules is None else checkpoint.modules.activation()
    settings = checkpoint.config.get("sentence_transformers")  # release 4; before it a key of its own, later a file
    stated = stated or (settings.get("activation_fn") if isinstance(settings, dict) else None)
    stated = str(stated or checkpoint.config.get("sbert_ce_default_activation_function") or "torch.nn.Sigmoid")
    activation = stated.rsplit(".", 1)[-1]
    if activation not in _ACTIVATIONS or not stated.startswith("torch."):
        raise UnsupportedConfig(
            f"{checkpoint.files[0]}: activation {stated!r} of this CrossEncoder is not supported (known: torch's "
            f"{', '.join(_ACTIVATIONS)}); export it with --task {tasks.SEQUENCE_CLASSIFICATION}"
        )
    return Task(tasks.RERANKING, labels=labels, problem_type=_ACTIVATIONS[activation], files=files)


def _is_reranker(config: dict[str, Any]) -> bool:
    return len(_labels(config)) == 1 and config.get("problem_type") != tasks.REGRESSION
