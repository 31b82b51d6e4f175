"""Every error edgelm raises on purpose. A message says what, where, and what to do next.

EdgeLMError
├── CheckpointError             the checkpoint given to `export` or `inspect`
│   ├── UnsupportedArchitecture no definition for its model type
│   ├── UnsupportedConfig       known type, but values no block implements (all listed at once)
│   ├── MissingWeights          tensors the architecture wants and the checkpoint lacks (all listed)
│   ├── UnusedWeights           tensors the checkpoint has and nothing reads (all listed)
│   ├── WrongShape              a tensor whose shape contradicts the config
│   └── CorruptFile             a file whose header, offsets or size lie
├── PackageError                a package folder
│   ├── ManifestError           edgelm.json is missing, unreadable or incomplete; a file is missing or unsafe
│   ├── DigestError             a file differs from what the manifest recorded
│   └── VersionError            written by a newer edgelm
├── ProviderError               ONNX Runtime or an execution provider is missing, doubled or refuses
│   └── OutOfDeviceMemory       weights, cache or activations do not fit the memory of a GPU
├── GenerationError             a request to a loaded model
│   ├── ContextOverflow         prompt plus new tokens exceed the context
│   ├── StateError              a state file is damaged, or of another package
│   └── InvalidOption           an unknown option, or a value out of range
└── VerificationError           an export that disagrees with itself or with its source
"""

from __future__ import annotations

# Of a message; what is longer quotes a file that was made to fill the screen.
_LONGEST = 8000


class EdgeLMError(Exception):
    """Base of all errors above; the command line shows it as one line and exits with 1.

    Messages quote files that others wrote: what a terminal would obey is escaped, and the end of an endless one cut off.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(_shown(message))


class CheckpointError(EdgeLMError):
    """The checkpoint cannot be exported."""


class UnsupportedArchitecture(CheckpointError):
    """No architecture is registered for this model type."""


class UnsupportedConfig(CheckpointError):
    """The config asks for something no block implements."""


class MissingWeights(CheckpointError):
    """The checkpoint lacks tensors."""


class UnusedWeights(CheckpointError):
    """The checkpoint holds tensors that nothing reads."""


class WrongShape(CheckpointError):
    """A tensor's shape contradicts the config."""


class CorruptFile(CheckpointError):
    """A file's header, offsets or size cannot be true."""


class PackageError(EdgeLMError):
    """The package cannot be opened."""


class ManifestError(PackageError):
    """The manifest, or a file it names, is missing or unusable."""


class DigestError(PackageError):
    """A file differs from what the manifest recorded."""


class VersionError(PackageError):
    """The package format is newer than this edgelm."""


class ProviderError(EdgeLMError):
    """ONNX Runtime or an execution provider is not usable."""


class OutOfDeviceMemory(ProviderError):
    """A GPU has no room for what was to be put there.

    Attributes:
        needed: bytes that were asked for, 0 where nobody knows.
        free: bytes that were free.
    """

    def __init__(self, needed: int, free: int, total: int, device: str, weights: int = 0, hint: str = "") -> None:
        """Sizes in bytes, `weights` 0 where none are known of; `hint` says what to do."""
        self.needed, self.free = needed, free
        self._facts = (total, device, weights)
        held = f"the weights take {weights / 1e6:,.1f} MB, " if weights else ""
        wanted = f"{needed / 1e6:,.1f} MB more were asked for and " if needed else ""
        hint = hint or "load it with a smaller max_length (--max-length), or export it with fewer bits"
        super().__init__(
            f"{device} is out of memory: {held}{wanted}{free / 1e6:,.1f} of {total / 1e6:,.1f} MB are free; {hint}"
        )

    def advise(self, hint: str) -> OutOfDeviceMemory:
        """The same error with another hint."""
        return OutOfDeviceMemory(self.needed, self.free, *self._facts, hint)


class GenerationError(EdgeLMError):
    """A request to a loaded model cannot be carried out."""


class ContextOverflow(GenerationError):
    """The prompt does not fit into the context."""


class StateError(GenerationError):
    """A state file cannot be used."""


class InvalidOption(GenerationError):
    """An unknown option or a value out of range."""


class VerificationError(EdgeLMError):
    """The package disagrees with itself or with its source."""


def _shown(message: str) -> str:
    more = len(message) - _LONGEST
    text = message if more <= 0 else f"{message[:_LONGEST]} ... and {more:,} more characters"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
