"""What all tasks of an encoder share: a package loaded, rows of ids run under a progress bar."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray

from edgelm.encode import Row
from edgelm.encoder_inputs import InputReader, count
from edgelm.errors import InvalidOption
from edgelm.loading import device_facts, digests_checked, length_limit, load_encoder
from edgelm.package import Package
from edgelm.progress import progress
from edgelm.providers import Provider
from edgelm.tasks import HIDDEN_STATES
from edgelm.tokenizer import Tokenizer

Array = NDArray[np.float32]


class EncoderRunner:
    """A loaded encoder without the methods for its tasks."""

    def __init__(
        self, package: Package, provider: Provider, *, threads: int | None = None, max_length: int | None = None
    ) -> None:
        """Loads the program and the tokenizer while the files' digests are checked.

        Raises:
            InvalidOption: max_length is outside 1..context_length, or threads below 1.
            DigestError: a file of the package was changed.
        """
        self.package = package
        self.facts = package.manifest.encoder_facts
        self.max_length = length_limit(package, max_length)
        with digests_checked(package):
            self.tokenizer = Tokenizer.from_folder(package.path)
            self._encoder = load_encoder(package, provider, threads)
        self.device = device_facts(self._encoder.program)
        self._reader = InputReader(self.tokenizer, self.facts, package.manifest.vocab_size, self.max_length)

    def _require(self, *wanted: str) -> str:
        """The package's task, which must be one of these."""
        task = self.package.manifest.task
        if task not in wanted:
            raise InvalidOption(
                f"{self.package.path} was exported for {task}, not for {wanted[0]}; export the checkpoint again with "
                f"--task {wanted[0]}, if it has what that needs"
            )
        return task

    def _require_output(self, name: str) -> None:
        """The graph must put that out; one of Optimum's has what its head says and nothing else."""
        if name not in self._encoder.names:
            raise InvalidOption(
                f"{self.package.path} has no {name}: Optimum's graph for {self.package.manifest.task} leaves it out; "
                f"export the checkpoint again with --task {HIDDEN_STATES}"
            )

    def _collect(self, rows: Sequence[Row], output: str, batch_size: int, label: str) -> list[Array]:
        """The output of each row, in their order."""
        found = dict(self._run(rows, output, batch_size, label))
        return [found[i] for i in range(len(rows))]

    def _run(self, rows: Sequence[Row], output: str, batch_size: int, label: str | None) -> Iterator[tuple[int, Array]]:
        """(index, output) of each row as they finish, under a progress bar of that label; without one for None."""
        most = count("batch_size", batch_size)
        with nullcontext() if label is None else progress(len(rows), label, "text") as bar:
            yield from self._encoder.run(rows, output, most, bar.advance if bar else lambda _: None)
