"""FILE PROMPT THREADS: the least that loads a GGUF file with llama.cpp and writes one token after a prompt."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import llama_cpp
from worker_llamacpp import Decoder

_CONTEXT = 512  # llama.cpp's own default


def main() -> None:
    file, prompt, threads = Path(sys.argv[1]), sys.argv[2].encode(), int(sys.argv[3])
    decoder = Decoder(file, threads, _CONTEXT)
    room = (llama_cpp.llama_token * _CONTEXT)()
    count = llama_cpp.llama_tokenize(decoder.vocab, prompt, len(prompt), room, _CONTEXT, True, True)
    token = decoder.feed(room[:count])
    piece = ctypes.create_string_buffer(64)
    length = llama_cpp.llama_token_to_piece(decoder.vocab, token, piece, len(piece), 0, True)
    sys.stdout.buffer.write(piece.raw[:length] + b"\n")
    sys.stdout.flush()
    os._exit(0)  # nothing is left to do, and llama-cpp-python's own clean-up need not count


if __name__ == "__main__":
    main()
