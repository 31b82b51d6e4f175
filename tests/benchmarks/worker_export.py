"""The command line of edgelm in a process that says at its end what it needed: `worker_export.py export SOURCE -o DIR ...`."""

from __future__ import annotations

import time

from protocol import answer

from edgelm.cli import cli


def main() -> None:
    start = time.perf_counter()
    cli(standalone_mode=False)  # errors and exit codes go to the caller as exceptions
    answer({"seconds": time.perf_counter() - start})


if __name__ == "__main__":
    main()
