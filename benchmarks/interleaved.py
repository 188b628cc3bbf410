"""How every benchmark measures: the contestants in turn, in one process, on one thread, medians of processor time."""

import argparse
import gc
import json
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch


def interleave(contestants: dict[str, Callable[[], object]], rounds: int = 7, warmup: int = 1) -> dict[str, float]:
    """Median processor seconds of a call of each contestant, which take turns, so that a slow moment hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(warmup + rounds):
        for name, call in contestants.items():
            gc.collect()
            began = time.process_time()
            call()
            if turn >= warmup:
                seconds[name].append(time.process_time() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def in_its_own_process(measure: Callable[..., float], *arguments: object) -> float:
    """What ``measure(*arguments)`` returns in a process that has done nothing else."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(sender, measure, *arguments))
    child.start()
    child.join()
    return float(receiver.recv())


def _send(sender: Connection, measure: Callable[..., float], *arguments: object) -> None:
    torch.set_num_threads(1)
    sender.send(measure(*arguments))


def added_memory(call: Callable[[], object]) -> float:
    """MiB by which the process's peak during a call is above what it holds before; call something small once first."""
    process = Path("/proc/self")
    (process / "clear_refs").write_text("5")  # the peak begins anew; a process begins with that of the one it is from
    before = _kibibytes(process, "VmRSS")
    call()
    return (_kibibytes(process, "VmHWM") - before) / 1024


def _kibibytes(process: Path, name: str) -> int:
    """What the kernel says of a process's memory."""
    lines = (process / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def figure(value: float, unit: str) -> str:
    """A value with its unit, of four figures where it is small."""
    return f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.4g} {unit}"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: What was measured.
        ours: Our figure, with its unit.
        beside: Who it is compared with.
        theirs: Their figure, with its unit.
        ratio: How many times better ours is; below 1, worse. None where the figure stands alone.
        goal: What was to be reached.
        reached: Whether it was.
    """

    what: str
    ours: str
    beside: str
    theirs: str
    ratio: float | None
    goal: str
    reached: bool


class Report:
    """The rows of one benchmark: a table on stdout, and a JSON file.

    Args:
        name: The benchmark's, and the file's.
        about: What ``--help`` says.
        add_options: Adds options of the benchmark's own, which come with the others in ``arguments``.
    """

    def __init__(
        self, name: str, about: str, add_options: Callable[[argparse.ArgumentParser], object] | None = None
    ) -> None:
        """Reads the options and keeps torch to one thread."""
        parser = argparse.ArgumentParser(description=about)
        parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"), help="directory of the JSON file")
        parser.add_argument("--rounds", type=int, default=7, help="times that each contestant is measured")
        if add_options is not None:
            add_options(parser)
        self.arguments = parser.parse_args()
        self.name, self.rounds = name, self.arguments.rounds
        self.rows: list[Row] = []
        torch.set_num_threads(1)

    def faster(self, what: str, seconds: dict[str, float], ours: str, peer: str, goal: float) -> None:
        """A row of two times, where ours is to be ``goal`` times as fast as the peer's."""
        ratio = seconds[peer] / seconds[ours]
        times = [figure(1000 * seconds[name], "ms") for name in (ours, peer)]
        self.add(Row(what, times[0], peer, times[1], ratio, f"≥ {goal}×", ratio >= goal))

    def at_least(self, what: str, value: float, goal: float, unit: str) -> None:
        """A row of one figure of ours that is to be high."""
        self.add(Row(what, figure(value, unit), "", "", None, f"≥ {figure(goal, unit)}", value >= goal))

    def at_most(self, what: str, value: float, goal: float, unit: str) -> None:
        """A row of one figure of ours that is to be low."""
        self.add(Row(what, figure(value, unit), "", "", None, f"≤ {figure(goal, unit)}", value <= goal))

    def add(self, row: Row) -> None:
        """Keeps a row, and prints it at once, as the next may take minutes."""
        if not self.rows:
            print(f"{'':40}{'ours':>20}  {'theirs':>18} {'ratio':>9}  goal")
        self.rows.append(row)
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}×"
        missed = "" if row.reached else "  missed"
        beside = f"  ({row.beside})" if row.beside else ""
        print(f"{row.what:40}{row.ours:>20}  {row.theirs:>18} {ratio:>9}  {row.goal}{missed}{beside}", flush=True)

    def finish(self) -> None:
        """Writes the file."""
        directory: Path = self.arguments.output
        directory.mkdir(parents=True, exist_ok=True)
        machine = {"cpu": platform.processor() or platform.machine(), "torch": torch.__version__, "threads": 1}
        content = {"machine": machine, "rows": [asdict(row) for row in self.rows]}
        path = directory / f"{self.name}.json"
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"written to {path}")
