"""CHECKPOINT OUT: CTranslate2's own converter for an encoder-decoder, int8. Runs inside .venv-bench-encoders."""

from __future__ import annotations

import sys

from ctranslate2.converters import TransformersConverter
from transformers import PreTrainedTokenizerFast


class Converter(TransformersConverter):
    """Takes tokenizer.json as it is; the classes of T5 and Marian would want SentencePiece models."""

    def load_tokenizer(self, tokenizer_class, model_name_or_path, **kwargs):
        return PreTrainedTokenizerFast.from_pretrained(model_name_or_path)


if __name__ == "__main__":
    Converter(sys.argv[1], copy_files=["tokenizer.json"]).convert(sys.argv[2], quantization="int8")
