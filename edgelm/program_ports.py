"""What each program of a package must take and give by its manifest, and what of that a loaded graph does not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgelm import signature, tasks
from edgelm.manifest import Manifest
from edgelm.rows import DECODER, ENCODER, FIRST
from edgelm.session import TENSOR_TYPES, Program
from edgelm.signature import Port


@dataclass(frozen=True)
class Ports:
    """Inputs and outputs that must be there, and inputs that may be. A graph may give more than is asked for."""

    inputs: Sequence[Port]
    outputs: Sequence[Port]
    optional: Sequence[Port] = ()


def differences(manifest: Manifest, name: str, program: Program) -> list[str]:
    """What a loaded program does not take or give as the manifest says, in words; nothing where all is well."""
    ports = expected_ports(manifest, name)
    if ports is None:
        return [f"a package of family {manifest.family} has no program {name}"]
    takes, gives = (
        {port.name: port for port in given} for given in (program.session.get_inputs(), program.session.get_outputs())
    )
    known = {port.name for port in (*ports.inputs, *ports.optional)}
    found = [f"input {other} is not known" for other in takes if other not in known]
    found += _mismatches("input", ports.inputs, takes)
    found += _mismatches("input", [port for port in ports.optional if port.name in takes], takes)
    return found + _mismatches("output", ports.outputs, gives)


def _mismatches(kind: str, ports: Iterable[Port], given: Mapping[str, object]) -> list[str]:
    found: list[str] = []
    for port in ports:
        if port.name not in given:
            found.append(f"{kind} {port.name} is missing")
            continue
        node = given[port.name]
        dtype, shape = str(getattr(node, "type", "")), list(getattr(node, "shape", None) or [])
        if dtype != TENSOR_TYPES[port.dtype]:
            found.append(f"{kind} {port.name} is {dtype}, not {port.dtype}")
        elif len(shape) != len(port.shape) or any(
            isinstance(wanted, int) and isinstance(size, int) and size != wanted
            for wanted, size in zip(port.shape, shape, strict=True)
        ):
            found.append(f"{kind} {port.name} has shape {shape}, not {list(port.shape)}")
    return found


def expected_ports(manifest: Manifest, name: str) -> Ports | None:
    """What a program of that name takes and gives; None where the family has none."""
    makers = {
        ("decoder", DECODER): _decoder,
        ("encoder", ENCODER): _encoder,
        ("encoder-decoder", ENCODER): _source_encoder,
        ("encoder-decoder", FIRST): _first_decoder,
        ("encoder-decoder", DECODER): _decoder,
    }
    maker = makers.get((manifest.family, name))
    return None if maker is None or (name == FIRST and not manifest.grows) else maker(manifest)


def _encoder(m: Manifest) -> Ports:
    facts, masked = m.encoder_facts, m.task == tasks.FILL_MASK
    inputs = signature.encoder_inputs(token_types=facts.token_types, positions=masked)
    hidden = signature.hidden_port(facts.hidden_size)
    outputs = {
        tasks.HIDDEN_STATES: [hidden],
        tasks.EMBEDDING: [hidden, signature.row_port(signature.SENTENCE_EMBEDDING, facts.dimensions)],
        tasks.FILL_MASK: [signature.logits_port(m.vocab_size)],
        tasks.QUESTION_ANSWERING: [signature.token_logits_port(2)],
    }.get(m.task, [Port(signature.LOGITS, "float32", _LABELS.get(m.task, ("batch", "sequence", "labels")))])
    if not m.grows:
        return Ports(inputs, outputs)
    return Ports(inputs[:1], outputs, inputs[1:])


_LABELS = {task: ("batch", "labels") for task in (tasks.SEQUENCE_CLASSIFICATION, tasks.RERANKING)}


def _source_encoder(m: Manifest) -> Ports:
    inputs = signature.encoder_inputs(token_types=False, positions=False)
    states = signature.source_port(m.encoder_facts.hidden_size)
    if m.grows:
        return Ports(inputs[:1], [states], inputs[1:])
    return Ports(inputs, [states, *signature.cross_ports(m.kv_cache)])


def _decoder(m: Manifest) -> Ports:
    cache, writes = m.kv_cache, [signature.logits_port(m.vocab_size)]
    inputs = signature.decoder_inputs(cache)
    source = [] if m.family == "decoder" else [*signature.cross_ports(cache), signature.source_mask_port()]
    outputs = [*writes, *_present(m)]
    if not m.grows:
        told = [signature.log_probabilities_port(m.vocab_size)] if source else []
        return Ports([*inputs, *source, *_adapters(m)], [*outputs, *told])
    buffers = [port for port in inputs if port.name.startswith("past_key_values.")]
    first = [port for port in inputs if port.name in (signature.INPUT_IDS, signature.LOGITS_INDEX)]
    return Ports([*first, *buffers, *source[:-1]], outputs, [*_COUNTED, *source[-1:], *_states(m)])


def _adapters(m: Manifest) -> list[Port]:
    """What projections take from adapters, all of which name the same ones."""
    projections = next(iter(m.adapters.values())).ranks if m.adapters else ()
    return [
        port
        for name in projections
        for port in (
            Port(signature.lora_a(name), m.activations, ("in_features", "rank")),
            Port(signature.lora_b(name), m.activations, ("rank", "out_features")),
        )
    ]


def _first_decoder(m: Manifest) -> Ports:
    cache = m.kv_cache
    inputs = [
        port for port in signature.decoder_inputs(cache) if port.name in (signature.INPUT_IDS, signature.LOGITS_INDEX)
    ]
    outputs = [signature.logits_port(m.vocab_size), *_present(m), *signature.cross_ports(cache)]
    return Ports([*inputs, *_states(m)], outputs, [*_COUNTED, signature.source_mask_port()])


# What graphs of Optimum take where they count positions or tokens from outside.
_COUNTED = (
    Port(signature.ATTENTION_MASK, "int64", ("batch", "total")),
    Port(signature.POSITION_IDS, "int64", ("batch", "sequence")),
)


def _states(m: Manifest) -> list[Port]:
    return [] if m.family == "decoder" else [signature.source_port(m.encoder_facts.hidden_size)]


def _present(m: Manifest) -> list[Port]:
    cache = m.kv_cache
    layers = enumerate(cache.layers)
    return [signature.cache_port(signature.present(i, kind), cache, i) for i, layer in layers for kind in layer.buffers]
