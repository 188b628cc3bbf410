"""Trains over two hosts on one machine, lets one die, and prints what that cost: the steps since the last checkpoint.

    sudo .venv/bin/python benchmarks/two_hosts.py

Needs Linux, root and the programs ip and unshare. A host is a network namespace with a name and an address of its own,
and a bridge in a third namespace joins two of them. On each runs torchrun, as docs/nodes.md has it, or what srun would
start; both see the same files. Every run must end with the weights of the one that nothing ended, the last bit included
where as many hosts added up the same gradients. Namespaces and processes are gone at the end, however that comes.
"""

import argparse
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "tests" / "contract" / "pixel_generation.yaml"
TOOLS = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
"""Where programs are looked for: ip is not in every root's path."""

BATCH = 16
"""Rows of a step, over all hosts."""

FIT = [
    "fit",
    f"--config={CONFIG}",
    "--model.backbone.dropout=0",  # each process draws its own, so that two would not learn what one does
    "--trainer.accumulate_grad_batches=1",
    "--trainer.limit_train_batches=40",
    "--trainer.max_epochs=-1",
    "--trainer.accelerator=cpu",
    "--trainer.devices=1",
    "--trainer.strategy=ddp",
    "--checkpoints.every_minutes=0.02",
    "--trainer.callbacks+=two_hosts.Steps",
]
TORCHRUN = [
    *(sys.executable, "-m", "torch.distributed.run"),
    *("--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-endpoint=host1:29400", "--rdzv-id=run", "--max-restarts=3"),
    "--rdzv-conf=keep_alive_interval=1,last_call_timeout=5",
]
AWAY = 2.0
"""Seconds until a host that died is there again."""

PATIENCE = 240.0
"""Seconds after which what a host does is taken for stuck."""

SAME = 1e-5
"""How far the weights of one host and of two may be apart, as sums are taken in another order."""


class Steps(Callback):
    """Writes down each optimiser step, and makes batches slow enough to be hit in the middle.

    Args:
        path: The file, a line of JSON for each step.
        pause: Seconds that a batch takes longer.
    """

    def __init__(self, path: str, pause: float = 0.05) -> None:
        """Has written nothing yet."""
        self.path, self.pause = path, pause
        self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What a checkpoint has is no step of this session."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One line, on the first process."""
        time.sleep(self.pause)
        if trainer.is_global_zero and trainer.global_step != self._step:
            self._step = trainer.global_step
            line = {"step": self._step, "time": time.monotonic(), "process": os.getpid(), "of": trainer.world_size}
            with Path(self.path).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


class Host:
    """A machine with a name and an address, of which the network alone is real; its disk is everybody's.

    Args:
        number: 1 or 2.
        namespace: Its network namespace, which is there.
        logs: Where what it prints goes.
    """

    def __init__(self, number: int, namespace: str, logs: Path) -> None:
        """Runs nothing yet."""
        self.number, self.namespace, self.logs = number, namespace, logs
        self.name = f"host{number}"
        self.log = logs / self.name
        self._started = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str], environment: Mapping[str, str] = {}) -> None:
        """Runs a command there: its host name, /etc/hosts and network card are the host's."""
        self.log = self.logs / f"{self.name}-{next(self._started)}.log"
        become = f"hostname {self.name} && mount --bind {shlex.quote(str(self.logs / 'hosts'))} /etc/hosts && "
        inside = ["unshare", "--uts", "--mount", "sh", "-c", become + 'exec "$@"', "sh", *command]
        paths = [str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
        ours = {
            "PATH": TOOLS,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "eth0",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # or a host that comes back never finds the others
        }
        self._process = subprocess.Popen(
            [_program("ip"), "netns", "exec", self.namespace, *inside],
            env={**os.environ, **ours, **environment},
            stdin=subprocess.DEVNULL,
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this script, which ends them
        )

    def processes(self) -> list[int]:
        """What runs there."""
        return [int(number) for number in ip("netns", "pids", self.namespace).split()]

    def kill(self) -> None:
        """Ends all that runs there, without a chance to say goodbye; what its kernel still says, others hear."""
        while processes := self.processes():
            for process in processes:
                _send(process, signal.SIGKILL)
            time.sleep(0.05)
        self.wait()

    def vanish(self) -> None:
        """Pulls the plug: nobody hears of it."""
        ip("-n", self.namespace, "link", "set", "eth0", "down")
        self.kill()

    def return_(self) -> None:
        """Is on the network again, if it was not."""
        ip("-n", self.namespace, "link", "set", "eth0", "up")

    def signal(self, number: int) -> None:
        """Sends a signal to what was started, and to nothing that this started."""
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self, patience: float = PATIENCE) -> int:
        """The exit code of what was started."""
        if self._process is None:
            return 0
        try:
            return self._process.wait(patience)
        except subprocess.TimeoutExpired as error:
            raise Stuck(f"{self.name} is stuck; the end of {self.log}:\n{self.said()[-4000:]}") from error

    def said(self) -> str:
        """What the last thing started there printed."""
        return self.log.read_text(errors="replace")


