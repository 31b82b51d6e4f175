"""One command for a machine with a GPU: parity, placement, CUDA graphs and speed, into one JSON file and one table.

    python tests/gpu/check.py                            everything, into docs/benchmarks/cuda.json and cuda.md
    python tests/gpu/check.py --device cpu --dry -o DIR   the same code on tiny models, anywhere

It wants onnxruntime-gpu and edgelm[export] on its path and no network. torch and transformers are compared with where they are there.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "benchmarks")]

import edgelm  # noqa: E402
from edgelm.package import Package  # noqa: E402
from edgelm.providers import find_provider  # noqa: E402
from edgelm.rows import decoder_rows  # noqa: E402
from edgelm.session import Program  # noqa: E402
from tests.architectures.encoder_goldens import golden_answers, golden_batch, golden_classes  # noqa: E402
from tests.architectures.encoder_goldens import golden_checkpoint as encoder_checkpoint  # noqa: E402
from tests.architectures.running import distance  # noqa: E402
from tests.architectures.seq2seq_goldens import golden_checkpoint as seq2seq_checkpoint  # noqa: E402
from tests.architectures.seq2seq_goldens import recorded  # noqa: E402
from tests.golden.cases import golden_cases  # noqa: E402
from tests.golden.encoder_cases import encoder_golden_cases  # noqa: E402
from tests.golden.seq2seq_cases import seq2seq_golden_cases  # noqa: E402

GOLDENS = ROOT / "tests" / "golden"
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """A random Llama: as wide and deep as a real one."""

    name: str
    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    vocab: int

    @property
    def config(self) -> dict[str, Any]:
        """Its config.json."""
        from synthetic import CONFIG

        return {
            **CONFIG,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "head_dim": self.hidden // self.heads,
            "vocab_size": self.vocab,
            "max_position_embeddings": 20480,
        }


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    goldens: int | None
    sizes: tuple[Size, ...]
    contexts: tuple[int, ...]
    batches: tuple[int, ...]
    steps: int


FULL = Plan(
    None,
    (
        Size("135M", 576, 1536, 30, 9, 3, 49152),
        Size("1B", 2048, 8192, 16, 32, 8, 128256),
        Size("8B", 4096, 14336, 32, 32, 8, 128256),
    ),
    contexts=(1, 512, 4096, 16384),
    batches=(1, 16),
    steps=32,
)
DRY = Plan(
    1, tuple(Size(size.name, 64, 96, 2, 4, 2, 256) for size in FULL.sizes), contexts=(1, 16), batches=(1, 2), steps=3
)

# What is asked for: the least share of the bandwidth floor in decode of the largest model, the least gain by CUDA graphs on the smallest.
LEAST_SHARE, LEAST_GAIN = 0.6, 1.5


def parity(device: str, dtypes: tuple[str, ...], plan: Plan, scratch: Path) -> Iterator[dict[str, Any]]:
    """The distance of every golden from what transformers said, and where its nodes run."""
    for dtype in dtypes:
        for family, cases in (
            ("decoder", golden_cases()),
            ("encoder", encoder_golden_cases()),
            ("encoder-decoder", seq2seq_golden_cases()),
        ):
            for case in sorted(cases)[: plan.goldens]:
                row = {"case": case, "family": family, "activations": dtype}
                folder = scratch / f"{case}-{dtype}"
                try:
                    yield row | _parity_of(family, case, folder, device, dtype)
                except Exception as error:  # one that fails says so in the table, and the others go on
                    yield row | {"error": f"{type(error).__name__}: {error}"}


def _parity_of(family: str, case: str, folder: Path, device: str, dtype: str) -> dict[str, Any]:
    name = next(iter(golden_classes(case))) if family == "encoder" else ""
    source = {
        "decoder": lambda: GOLDENS / case,
        "encoder": lambda: encoder_checkpoint(case, name, folder / "source"),
        "encoder-decoder": lambda: seq2seq_checkpoint(case, folder / "source"),
    }[family]()
    kind = device.partition(":")[0]
    package = edgelm.export(
        source, folder / "out", precision="fp32", device=kind, activations=dtype, verify=False, force=True
    )
    model = edgelm.load(package.path, device=device)
    if family == "decoder":
        with np.load(GOLDENS / case / "expected.npz", allow_pickle=False) as expected:
            found = [(model.logits(expected["input_ids"].tolist()), expected["logits"])]
    elif family == "encoder":
        batch, states = golden_batch(case), golden_answers(case, name)["last_hidden_state"]
        program = Program(package.program("encoder"), find_provider(device, package_devices=package.manifest.devices))
        given = {"input_ids": batch.ids, "attention_mask": batch.mask, "token_type_ids": batch.types}
        feeds = {name: values for name, values in given.items() if name in program.inputs}
        if "logits_index" in program.inputs:
            feeds["logits_index"] = np.zeros((len(batch.ids), 1), np.int64)
        real = batch.mask.astype(bool)
        found = [(program.run(feeds, ["last_hidden_state"])[0][real], states[real])]
    else:
        known = recorded(case)
        ids = known.batch.ids[0][known.batch.mask[0].astype(bool)].tolist()
        found = [(model.logits(ids, known.targets[0].tolist()), known.logits[0])]
    error = max(distance(one, other) for one, other in found)
    return {"error_of_largest": error, "within": error < TOLERANCES[dtype], "host_nodes": _host_nodes(package, device)}


def _host_nodes(package: Package, device: str) -> dict[str, int]:
    """Operators that run on the CPU where another device was asked for."""
    provider = find_provider(device, package_devices=package.manifest.devices)
    found: dict[str, int] = {}
    for name in package.manifest.programs:
        placed = Program(package.program(name), provider.recording()).placement()
        for op, count in placed.get("CPUExecutionProvider", {}).items() if provider.name != "cpu" else ():
            found[op] = found.get(op, 0) + count
    return found


def speed(device: str, plan: Plan, bandwidth: float, scratch: Path, say: Say) -> Iterator[dict[str, Any]]:
    """Prefill and decode of random models of real sizes, with and without CUDA graphs."""
    from synthetic import write_checkpoint

    for size in plan.sizes:
        write_checkpoint(scratch / size.name, size.config)
        for precision in ("int4", "fp16"):
            out, kind = scratch / f"{size.name}-{precision}", device.partition(":")[0]
            package = edgelm.export(scratch / size.name, out, precision=precision, device=kind, verify=False)
            provider = find_provider(device, package_devices=package.manifest.devices)
            for graphs in (True, False) if provider.device_memory else (False,):
                program = Program(package.program("decoder"), provider, capture=graphs)
                say(f"{size.name} {precision}, CUDA graphs {'on' if program.captures else 'off'}")
                for batch in plan.batches:
                    for context in plan.contexts:
                        row = {"model": size.name, "precision": precision, "graphs": program.captures}
                        try:
                            yield row | _timed(package, program, batch, context, plan.steps, bandwidth)
                        except edgelm.errors.EdgeLMError as error:
                            yield row | {"batch": batch, "context": context, "error": str(error)}
                del program
            shutil.rmtree(out)
        shutil.rmtree(scratch / size.name)


def _timed(
    package: Package, program: Program, batch: int, context: int, steps: int, bandwidth: float
) -> dict[str, Any]:
    m, rng = package.manifest, np.random.default_rng(0)
    decoder = decoder_rows(m, program, batch=batch, limit=context + steps + 2)
    prompts = rng.integers(0, m.vocab_size, (batch, context)).tolist()
    start = time.perf_counter()
    decoder.prefill(0, prompts[0])
    ttft = time.perf_counter() - start
    for row in range(1, batch):
        decoder.prefill(row, prompts[row])
    times: list[float] = []
    for _ in range(steps + 1):  # the first warms up and captures
        start = time.perf_counter()
        decoder.step([5] * batch)
        times.append(time.perf_counter() - start)
    tpot = statistics.median(times[1:])
    weights = sum(file.stat().st_size for file in package.path.glob("*.data"))
    moved = weights + batch * context * m.kv_cache.bytes_per_token
    return {
        "batch": batch,
        "context": context,
        "ttft_ms": ttft * 1e3,
        "tpot_ms": tpot * 1e3,
        "tokens_per_second": batch / tpot,
        "share_of_bandwidth_floor": moved / bandwidth / tpot,
    }


def measured_bandwidth(device: str) -> float:
    """Bytes a second that a copy reads and writes in the device's memory."""
    provider = find_provider(device, package_devices=("cpu", "cuda"))
    size = (1 << 30) if provider.device_memory else (1 << 26)
    if provider.device_memory:
        from edgelm.cuda import DeviceMemory

        one, other = (DeviceMemory(provider.index).empty((size,), "uint8") for _ in range(2))
    else:
        one, other = np.ones(size, np.uint8), np.ones(size, np.uint8)
    times: list[float] = []
    for _ in range(6):
        start = time.perf_counter()
        other[...] = one
        times.append(time.perf_counter() - start)
    return 2 * size / min(times[1:])


