"""Optimum, for architectures that edgelm does not define: what it knows of a checkpoint, its float graphs, and the original beside them.

The one file that imports a framework, and only where the extra `optimum` is installed. Code that comes with a checkpoint is never
run, and weights are read from safetensors alone.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from edgelm import tasks
from edgelm.errors import MissingWeights, UnsupportedArchitecture

INSTALL = "pip install 'edgelm[optimum]'"

# What Optimum calls our tasks.
TASKS: Mapping[str, str] = {
    tasks.TEXT_GENERATION: "text-generation-with-past",
    tasks.TEXT_TO_TEXT: "text2text-generation-with-past",
    tasks.HIDDEN_STATES: "feature-extraction",
    tasks.EMBEDDING: "feature-extraction",
    tasks.FILL_MASK: "fill-mask",
    tasks.SEQUENCE_CLASSIFICATION: "text-classification",
    tasks.RERANKING: "text-classification",
    tasks.TOKEN_CLASSIFICATION: "token-classification",
    tasks.QUESTION_ANSWERING: "question-answering",
}

# What Optimum calls its files -> our programs.
_FILES: Mapping[str, str] = {
    "model.onnx": "",
    "encoder_model.onnx": "encoder",
    "decoder_model.onnx": "decoder_start",
    "decoder_with_past_model.onnx": "decoder",
}

# Fields of a config that say how long a text may be, in transformers' many spellings.
_LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length", "n_ctx")


def is_installed() -> bool:
    """Whether Optimum's exporter is there; it is not imported for that."""
    try:
        return importlib.util.find_spec("optimum.exporters.onnx") is not None
    except ModuleNotFoundError:
        return False


def served_tasks(model_type: str) -> tuple[str, ...]:
    """Our names of the tasks that Optimum exports a model type for; none where it does not know the type."""
    with _quiet():
        import optimum.exporters.onnx.model_configs  # noqa: F401  it registers what it knows
        from optimum.exporters.tasks import TasksManager

        try:
            known = TasksManager.get_supported_tasks_for_model_type(model_type, "onnx", library_name="transformers")
        except KeyError:
            return ()
    return tuple(task for task, name in TASKS.items() if name in known)


def versions() -> dict[str, str]:
    """What a package was made with."""
    return {name: version(name) for name in ("optimum-onnx", "torch", "transformers")}


@dataclass(frozen=True)
class Original:
    """A checkpoint as the transformers model of a task, in float32.

    Attributes:
        hidden_size: width of its layers.
        vocab_size: rows of its token table.
        pad_token_id: 0 where it names none.
        context_length: the longest text it says it takes, None where it says nothing.
        notes: what a user should know.
    """

    model: Any
    task: str
    hidden_size: int
    vocab_size: int
    pad_token_id: int
    context_length: int | None
    notes: tuple[str, ...]

    @classmethod
    def load(cls, folder: Path, task: str) -> Original:
        """Reads a checkpoint for one of our tasks.

        Raises:
            UnsupportedArchitecture: transformers cannot, or needs code of the checkpoint's own.
            MissingWeights: tensors that the task needs are not in the checkpoint.
        """
        with _quiet():
            model, report = _load(folder, TASKS[task])
        missing = sorted(key for key in report["missing_keys"] if not _may_lack(key, task))
        wrong = sorted(str(key) for key in report.get("mismatched_keys", ()))
        if missing or wrong:
            raise MissingWeights(
                f"{folder} is not a whole checkpoint for {task}: missing {', '.join(missing) or 'nothing'}, "
                f"of another shape {', '.join(wrong) or 'nothing'}; transformers would make these up"
            )
        unread = sorted(report["unexpected_keys"])
        config = model.config.get_text_config()
        lengths = (getattr(config, name, None) for name in _LENGTHS)
        return cls(
            model=model.eval(),
            task=task,
            hidden_size=config.hidden_size,
            vocab_size=config.vocab_size,
            pad_token_id=config.pad_token_id or 0,
            context_length=next((n for n in lengths if isinstance(n, int) and n > 0), None),
            notes=(f"transformers did not read {', '.join(unread)}",) if unread else (),
        )

    def write(self, folder: Path) -> dict[str, Path]:
        """Optimum's float graphs, program name -> file.

        Raises:
            UnsupportedArchitecture: Optimum fails.
        """
        with _quiet():
            from optimum.exporters.onnx.convert import onnx_export_from_model

            self.model.config.use_cache = TASKS[self.task].endswith("-with-past")
            try:
                onnx_export_from_model(
                    self.model, folder, task=TASKS[self.task], no_post_process=True, do_validation=False
                )
            except Exception as error:  # whatever a tracer stumbles over
                raise _failed("export", self.model.config.model_type, error) from error
        sole = "decoder" if self.task == tasks.TEXT_GENERATION else "encoder"
        return {name or sole: folder / file for file, name in _FILES.items() if (folder / file).is_file()}

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What the original says, by the names of transformers' outputs."""
        import torch

        given = {name: torch.from_numpy(np.asarray(array)) for name, array in feeds.items()}
        with _quiet(), torch.inference_mode():
            found = self.model(**given, return_dict=True)
        return {name: one.numpy() for name, one in found.items() if isinstance(one, torch.Tensor)}


def _load(folder: Path, task: str) -> tuple[Any, dict[str, Any]]:
    import torch
    from optimum.exporters.tasks import TasksManager
    from transformers import AutoConfig

    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(folder, **local)
        kind = TasksManager.get_model_class_for_task(
            task, framework="pt", model_type=config.model_type, library="transformers"
        )
        return kind.from_pretrained(
            folder, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **local
        )
    except Exception as error:  # transformers raises anything a config can provoke
        raise _failed("load", str(folder), error) from error


def _may_lack(key: str, task: str) -> bool:
    """A pooler is made up for checkpoints without one, and what it says is not read."""
    return key.startswith("pooler.") and TASKS[task] == "feature-extraction"


def _failed(what: str, which: str, error: Exception) -> UnsupportedArchitecture:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    made = ", ".join(f"{name} {number}" for name, number in versions().items())
    return UnsupportedArchitecture(
        f"edgelm has no definition of its own for {which}, and Optimum cannot {what} it ({made}): {lines[0]}"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Frameworks warn and log about themselves while they load and trace; what matters comes as an error."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
