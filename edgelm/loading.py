"""What all kinds of models do when they are loaded: limits checked, digests compared while the program loads."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from edgelm.encode import Encoder, Grouping, Threads
from edgelm.errors import InvalidOption, ProviderError
from edgelm.known_answers import check_operators
from edgelm.machine import physical_cores
from edgelm.package import Package
from edgelm.providers import Provider
from edgelm.session import Program


def length_limit(package: Package, max_length: int | None) -> int:
    """The most positions a model may use: `max_length`, or all the package allows.

    Raises:
        InvalidOption: max_length is outside 1..context_length.
    """
    allowed = package.manifest.context_length
    if max_length is not None and not 1 <= max_length <= allowed:
        raise InvalidOption(f"max_length {max_length} is outside 1..{allowed}, the package's context length")
    return max_length or allowed


def check_least(name: str, number: int, least: int) -> None:
    """A number may not be below `least`.

    Raises:
        InvalidOption: it is.
    """
    if number < least:
        raise InvalidOption(f"{name} {number} is below {least}")


def computing(package: Package, provider: Provider) -> Provider:
    """The provider as it runs a package's programs, which are known before a session is made.

    Raises:
        ProviderError: it has no kernels for their activations.
    """
    m = package.manifest
    if m.activations not in provider.takes:
        raise ProviderError(
            f"{package.path}: the programs for {m.device} have {m.activations} activations, for which device {provider.name} has no "
            f"kernels; run them with --device {m.device} on a machine that can, or export again with --device {provider.name},{m.device}"
        )
    return provider.computing(m.activations)


@contextmanager
def digests_checked(package: Package) -> Generator[None]:
    """Compares the digests of all files while the body loads them, in a thread beside it.

    Raises:
        DigestError: a file of the package was changed. That explains any failure of the body, so it is the error that is raised.
    """
    with ThreadPoolExecutor(1) as pool:
        checked = pool.submit(package.verify_digests)
        try:
            yield
        finally:
            checked.result()


def load_program(package: Package, name: str, provider: Provider, threads: int | None) -> Program:
    """Loads a program; for use while `digests_checked`.

    Raises:
        InvalidOption: threads below 1.
        ProviderError: ONNX Runtime refuses the graph, or computes something else than the export counted on.
    """
    if threads is not None:
        check_least("threads", threads, 1)
    provider = computing(package, provider)
    check_operators(package, provider)
    return Program(package.program(name), provider, threads, capture=name == "decoder")


def load_encoder(package: Package, provider: Provider, threads: int | None) -> Encoder:
    """Loads an encoder's program: one thread inside an operator, and as many texts at a time as there are threads.

    Raises:
        as `load_program`.
    """
    workers = (threads or physical_cores()) if provider.name == "cpu" else 1
    program = load_program(package, "encoder", provider, 1 if threads is None else min(threads, 1))
    wide = partial(Program, package.program("encoder"), program.provider, workers) if workers > 1 else None
    shared = Threads(workers, wide, package.manifest.parameters)
    facts = package.manifest.encoder_facts
    grouping = (
        Grouping() if facts.alone and provider.integer_products else Grouping(provider.bucket_tokens, provider.pads)
    )
    return Encoder(program, facts.pad_token_id, grouping, shared)


def device_facts(program: Program) -> str:
    """Where a program runs and how, in a line."""
    provider = program.provider
    facts = [provider.device]
    if provider.device_memory:
        facts.append("decode steps replay a CUDA graph" if program.captures else "every call runs node by node")
    if provider.plugin is not None:
        placed = program.placement()
        elsewhere = [
            f"{op} {count}" for ep, ops in placed.items() if ep != provider.ort_name for op, count in ops.items()
        ]
        facts.append(f"on the CPU: {', '.join(sorted(elsewhere))}" if elsewhere else "every node is its own")
    return "; ".join([*facts, provider.note] if provider.note else facts)