def sampling(device: str, scratch: Path, vocab: int, k: int = 64) -> dict[str, float]:
    """Whole rows of logits fetched and searched on the host, against TopK on the device and k values fetched: milliseconds."""
    provider = find_provider(device, package_devices=("cpu", "cuda"))
    logits = ir.val("logits", dtype=ir.DataType.FLOAT, shape=[1, vocab])
    count = ir.val("k", const_value=ir.tensor(np.array([k], np.int64), name="k"))
    node = ir.node("TopK", [logits, count], {"axis": -1}, num_outputs=2)
    for value, name, kind in zip(node.outputs, ("values", "ids"), (ir.DataType.FLOAT, ir.DataType.INT64), strict=True):
        value.name, value.type, value.shape = name, ir.TensorType(kind), ir.Shape([1, k])
    graph = ir.Graph([logits], node.outputs, nodes=[node], initializers=[count], opset_imports={"": 23}, name="topk")
    file = scratch / "topk.onnx"
    file.write_bytes(ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString())
    program = Program(file, provider)
    rows, host = program.memory.empty((1, vocab), "float32"), np.empty((1, vocab), np.float32)
    rows[...] = np.random.default_rng(0).normal(size=(1, vocab)).astype(np.float32)
    binding = program.binding()
    binding.bind({"logits": rows}, {"values": np.zeros((1, k), np.float32), "ids": np.zeros((1, k), np.int64)})

    def on_host() -> None:
        if isinstance(rows, np.ndarray):
            host[...] = rows
        else:
            rows.into(host)
        np.argpartition(host[0], -k)

    return {"whole_row_ms": _median(on_host), "topk_ms": _median(binding.run)}


