"""The registry: model type -> architecture."""

from __future__ import annotations

from collections.abc import Mapping

from edgelm_export.architectures.albert import ALBERT
from edgelm_export.architectures.bart import BART
from edgelm_export.architectures.base import Architecture
from edgelm_export.architectures.bert import BERT
from edgelm_export.architectures.bloom import BLOOM, MPT
from edgelm_export.architectures.cohere import COHERE, COHERE2
from edgelm_export.architectures.deberta import DEBERTA
from edgelm_export.architectures.deberta_v2 import DEBERTA_V2
from edgelm_export.architectures.deepseek import DEEPSEEK
from edgelm_export.architectures.distilbert import DISTILBERT
from edgelm_export.architectures.electra import ELECTRA
from edgelm_export.architectures.eurobert import EUROBERT
from edgelm_export.architectures.falcon import FALCON
from edgelm_export.architectures.gemma import GEMMA, GEMMA2, GEMMA3, GLM4
from edgelm_export.architectures.gpt2 import GPT2, GPT_BIGCODE, GPT_NEO, OPENAI_GPT
from edgelm_export.architectures.gpt_neox import CODEGEN, GPT_NEOX, GPTJ, PHI
from edgelm_export.architectures.gpt_oss import GPT_OSS
from edgelm_export.architectures.hunyuan import HUNYUAN
from edgelm_export.architectures.llama import LLAMA, QWEN2
from edgelm_export.architectures.llama_kin import ARCEE, GRANITE, HELIUM, MINISTRAL, OLMO, SEED_OSS, SMOLLM3
from edgelm_export.architectures.marian import MARIAN
from edgelm_export.architectures.ministral3 import MINISTRAL3
from edgelm_export.architectures.mixture import GRANITE_MOE, MIXTURE, OLMOE
from edgelm_export.architectures.modernbert import MODERNBERT
from edgelm_export.architectures.mpnet import MPNET
from edgelm_export.architectures.olmo2 import EXAONE4, OLMO2
from edgelm_export.architectures.opt import OPT
from edgelm_export.architectures.phi3 import GLM, PHI3
from edgelm_export.architectures.phimoe import PHIMOE
from edgelm_export.architectures.roberta import ROBERTA
from edgelm_export.architectures.starcoder2 import NEMOTRON, STABLELM, STARCODER2
from edgelm_export.architectures.t5 import T5

ARCHITECTURES = (
    ALBERT,
    ARCEE,
    BART,
    BERT,
    BLOOM,
    CODEGEN,
    COHERE,
    COHERE2,
    DEBERTA,
    DEBERTA_V2,
    DEEPSEEK,
    DISTILBERT,
    ELECTRA,
    EUROBERT,
    EXAONE4,
    FALCON,
    GEMMA,
    GEMMA2,
    GEMMA3,
    GLM,
    GLM4,
    GPT2,
    GPTJ,
    GPT_BIGCODE,
    GPT_NEO,
    GPT_NEOX,
    GPT_OSS,
    GRANITE,
    GRANITE_MOE,
    HELIUM,
    HUNYUAN,
    LLAMA,
    MARIAN,
    MINISTRAL,
    MINISTRAL3,
    MIXTURE,
    MODERNBERT,
    MPNET,
    MPT,
    NEMOTRON,
    OLMO,
    OLMO2,
    OLMOE,
    OPENAI_GPT,
    OPT,
    PHI,
    PHI3,
    PHIMOE,
    QWEN2,
    ROBERTA,
    SEED_OSS,
    SMOLLM3,
    STABLELM,
    STARCODER2,
    T5,
)
REGISTRY: Mapping[str, Architecture] = {
    model_type: architecture for architecture in ARCHITECTURES for model_type in architecture.model_types
}
