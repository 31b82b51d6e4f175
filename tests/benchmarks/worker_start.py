"""Runs a command from its start to its end, as a shell would. Reads "command", whose words may name places that are filled in.

{bin} is the folder of the interpreter that runs this, {here} that of this file; {package}, {prompt} and {threads} are the task's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from protocol import answer, mib, read_task, waited, waiting_share


def main() -> None:
    task = read_task()
    places = {"bin": Path(sys.executable).parent, "here": Path(__file__).parent}
    command = [word.format(**places, **task) for word in task["command"]]
    run(command)  # files come into memory, and what is remembered is remembered
    found: dict[str, Any] = {}
    share = waiting_share(lambda: found.update(run(command)), lambda: found.pop("waited_s", 0.0))
    answer({**found, "waiting_share": share})


def run(command: list[str]) -> dict[str, float]:
    """Seconds until the first byte of its output and until its end, its peak memory, and seconds that it waited for a core.

    Raises:
        RuntimeError: it fails, or says nothing.
    """
    # Installed packages have their bytecode beside them; those in a checkout get it from the first run.
    variables = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=variables) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        text = process.stdout.read(1)
        first = time.perf_counter() - start
        process.stdout.read()
        complaint = process.stderr.read()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        ready = waited(Path(f"/proc/{process.pid}/task"))  # only the main thread is left to be asked
        _, status, usage = os.wait4(process.pid, 0)
        whole = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not text:
        raise RuntimeError(f"{' '.join(command)} ends with {process.returncode}: {complaint.decode()[-1000:]}")
    # It counts from before exec, but this process is the smaller one.
    return {"first_token_s": first, "process_s": whole, "peak_rss_mib": mib(usage.ru_maxrss), "waited_s": ready}


if __name__ == "__main__":
    main()
