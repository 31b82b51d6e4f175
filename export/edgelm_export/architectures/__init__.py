"""The registry: model type -> architecture."""

from __future__ import annotations

from collections.abc import Mapping

from edgelm_export.architectures.albert import ALBERT
from edgelm_export.architectures.bart import BART
from edgelm_export.architectures.base import Architecture
from edgelm_export.architectures.bert import BERT
from edgelm_export.architectures.deberta import DEBERTA
from edgelm_export.architectures.deberta_v2 import DEBERTA_V2
from edgelm_export.architectures.distilbert import DISTILBERT
from edgelm_export.architectures.electra import ELECTRA
from edgelm_export.architectures.eurobert import EUROBERT
from edgelm_export.architectures.llama import LLAMA
from edgelm_export.architectures.marian import MARIAN
from edgelm_export.architectures.modernbert import MODERNBERT
from edgelm_export.architectures.mpnet import MPNET
from edgelm_export.architectures.roberta import ROBERTA
from edgelm_export.architectures.t5 import T5

ARCHITECTURES = (
    ALBERT,
    BART,
    BERT,
    DEBERTA,
    DEBERTA_V2,
    DISTILBERT,
    ELECTRA,
    EUROBERT,
    LLAMA,
    MARIAN,
    MODERNBERT,
    MPNET,
    ROBERTA,
    T5,
)
REGISTRY: Mapping[str, Architecture] = {
    model_type: architecture for architecture in ARCHITECTURES for model_type in architecture.model_types
}
