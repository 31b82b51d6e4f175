"""edgelm: verified, quantized ONNX packages of transformers, and the runtime that executes them.

Importing this costs little: heavy parts are imported when first used.
"""

from __future__ import annotations

from edgelm import errors
from edgelm.api import export, load
from edgelm.errors import EdgeLMError

__all__ = ["EdgeLMError", "__version__", "errors", "export", "load"]

__version__ = "0.1.0"
