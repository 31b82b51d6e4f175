"""What a package can be for: names of tasks, their aliases on the hub, and what the runtime must know to serve an encoder's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, cast

from edgelm.errors import InvalidOption

TEXT_GENERATION = "text-generation"
TEXT_TO_TEXT = "text-to-text"
HIDDEN_STATES = "hidden-states"
EMBEDDING = "embedding"
SEQUENCE_CLASSIFICATION = "sequence-classification"
TOKEN_CLASSIFICATION = "token-classification"
QUESTION_ANSWERING = "question-answering"
FILL_MASK = "fill-mask"
RERANKING = "reranking"
REPLACED_TOKEN_DETECTION = "replaced-token-detection"

ENCODER_TASKS = (
    HIDDEN_STATES,
    EMBEDDING,
    SEQUENCE_CLASSIFICATION,
    TOKEN_CLASSIFICATION,
    QUESTION_ANSWERING,
    FILL_MASK,
    RERANKING,
    REPLACED_TOKEN_DETECTION,
)
TASKS = (TEXT_GENERATION, TEXT_TO_TEXT, *ENCODER_TASKS)

# The hub's pipeline tags, accepted wherever a task is named.
ALIASES: Mapping[str, str] = {
    "feature-extraction": HIDDEN_STATES,
    "sentence-similarity": EMBEDDING,
    "text-classification": SEQUENCE_CLASSIFICATION,
    "text-ranking": RERANKING,
    "text2text-generation": TEXT_TO_TEXT,
    "translation": TEXT_TO_TEXT,
    "summarization": TEXT_TO_TEXT,
}

SINGLE_LABEL, MULTI_LABEL, REGRESSION = "single_label_classification", "multi_label_classification", "regression"


def find_task(name: str) -> str:
    """The task of that name or alias.

    Raises:
        InvalidOption: there is none.
    """
    task = ALIASES.get(name, name)
    if task not in TASKS:
        raise InvalidOption(f"task {name!r} is not known (known: {', '.join(TASKS)})")
    return task


@dataclass(frozen=True)
class EncoderFacts:
    """What a runtime must know to feed an encoder and to read what it puts out.

    Attributes:
        hidden_size: width of `last_hidden_state`.
        vocab_size: how many tokens it reads; 0 for as many as the manifest's vocab_size.
        pad_token_id: what short rows are filled up with.
        token_types: the program takes `token_type_ids`.
        alone: texts that run together would change each other, for the program rounds all of its input alike.
        lowercase: the checkpoint wants its texts in lower case, which its tokenizer does not do itself.
        labels: of a classifier, by index.
        problem_type: how a classifier's logits become scores: single_label_classification (softmax),
            multi_label_classification (sigmoid) or regression (as they are).
        dimensions: width of an embedding.
        pooling: how token vectors become an embedding; several are concatenated.
        normalized: embeddings come out of the graph with length 1.
        prompts: texts to put before a text, by name.
        default_prompt: the name of the one that is put there unless told otherwise.
    """

    hidden_size: int
    pad_token_id: int
    token_types: bool
    alone: bool = True
    vocab_size: int = 0
    lowercase: bool = False
    labels: tuple[str, ...] = ()
    problem_type: str = ""
    dimensions: int = 0
    pooling: tuple[str, ...] = ()
    normalized: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict[str, str])
    default_prompt: str | None = None

    def as_manifest(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        return asdict(self)

    @classmethod
    def from_manifest(cls, values: Mapping[str, Any]) -> EncoderFacts:
        """The facts a manifest holds.

        Raises:
            ValueError: a field is unknown, missing or of the wrong kind.
        """
        known = {f.name: _KINDS[str(f.type)] for f in fields(cls)}
        unknown = sorted(set(values) - set(known))
        wrong = [name for name, value in values.items() if name in known and not known[name](value)]
        if unknown or wrong:
            raise ValueError(f"unknown or of the wrong kind: {', '.join(unknown + wrong)}")
        try:
            facts = cls(**{name: _frozen(value) for name, value in values.items()})
        except TypeError as error:
            raise ValueError(str(error)) from error
        if facts.hidden_size < 1 or facts.pad_token_id < 0 or facts.dimensions < 0:
            raise ValueError("sizes must be positive")
        if facts.default_prompt is not None and facts.default_prompt not in facts.prompts:
            raise ValueError(f"default_prompt {facts.default_prompt!r} is none of the prompts")
        return facts


def _frozen(value: Any) -> Any:
    return tuple(cast("list[Any]", value)) if isinstance(value, list) else value


def _are_texts(values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


# How a field's type is told from JSON, where true is no number.
_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "int": lambda value: type(value) is int,
    "bool": lambda value: isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
    "tuple[str, ...]": lambda value: isinstance(value, (list, tuple)) and _are_texts(value),
    "Mapping[str, str]": lambda value: isinstance(value, dict) and _are_texts(cast("dict[str, Any]", value).values()),
    "str | None": lambda value: value is None or isinstance(value, str),
}
