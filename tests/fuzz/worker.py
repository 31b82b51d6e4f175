"""Feeds damaged files to one target, in a process of its own whose memory and time are bounded: `python -m tests.fuzz.worker`.

An input must be taken or refused with an EdgeLMError whose message can be shown, within SECONDS of this process's time and
ROOM bytes of memory beyond what the imports took, however large a file says it is: inputs have at most a few hundred thousand.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from edgelm.errors import EdgeLMError

ROOT = Path(__file__).parents[2]
SECONDS, ROOM = 2.0, 256 << 20
_LONGEST_MESSAGE = 9000
_ALONE = {
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class Hang(BaseException):
    """An input that takes longer than it may."""


def fuzz(names: Sequence[str], count: int, seed: int) -> list[dict[str, Any]]:
    """Runs inputs 0 ... count - 1 of each target; returns what went wrong: {"target", "input", "what", "where"}."""
    findings: list[dict[str, Any]] = []
    remaining = list(names)
    while remaining:
        with tempfile.TemporaryDirectory(prefix="edgelm-fuzz.") as folder:
            done = python(["-m", "tests.fuzz.worker", str(count), str(seed), folder, *remaining])
            findings += [json.loads(line) for line in done.stdout.splitlines()]
            if not done.returncode:
                break
            name, number = Path(folder, "progress").read_text().split()
        where = done.stderr.decode(errors="replace")[-2000:]
        findings.append({"target": name, "input": int(number), "what": f"exit {done.returncode}", "where": where})
        remaining = remaining[remaining.index(name) + 1 :]
    return findings


def python(arguments: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    """Runs Python in a process of its own, on one thread, so that its memory is that of the work."""
    paths = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "export")))}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, capture_output=True, cwd=ROOT, env=os.environ | _ALONE | paths, timeout=1200, check=False
    )


def damaged(name: str, seed: int, number: int) -> tuple[str, bytes]:
    """Input `number` of a target: which file was damaged, and its content. The same on every call."""
    from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    source = Random(f"{name}/{seed}/{number}")
    file = source.choice(target.damaged)
    return file, target.damage_of(file)(target.files[file], source)


def _main(count: int, seed: int, folder: Path, names: Sequence[str]) -> None:
    from tests.fuzz.targets import TARGETS

    places = {name: folder / name for name in names}
    for name, place in places.items():
        for file, content in TARGETS[name].files.items():
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            (place / file).write_bytes(content)
        TARGETS[name].use(place)  # what is not damaged is taken; and everything is imported that will be
    bound_memory()
    for name, place in places.items():
        target = TARGETS[name]
        for number in range(count):
            (folder / "progress").write_text(f"{name} {number}")
            file, content = damaged(name, seed, number)
            (place / file).write_bytes(content)
            if (found := outcome(target.use, place)) is not None:
                sys.stdout.write(json.dumps({"target": name, "input": number, **found}) + "\n")
                sys.stdout.flush()
            (place / file).write_bytes(target.files[file])


def outcome(use: Callable[[Path], Any], place: Path) -> dict[str, str] | None:
    """What went wrong when a target was given the files in `place`; None for nothing."""
    try:
        with _bounded_time():
            use(place)
    except EdgeLMError as error:
        message = str(error)
        if len(message) <= _LONGEST_MESSAGE and message.replace("\n", " ").isprintable():
            return None
        return {
            "what": f"a message of {len(message)} characters, or one that cannot be shown",
            "where": repr(message[:500]),
        }
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        lines = traceback.format_exception(error, limit=-4)
        return {"what": f"{type(error).__name__}: {str(error)[:200]}", "where": "".join(lines)[-1500:]}
    return None


@contextlib.contextmanager
def _bounded_time() -> Iterator[None]:
    signal.signal(signal.SIGVTALRM, _hang)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _hang(number: int, frame: FrameType | None) -> None:
    raise Hang


def bound_memory() -> None:
    """From now on this process may take ROOM more bytes than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
