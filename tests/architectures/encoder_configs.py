"""Configurations that encoders are tried with: classes and tables in, contents of config.json files out."""

from __future__ import annotations

from collections import ChainMap

from edgelm.tasks import (
    EMBEDDING,
    FILL_MASK,
    HIDDEN_STATES,
    QUESTION_ANSWERING,
    REPLACED_TOKEN_DETECTION,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
)
from edgelm_export.architectures import REGISTRY
from tests.architectures.encoder_tables import COMMON, OWN
from tests.architectures.random_configs import OWN as DECODERS
from tests.architectures.random_configs import Case, Config, random_cases, spread

# How transformers begins the class names of a model type, and how it ends those of a task.
PREFIXES = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "electra": "Electra",
    "distilbert": "DistilBert",
    "albert": "Albert",
    "mpnet": "MPNet",
    "deberta": "Deberta",
    "deberta-v2": "DebertaV2",
    "modernbert": "ModernBert",
    "eurobert": "EuroBert",
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
}
SUFFIXES = {
    HIDDEN_STATES: "Model",
    FILL_MASK: "ForMaskedLM",
    SEQUENCE_CLASSIFICATION: "ForSequenceClassification",
    TOKEN_CLASSIFICATION: "ForTokenClassification",
    QUESTION_ANSWERING: "ForQuestionAnswering",
    REPLACED_TOKEN_DETECTION: "ForPreTraining",
}
# Classes with a second head, which is left out.
TWO_HEADED = {"bert": {"BertForPreTraining": FILL_MASK}, "albert": {"AlbertForPreTraining": FILL_MASK}}

_LABELLED = (SUFFIXES[SEQUENCE_CLASSIFICATION], SUFFIXES[TOKEN_CLASSIFICATION])


def encoder_types() -> list[str]:
    """Every model type that is an encoder, decoders that may serve as one among them; halves of encoder-decoders are not."""
    return sorted(name for name, kind in REGISTRY.items() if kind.encoder is not None and not kind.seq2seq)


def encoder_classes(model_type: str) -> dict[str, str]:
    """Class of transformers -> task, for each head that the architecture defines and a class is trained with."""
    tasks = [task for task in REGISTRY[model_type].heads if task != EMBEDDING]
    return {PREFIXES[model_type] + SUFFIXES[task]: task for task in tasks}


def task_to_ask_for(config: Config) -> str | None:
    """The option --task for a checkpoint of that config: what has a decoder too is exported as one unless told otherwise."""
    model_type, (class_name,) = config["model_type"], config["architectures"]
    return None if REGISTRY[model_type].decoder is None else encoder_classes(model_type)[class_name]


def with_class(config: Config, class_name: str, labels: int = 3) -> Config:
    """The config of a checkpoint of that class: with its name, and labels where it has any."""
    named = {**config, "architectures": [class_name]}
    if class_name.endswith(_LABELLED):
        named["id2label"] = {str(i): f"label {i}" for i in range(labels)}
        named["label2id"] = {f"label {i}": i for i in range(labels)}
    return named


CASES_PER_CLASS, LEAST_CASES = 2, 12
_LABELS = (1, 2, 3, 5)


def encoder_cases(model_type: str) -> list[Case]:
    """Configurations of a model type, the same on every call: every partial config in one of them, each class in several."""
    classes = [*encoder_classes(model_type), *TWO_HEADED.get(model_type, ())]
    cases: list[Case] = []
    for i, config in enumerate(_configs(model_type, max(LEAST_CASES, CASES_PER_CLASS * len(classes)))):
        class_name, labels = classes[i % len(classes)], _LABELS[i // len(classes) % len(_LABELS)]
        cases.append(Case(f"{model_type}-{i}-{class_name}", with_class(config, class_name, labels)))
    return cases


def _configs(model_type: str, least: int) -> list[Config]:
    """One of each column's partial configs together, at least as often as the longest column is long."""
    if model_type in DECODERS:
        return [{**case.config, "pad_token_id": 0} for case in random_cases(model_type, least)]
    columns = {name: column for name, column in {**COMMON, **OWN[model_type]}.items() if column}
    count = max(least, *map(len, columns.values()))
    drawn = [spread(f"{model_type}.{name}", column, count) for name, column in columns.items()]
    return [dict(ChainMap({"model_type": model_type}, *row)) for row in zip(*drawn, strict=True)]
