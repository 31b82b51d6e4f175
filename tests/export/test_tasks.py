"""What an export is for: asked, said by the checkpoint's modules, or by the class its config names; each rule, each refusal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from edgelm import tasks
from edgelm.errors import CheckpointError, InvalidOption, UnsupportedConfig
from edgelm_export.architectures import REGISTRY
from edgelm_export.blocks.pooling import POOLINGS
from edgelm_export.checkpoint.base import Checkpoint
from edgelm_export.checkpoint.sentence_transformers import DenseFolder, ModuleList, SentenceModules
from edgelm_export.task import Task
from edgelm_export.tasks import choose_task

PATH = "sentence_transformers.models."


class Listed(ModuleList):
    """Modules that need no files."""

    def read(self) -> SentenceModules:
        return SentenceModules(
            ("cls", "mean"),
            dense=(DenseFolder("2_Dense", 4, False, "tanh"),),
            normalized=True,
            truncate_dim=3,
            max_seq_length=32,
            lowercase=True,
            prompts={"query": "q: "},
            default_prompt="query",
            files=(Path("modules.json"),),
        )


EMBEDDER = Listed(Path("modules.json"), ((PATH + "Transformer", ""), (PATH + "Pooling", "1_Pooling")))
RERANKER = Listed(Path("modules.json"), ((PATH + "Transformer", ""),))


def choose(
    of: str | None,
    asked: str | None = None,
    *,
    family: str = "bert",
    pooling: str | None = None,
    modules: ModuleList | None = None,
    **config: Any,
) -> Task:
    """The task of a checkpoint whose config names the class `of`."""
    raw = {"model_type": family, **config} | ({} if of is None else {"architectures": [of]})
    checkpoint = Checkpoint("hf", raw, {}, {}, (Path("config.json"),), dict, modules)
    return choose_task(checkpoint, REGISTRY[family], asked, pooling)


def labels(*names: str) -> dict[str, Any]:
    return {"id2label": {str(i): name for i, name in enumerate(names)}}


@pytest.mark.parametrize(
    ("of", "family", "task"),
    [
        ("BertModel", "bert", tasks.HIDDEN_STATES),
        ("BertForMaskedLM", "bert", tasks.FILL_MASK),
        ("BertForPreTraining", "bert", tasks.FILL_MASK),
        ("ElectraForPreTraining", "electra", tasks.REPLACED_TOKEN_DETECTION),
        ("BertForSequenceClassification", "bert", tasks.SEQUENCE_CLASSIFICATION),
        ("ModernBertForTokenClassification", "modernbert", tasks.TOKEN_CLASSIFICATION),
        ("BertForQuestionAnswering", "bert", tasks.QUESTION_ANSWERING),
        ("BertForMultipleChoice", "bert", tasks.HIDDEN_STATES),
        (None, "bert", tasks.HIDDEN_STATES),
        ("LlamaForCausalLM", "llama", tasks.TEXT_GENERATION),
        ("LlamaModel", "llama", tasks.HIDDEN_STATES),
        ("Qwen3ForSequenceClassification", "qwen3", tasks.SEQUENCE_CLASSIFICATION),
        (None, "qwen3", tasks.TEXT_GENERATION),
    ],
)
def test_the_class_of_the_checkpoint_decides(of: str | None, family: str, task: str) -> None:
    assert choose(of, family=family, **labels("a", "b", "c")).name == task


def test_a_base_class_of_a_decoder_writes_text_where_its_head_is_tied() -> None:
    assert choose("LlamaModel", family="llama", tie_word_embeddings=True).name == tasks.TEXT_GENERATION


@pytest.mark.parametrize("architectures", [[], "BertForMaskedLM", [7], None, {}])
def test_a_config_that_names_no_class_leaves_the_family_to_decide(architectures: Any) -> None:
    assert choose(None, architectures=architectures).name == tasks.HIDDEN_STATES


def test_modules_make_an_embedder_whatever_the_class() -> None:
    for family, of in (("bert", "BertForMaskedLM"), ("bert", "BertModel"), ("qwen3", "Qwen3ForCausalLM")):
        assert choose(of, family=family, modules=EMBEDDER).name == tasks.EMBEDDING


def test_modules_without_pooling_leave_the_class_to_decide() -> None:
    assert choose("BertForMaskedLM", modules=RERANKER).name == tasks.FILL_MASK
    assert choose("BertForSequenceClassification", modules=RERANKER, **labels("a")).name == tasks.RERANKING
    assert choose("BertModel", tasks.EMBEDDING, modules=RERANKER).pooling == ("mean",)


def test_everything_the_modules_say_is_in_the_task() -> None:
    task = choose("BertModel", modules=EMBEDDER)
    assert (task.pooling, task.normalized, task.truncate_dim) == (("cls", "mean"), True, 3)
    assert (task.lowercase, task.max_seq_length) == (True, 32)
    assert (task.prompts, task.default_prompt) == ({"query": "q: "}, "query")
    assert [(d.name, d.source, d.out_features, d.bias, d.activation) for d in task.dense] == [
        ("dense_0", "2_Dense.linear", 4, False, "tanh")
    ]
    assert task.files == (Path("modules.json"),)
    assert task.notes == ()


def test_another_task_leaves_the_modules_out() -> None:
    task = choose("BertModel", tasks.HIDDEN_STATES, modules=EMBEDDER)
    assert (task.name, task.dense, task.files, task.max_seq_length) == (tasks.HIDDEN_STATES, (), (), None)


def test_a_pooling_replaces_that_of_the_modules_and_keeps_the_rest() -> None:
    task = choose("BertModel", modules=EMBEDDER, pooling="max")
    assert (task.pooling, len(task.dense), task.normalized) == (("max",), 1, True)


@pytest.mark.parametrize(("family", "pooling"), [("bert", "mean"), ("modernbert", "mean"), ("qwen3", "last")])
def test_where_no_pooling_is_named_the_usual_one_is_taken_and_said(family: str, pooling: str) -> None:
    task = choose(None, tasks.EMBEDDING, family=family)
    assert task.pooling == (pooling,)
    assert task.notes == (
        f"the checkpoint names no pooling, so {pooling} pooling was taken; --pooling chooses another",
    )


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_pooling_that_was_asked_for_needs_no_note(pooling: str) -> None:
    assert choose(None, tasks.EMBEDDING, pooling=pooling) == Task(tasks.EMBEDDING, pooling=(pooling,))


@pytest.mark.parametrize("alias", tasks.ALIASES)
def test_tasks_go_by_the_hubs_names_too(alias: str) -> None:
    task = tasks.ALIASES[alias]
    of = {tasks.TEXT_TO_TEXT: "BartForConditionalGeneration", tasks.EMBEDDING: None, tasks.HIDDEN_STATES: None}
    family = "bart" if task == tasks.TEXT_TO_TEXT else "bert"
    assert choose(of.get(task, "BertForSequenceClassification"), alias, family=family, **labels("a")).name == task


def test_an_unknown_task_lists_those_that_are_known() -> None:
    with pytest.raises(
        InvalidOption, match=r"task 'clairvoyance' is not known \(known: text-generation, text-to-text, hidden-states"
    ):
        choose(None, "clairvoyance")


def test_an_unknown_pooling_lists_those_that_are_known() -> None:
    with pytest.raises(
        InvalidOption, match=r"pooling 'median' is not known \(known: cls, mean, max, last, mean-sqrt-l"
    ):
        choose(None, tasks.EMBEDDING, pooling="median")


def test_a_pooling_belongs_to_embeddings() -> None:
    with pytest.raises(InvalidOption, match="--pooling belongs to --task embedding; this export is for fill-mask"):
        choose("BertForMaskedLM", pooling="mean")


@pytest.mark.parametrize(
    ("family", "task", "defined"),
    [
        ("bert", tasks.TEXT_GENERATION, "hidden-states, embedding"),
        ("bert", tasks.REPLACED_TOKEN_DETECTION, "hidden-states, embedding"),
        ("llama", tasks.FILL_MASK, "hidden-states, embedding, sequence-classification, text-generation, reranking"),
        ("eurobert", tasks.QUESTION_ANSWERING, "hidden-states, embedding"),
    ],
)
def test_a_task_the_family_does_not_define_is_refused(family: str, task: str, defined: str) -> None:
    with pytest.raises(UnsupportedConfig, match=rf"task {task} is not defined for {family} \(it has {defined}"):
        choose(None, task, family=family)


@pytest.mark.parametrize(
    ("of", "family", "task", "served"),
    [
        ("BertModel", "bert", tasks.FILL_MASK, "hidden-states, embedding"),
        ("BertForMaskedLM", "bert", tasks.SEQUENCE_CLASSIFICATION, "fill-mask, hidden-states, embedding"),
        ("BertForMaskedLM", "bert", tasks.RERANKING, "fill-mask, hidden-states, embedding"),
        ("LlamaForSequenceClassification", "llama", tasks.TEXT_GENERATION, "sequence-classification, hidden-states"),
        ("LlamaForCausalLM", "llama", tasks.SEQUENCE_CLASSIFICATION, "text-generation, hidden-states, embedding"),
    ],
)
def test_a_head_that_is_not_there_is_refused(of: str, family: str, task: str, served: str) -> None:
    message = f"config.json: the checkpoint is a {of}, so it holds no head for {task}; it serves {served}"
    with pytest.raises(UnsupportedConfig, match=message):
        choose(of, task, family=family)


@pytest.mark.parametrize("task", [tasks.HIDDEN_STATES, tasks.EMBEDDING])
@pytest.mark.parametrize("of", ["BertForMaskedLM", "BertForSequenceClassification", "BertModel", None])
def test_tasks_without_a_head_are_always_served(of: str | None, task: str) -> None:
    assert choose(of, task).name == task


def test_a_head_of_an_unknown_class_is_looked_for_among_the_tensors() -> None:
    assert choose("MyOwnThing", tasks.FILL_MASK).name == tasks.FILL_MASK


def test_a_classifier_of_one_label_is_a_reranker_unless_it_is_a_regression() -> None:
    of = "BertForSequenceClassification"
    assert choose(of, **labels("relevance")).name == tasks.RERANKING
    assert choose(of, **labels("stars"), problem_type=tasks.REGRESSION).name == tasks.SEQUENCE_CLASSIFICATION
    assert choose(of, **labels("bad", "good")).name == tasks.SEQUENCE_CLASSIFICATION
    asked = choose(of, tasks.SEQUENCE_CLASSIFICATION, **labels("relevance"))
    assert (asked.name, asked.problem_type) == (tasks.SEQUENCE_CLASSIFICATION, tasks.MULTI_LABEL)


def test_a_reranker_of_several_labels_is_refused() -> None:
    with pytest.raises(
        UnsupportedConfig,
        match=r"a reranker has one output, this classifier 5 \(a, b, c, d …\); export it with --task sequence-classif",
    ):
        choose("BertForSequenceClassification", tasks.RERANKING, **labels("a", "b", "c", "d", "e"))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (labels("no", "yes"), ("no", "yes")),
        ({"id2label": {"1": "yes", "0": "no"}}, ("no", "yes")),
        ({"id2label": {0: 5, 1: None}}, ("5", "None")),
        ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"id2label": None}, ("LABEL_0", "LABEL_1")),
        ({}, ("LABEL_0", "LABEL_1")),
    ],
)
def test_labels_are_read_by_index(config: dict[str, Any], expected: tuple[str, ...]) -> None:
    for of in ("BertForSequenceClassification", "BertForTokenClassification"):
        assert choose(of, **config).labels == expected


@pytest.mark.parametrize("named", [{"1": "a"}, {"0": "a", "00": "b"}, {"a": "b"}, {"0": "a", "2": "b"}, {"-1": "a"}])
def test_labels_that_are_not_numbered_are_refused(named: dict[str, str]) -> None:
    with pytest.raises(
        UnsupportedConfig, match=r"id2label of config.json does not number its labels from 0; correct it"
    ):
        choose("BertForTokenClassification", id2label=named)


@pytest.mark.parametrize("count", [0, -1, "2", 10**12, True])
def test_a_number_of_labels_that_is_none_is_refused(count: Any) -> None:
    with pytest.raises(
        UnsupportedConfig, match=rf"num_labels {count!r} of config.json is no number of labels; correct"
    ):
        choose("BertForTokenClassification", num_labels=count)


@pytest.mark.parametrize(
    ("of", "config", "expected"),
    [
        ("BertForSequenceClassification", labels("a", "b"), tasks.SINGLE_LABEL),
        ("BertForSequenceClassification", labels("a", "b") | {"problem_type": tasks.MULTI_LABEL}, tasks.MULTI_LABEL),
        ("BertForSequenceClassification", labels("a") | {"problem_type": tasks.REGRESSION}, tasks.REGRESSION),
        ("BertForTokenClassification", labels("a"), tasks.SINGLE_LABEL),
    ],
)
def test_how_logits_become_scores_is_as_stated_or_usual(of: str, config: dict[str, Any], expected: str) -> None:
    assert choose(of, **config).problem_type == expected


def test_an_unknown_problem_type_lists_those_that_are_known() -> None:
    message = "problem_type 'ranking' of config.json is not known (known: single_label_classification, multi_label"
    with pytest.raises(UnsupportedConfig, match=re.escape(message)):
        choose("BertForSequenceClassification", **labels("a", "b"), problem_type="ranking")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, tasks.MULTI_LABEL),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}, tasks.MULTI_LABEL),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, tasks.REGRESSION),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, tasks.REGRESSION),
        ({"sentence_transformers": {"version": "5.0.0"}}, tasks.MULTI_LABEL),
        ({"sentence_transformers": "5.0.0"}, tasks.MULTI_LABEL),
    ],
)
def test_a_rerankers_scores_are_those_of_its_cross_encoder(config: dict[str, Any], expected: str) -> None:
    assert choose("BertForSequenceClassification", **labels("a"), **config).problem_type == expected


def test_newer_cross_encoders_keep_their_activation_beside_the_modules(tmp_path: Path) -> None:
    file = tmp_path / "config_sentence_transformers.json"
    modules = ModuleList(tmp_path / "modules.json", RERANKER.entries)
    of = "BertForSequenceClassification"
    file.write_text('{"activation_fn": "torch.nn.modules.linear.Identity"}', encoding="utf-8")
    task = choose(of, modules=modules, **labels("a"))
    assert (task.name, task.problem_type, task.files) == (tasks.RERANKING, tasks.REGRESSION, (file,))
    for text, message in (
        ('{"activation_fn": "custom.Sigmoid"}', "activation 'custom.Sigmoid'"),
        ("[]", "config_sentence"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(CheckpointError, match=message):
            choose(of, modules=modules, **labels("a"))


def test_an_unknown_activation_of_a_reranker_is_refused() -> None:
    with pytest.raises(
        UnsupportedConfig,
        match=r"activation '.*Tanh' of this CrossEncoder is not supported \(known: .*Sigmoid, Identity\); export it with",
    ):
        choose(
            "BertForSequenceClassification",
            **labels("a"),
            sentence_transformers={"activation_fn": "torch.nn.modules.activation.Tanh"},
        )


def test_replaced_tokens_have_two_labels() -> None:
    assert choose("ElectraForPreTraining", family="electra").labels == ("original", "replaced")