def _median(act: Callable[[], object]) -> float:
    times: list[float] = []
    for _ in range(20):
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


def pytorch(size: Size, context: int, steps: int) -> dict[str, Any]:
    """The same model in transformers with a static cache, compiled, in bfloat16; or why there are no figures."""
    if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        return {"skipped": "torch and transformers are not installed"}
    import torch  # noqa: TID251
    import transformers  # noqa: TID251

    if not torch.cuda.is_available():
        return {"skipped": "torch finds no GPU"}
    config = transformers.LlamaConfig(**{key: size.config[key] for key in size.config if key != "architectures"})
    with torch.device("cuda"):
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()
    ids = torch.randint(0, size.vocab, (1, context), device="cuda")

    def seconds(count: int) -> float:
        settings = {"do_sample": False, "cache_implementation": "static", "eos_token_id": None}
        torch.cuda.synchronize()
        start = time.perf_counter()
        model.generate(ids, max_new_tokens=count, min_new_tokens=count, **settings)
        torch.cuda.synchronize()
        return time.perf_counter() - start

    seconds(steps + 1), seconds(1)  # compiles
    return {
        "tokens_per_second": steps / (seconds(steps + 1) - seconds(1)),
        "context": context,
        "torch": torch.__version__,
    }


def verdicts(found: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """What the figures say of what is asked for; None where there are none."""
    rows = [row for row in found["speed"] if "error" not in row and row["batch"] == 1]
    small, large = plan.sizes[0].name, plan.sizes[-1].name
    shares = [row["share_of_bandwidth_floor"] for row in rows if row["model"] == large and row["graphs"]]
    times = {
        graphs: [row["tpot_ms"] for row in rows if row["model"] == small and row["graphs"] == graphs]
        for graphs in (True, False)
    }
    gain = min(times[False]) / min(times[True]) if all(times.values()) else None
    hosts = [row["case"] for row in found["parity"] if row["family"] == "decoder" and row.get("host_nodes")]
    return {
        "goldens_within": f"{sum(bool(row.get('within')) for row in found['parity'])} of {len(found['parity'])}",
        "decoders_with_nodes_on_the_host": sorted(set(hosts)),
        f"best_share_of_floor_{large}": {"found": max(shares, default=None), "asked": LEAST_SHARE},
        f"gain_by_graphs_{small}": {"found": gain, "asked": LEAST_GAIN},
    }


def table(found: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [
        "# CUDA, as measured",
        "",
        f"{found['device']}, {found['bandwidth_gb_per_second']:,.0f} GB/s by copying.",
        "",
    ]
    lines += ["| activations | goldens | within | largest error | nodes on the host |", "|-|-|-|-|-|"]
    for dtype in dict.fromkeys(row["activations"] for row in found["parity"]):
        rows = [row for row in found["parity"] if row["activations"] == dtype]
        errors = [row.get("error_of_largest", float("inf")) for row in rows]
        host = sorted({op for row in rows for op in row.get("host_nodes", {})})
        within = sum(bool(row.get("within")) for row in rows)
        lines.append(f"| {dtype} | {len(rows)} | {within} | {max(errors):.2g} | {', '.join(host) or 'none'} |")
    lines += [
        "",
        "| model | precision | graphs | batch | context | TTFT ms | TPOT ms | tokens/s | share of floor |",
        "|" + "-|" * 9,
    ]
    for row in found["speed"]:
        head = f"| {row['model']} | {row['precision']} | {'on' if row['graphs'] else 'off'} | {row['batch']} | {row['context']:,} |"
        if "error" in row:
            lines.append(f"{head} {row['error']} | | | |")
            continue
        figures = (row["ttft_ms"], row["tpot_ms"], row["tokens_per_second"])
        lines.append(
            f"{head} {' | '.join(f'{value:,.2f}' for value in figures)} | {row['share_of_bandwidth_floor']:.0%} |"
        )
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--device", default="cuda", show_default=True, help="As of edgelm run.")
@click.option("--dry", is_flag=True, help="Tiny models and few of them.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=ROOT / "docs" / "benchmarks", help="Folder to write to."
)
def main(device: str, dry: bool, output: Path) -> None:
    """Measures everything and writes cuda.json and cuda.md."""
    import onnxruntime

    plan, kind = DRY if dry else FULL, device.partition(":")[0]
    dtypes = ("fp32",) if kind == "cpu" else ("fp16", "bf16")
    say: Say = lambda text: click.echo(text, err=True)  # noqa: E731
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        bandwidth = measured_bandwidth(device)
        found: dict[str, Any] = {
            "device": device,
            "onnxruntime": onnxruntime.__version__,
            "dry": dry,
            "bandwidth_gb_per_second": bandwidth / 1e9,
            "parity": [],
            "speed": [],
        }

        def keep() -> None:  # after each step, for the machine may be taken away
            found["verdicts"] = verdicts(found, plan)
            output.mkdir(parents=True, exist_ok=True)
            (output / "cuda.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            (output / "cuda.md").write_text(table(found), encoding="utf-8")

        found["sampling"] = sampling(device, scratch, plan.sizes[-1].vocab, k=min(64, plan.sizes[-1].vocab))
        for row in parity(device, dtypes, plan, scratch):
            found["parity"].append(row)
        keep()
        for row in speed(device, plan, bandwidth, scratch, say):
            found["speed"].append(row)
            keep()
        found["pytorch"] = {size.name: pytorch(size, 512, plan.steps) for size in plan.sizes}
        keep()
    click.echo(table(found))


if __name__ == "__main__":
    main()