class Stuck(Exception):
    """What should have happened did not."""


def ip(*arguments: str) -> str:
    """Asks the program ip."""
    done = subprocess.run([_program("ip"), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {shlex.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _program(name: str) -> str:
    found = shutil.which(name, path=TOOLS)
    if found is None:
        raise OSError(f"there is no program {name} here")
    return found


def _send(process: int, number: int) -> None:
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return


def can_make_hosts() -> bool:
    """Whether namespaces can be made here."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return False
    try:
        _program("unshare")
        with namespace(f"lt-{os.getpid()}-try") as name:
            ip("-n", name, "link", "add", "bridge0", "type", "bridge")
    except OSError:
        return False
    return True


@contextmanager
def namespace(name: str) -> Iterator[str]:
    """A network namespace, and at the end neither it nor what runs there."""
    ip("netns", "add", name)
    try:
        yield name
    finally:
        while processes := ip("netns", "pids", name).split():
            for process in processes:
                _send(int(process), signal.SIGKILL)
            time.sleep(0.05)
        ip("netns", "delete", name)


@contextmanager
def two_hosts(logs: Path) -> Iterator[tuple[Host, Host]]:
    """Two hosts on one bridge."""
    names = [f"lt-{os.getpid()}-{name}" for name in ("switch", "host1", "host2")]
    with ExitStack() as stack:
        switch, *spaces = [stack.enter_context(namespace(name)) for name in names]
        ip("-n", switch, "link", "add", "bridge0", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge0", "up")
        for number, space in enumerate(spaces, 1):
            port = f"port{number}"
            ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("-n", switch, "link", "set", port, "master", "bridge0", "up")
            ip("-n", space, "address", "add", f"10.0.0.{number}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                ip("-n", space, "link", "set", link, "up")
        (logs / "hosts").write_text("127.0.0.1 localhost\n10.0.0.1 host1\n10.0.0.2 host2\n")
        yield Host(1, spaces[0], logs), Host(2, spaces[1], logs)


@dataclass
class Result:
    """What came of a run.

    Attributes:
        name: What happened in it.
        steps: Of the optimiser, each counted once.
        sessions: How often training began.
        twice: Steps that were done twice.
        lost: Steps that were done when something ended the run, and that last.ckpt did not hold.
        pause: Seconds from the last step before the longest break to the first one behind it.
        difference: Largest difference of a weight from the undisturbed run's.
    """

    name: str
    steps: int
    sessions: int
    twice: int
    lost: int
    pause: float
    difference: float


class Run:
    """One run on the two hosts, which may die in it.

    Args:
        name: What happens in it.
        hosts: The hosts.
        place: Where runs lie.
        max_steps: Its length.
    """

    def __init__(self, name: str, hosts: tuple[Host, Host], place: Path, max_steps: int) -> None:
        """Has not begun."""
        self.name, self.hosts, self.max_steps = name, hosts, max_steps
        self.root = place / name.replace(" ", "_")
        self.lines = self.root.with_suffix(".jsonl")
        self.lost = 0

    def arguments(self, *more: str) -> list[str]:
        """The command line of lt_cli."""
        where = [f"--trainer.default_root_dir={self.root}", f"--trainer.callbacks.path={self.lines}"]
        return [*FIT, f"--trainer.max_steps={self.max_steps}", *where, *more]

    def torchrun(self) -> list[str]:
        """What is typed on both hosts, and once more on one that was away."""
        fit = self.arguments("--trainer.num_nodes=2", f"--data.batch_size={BATCH // 2}", "--ckpt_path=last")
        return [*TORCHRUN, "--nnodes=2", str(ROOT / "main.py"), *fit]

    def start(self, command: Sequence[str]) -> None:
        """Types it on both."""
        for host in self.hosts:
            host.start(command)

    def steps(self) -> list[dict[str, Any]]:
        """All steps so far, in the order in which they were done."""
        text = self.lines.read_text() if self.lines.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def until(self, happened: Callable[[], Any], what: str) -> None:
        """Waits for something."""
        deadline = time.monotonic() + PATIENCE
        while not happened():
            if time.monotonic() > deadline:
                logs = "\n".join(f"{host.log}:\n{host.said()[-2000:]}" for host in self.hosts)
                raise Stuck(f"{self.name}: {what} did not happen\n{logs}")
            time.sleep(0.02)

    def half_done(self) -> None:
        """Waits until the run is in its middle, a few steps after a checkpoint, so that there is something to lose."""
        self.until(self.checkpoints, "a checkpoint")
        self.until(lambda: self.steps()[-1]["step"] >= self.max_steps // 3, "a third of the steps")
        self.until(lambda: self.steps()[-1]["step"] - self.saved() >= 2, "a step that is not saved")

    def checkpoints(self) -> list[Path]:
        """The last.ckpt of the only run, if it is there yet."""
        return list(self.root.glob("*/*/checkpoints/last.ckpt"))

    def last(self) -> dict[str, Any]:
        """What last.ckpt holds."""
        (path,) = self.checkpoints()
        checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
        return checkpoint

    def saved(self) -> int:
        """The step of last.ckpt."""
        return int(self.last()["global_step"])

    def note_loss(self) -> None:
        """Looks at what is lost, where a host is dead and nothing can go on without it."""
        time.sleep(AWAY)
        self.lost += self.steps()[-1]["step"] - self.saved()

    def interrupted(self, end: Callable[[], None], *again: Host) -> None:
        """Begun by torchrun, ended in its middle, and begun again on the hosts that were away."""
        self.start(self.torchrun())
        self.half_done()
        end()
        self.note_loss()
        for host in again:
            host.return_()
            host.start(self.torchrun())

    def finish(self) -> dict[str, torch.Tensor]:
        """Waits for the end on all hosts; the weights."""
        for host in self.hosts:
            if code := host.wait():
                raise Stuck(
                    f"{self.name}: {host.name} ended with {code}; the end of {host.log}:\n{host.said()[-4000:]}"
                )
        weights: dict[str, torch.Tensor] = self.last()["state_dict"]
        return weights

    def result(self, weights: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> Result:
        """The row of the table."""
        steps = self.steps()
        pairs = list(itertools.pairwise(steps))
        breaks = [later["time"] - step["time"] for step, later in pairs if later["process"] != step["process"]]
        numbers = [step["step"] for step in steps]
        return Result(
            name=self.name,
            steps=len(set(numbers)),
            sessions=1 + len(breaks),
            twice=len(numbers) - len(set(numbers)),
            lost=self.lost,
            pause=max(breaks, default=0.0),
            difference=max(float((weights[name] - wanted[name]).abs().max()) for name in wanted),
        )


def one_host(run: Run) -> None:
    """Nothing happens, and there is one host."""
    one, _ = run.hosts
    one.start([sys.executable, str(ROOT / "main.py"), *run.arguments(f"--data.batch_size={BATCH}")])


def nothing_happens(run: Run) -> None:
    """Nothing happens."""
    run.start(run.torchrun())


def host2_killed(run: Run) -> None:
    """All processes of a host die; torchrun is started there again, and the other one has waited for it."""
    _, two = run.hosts
    run.interrupted(two.kill, two)


def host2_vanishes(run: Run) -> None:
    """A host loses its power: it is not even heard that its connections end."""
    _, two = run.hosts
    run.interrupted(two.vanish, two)


def host1_killed(run: Run) -> None:
    """The host dies where torchruns meet: all of them end, and are started again."""
    one, two = run.hosts

    def end() -> None:
        one.kill()
        two.wait()

    run.interrupted(end, one, two)


def host2_asked(run: Run) -> None:
    """Torchrun on a host is asked to stop: all save, and nothing is lost."""
    _, two = run.hosts

    def end() -> None:
        two.signal(signal.SIGTERM)
        two.wait()

    run.interrupted(end, two)


def goes_on_alone(run: Run) -> None:
    """A host dies, the other one goes on without it, and with it when it is back; a step has as many rows as ever."""
    _, two = run.hosts
    fit = shlex.join([sys.executable, str(ROOT / "main.py"), *run.arguments("--ckpt_path=last")])
    as_many = f"--trainer.num_nodes=$GROUP_WORLD_SIZE --data.batch_size=$(({BATCH} / WORLD_SIZE))"
    command = [*TORCHRUN, "--nnodes=1:2", "--no-python", "sh", "-c", f"exec {fit} {as_many}"]
    run.start(command)
    run.half_done()
    two.kill()
    run.note_loss()
    before = run.steps()[-1]["step"]
    run.until(lambda: run.steps()[-1]["of"] == 1 and run.steps()[-1]["step"] > before, "a step on one host")
    two.start(command)


def warned_by_slurm(run: Run) -> None:
    """What srun starts is warned, asks for the job to be queued again, and is started again under the same number."""
    command = [sys.executable, str(ROOT / "main.py"), *run.arguments("--trainer.num_nodes=2")]
    command.append(f"--data.batch_size={BATCH // 2}")
    tools = run.root.with_suffix(".bin")
    tools.mkdir()
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(tools / "asked"))}\n')
    (tools / "scontrol").chmod(0o755)

    def srun(restarts: int) -> None:
        for host in run.hosts:
            slurm = {
                "PATH": f"{tools}:{TOOLS}",
                "SLURM_JOB_ID": "77",
                "SLURM_JOB_NAME": "train",
                "SLURM_NODELIST": "host[1-2]",
                "SLURM_NTASKS": "2",
                "SLURM_NTASKS_PER_NODE": "1",
                "SLURM_PROCID": str(host.number - 1),
                "SLURM_NODEID": str(host.number - 1),
                "SLURM_LOCALID": "0",
                "SLURM_RESTART_COUNT": str(restarts),
            }
            host.start(command, slurm)

    srun(0)
    run.half_done()
    for host in run.hosts:
        host.signal(signal.SIGUSR1)
    codes = [host.wait() for host in run.hosts]
    asked = (tools / "asked").read_text()
    if codes != [128 + signal.SIGUSR1] * 2 or asked != "requeue 77\n":
        raise Stuck(f"exit codes {codes}, and asked of SLURM was: {asked}")
    run.note_loss()
    srun(1)


RUNS: dict[str, Callable[[Run], None]] = {
    "two hosts": nothing_happens,
    "one host": one_host,
    "host2 killed": host2_killed,
    "host2 vanishes": host2_vanishes,
    "host1 killed": host1_killed,
    "host2 asked to stop": host2_asked,
    "host1 goes on alone": goes_on_alone,
    "SLURM's warning": warned_by_slurm,
}
"""The first is what the others are measured by."""

OTHER_SUMS = ("one host", "host1 goes on alone")
"""Runs that add the same gradients up in another order."""


def main() -> None:
    """Prints a table, and writes it as JSON; the exit code is 1 where a run lost what it should not."""
    first, *others = RUNS
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", nargs="*", choices=others, default=others, metavar="RUN", help=f"of {others}; all")
    parser.add_argument("--max-steps", type=int, default=200)
    parser.add_argument("--output", type=Path, help="a file for the table as JSON")
    arguments = parser.parse_args()
    if not can_make_hosts():
        sys.exit("error: hosts are network namespaces, which need Linux, root, ip and unshare")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    results: list[Result] = []
    wanted: dict[str, torch.Tensor] = {}
    with tempfile.TemporaryDirectory() as directory, two_hosts(Path(directory)) as hosts:
        for name in (first, *arguments.runs):
            run = Run(name, hosts, Path(directory), arguments.max_steps)
            try:
                RUNS[name](run)
                weights = run.finish()
            except Stuck as stuck:
                sys.exit(f"error: {stuck}")
            wanted = wanted or weights
            results.append(run.result(weights, wanted))
            print(f"{name}: over", file=sys.stderr, flush=True)
    print(f"{'':21}{'steps':>7}{'sessions':>10}{'not saved':>11}{'done twice':>12}{'pause':>9}{'difference':>12}")
    for row in results:
        pause = f"{row.pause:.0f} s" if row.pause else "-"
        print(f"{row.name:21}{row.steps:7}{row.sessions:10}{row.lost:11}{row.twice:12}{pause:>9}{row.difference:12.1e}")
    if arguments.output:
        arguments.output.write_text(json.dumps([vars(row) for row in results], indent=2) + "\n")
    sys.exit(any(_is_harm(row, arguments.max_steps) for row in results))


def _end(number: int, frame: FrameType | None) -> None:
    """Ends the script as an exception does, so that everything is put away."""
    sys.exit(128 + number)


def _is_harm(row: Result, steps: int) -> bool:
    """Whether a step is missing, one was done twice that a checkpoint held, or the weights are others."""
    same = SAME if row.name in OTHER_SUMS else 0
    return row.steps != steps or row.twice != row.lost or not row.difference <= same


if __name__ == "__main__":
    main()
