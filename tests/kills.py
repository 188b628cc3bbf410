"""Ends a run at random moments, also while it writes a checkpoint, and lets it go on, again and again.

kills.py CONFIG KILLS SEED OPTION...  prints what happened as JSON. Runs lie under the working directory. Each session
is a fork of this process, which has imported everything, so that a session costs a fraction of a second.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from lt_cli.checkpoint_io import read
from lt_cli.cli import run
from lt_cli.errors import UserError
from lt_cli.signals import Signals


@dataclass
class Tally:
    """What came of it.

    Attributes:
        kills: Sessions that SIGKILL ended.
        stops: Sessions that SIGTERM or SIGINT ended.
        wrong_exits: Those whose exit code was another than 128 + the signal's number, if it had not just ended.
        kills_while_writing: Those that left a half-written file beside the checkpoints.
        kills_while_starting: Those that came before the session's first checkpoint.
        runs: Runs that reached their end, in several sessions each.
        damaged_checkpoints: last.ckpt or best.ckpt that could not be read after a kill.
        bytes_lost: Size of those.
        different_weights: Runs whose last or best weights differ from the uninterrupted run's in any bit.
        evaluations: Tests and predictions from checkpoints alone.
        different_scores: Those that gave other scores or predictions than the uninterrupted run's checkpoint.
    """

    kills: int = 0
    stops: int = 0
    wrong_exits: int = 0
    kills_while_writing: int = 0
    kills_while_starting: int = 0
    runs: int = 0
    damaged_checkpoints: int = 0
    bytes_lost: int = 0
    different_weights: int = 0
    evaluations: int = 0
    different_scores: int = 0


class Killer:
    """One configuration, run to its end once, and then with kills.

    Args:
        config: The configuration.
        options: More of the command line.
        seed: Of the moments.
    """

    def __init__(self, config: Path, options: list[str], seed: int) -> None:
        """Trains without a kill, and takes the time."""
        self.name = config.stem
        self.args = ["fit", f"--config={config}", "--checkpoints.every_minutes=0", *options]
        self.random = random.Random(seed)
        self.tally = Tally()
        shutil.rmtree("whole", ignore_errors=True)
        began = time.monotonic()
        session = self.session("whole")
        if os.waitpid(session, 0)[1]:
            raise RuntimeError(Path("sessions.log").read_text())
        self.seconds = time.monotonic() - began

    def session(self, root: str) -> int:
        """A process that begins or goes on with the run under this directory."""
        return self.fork([*self.args, f"--trainer.default_root_dir={root}", "--ckpt_path=last"])

    def fork(self, args: list[str]) -> int:
        """A process that runs a command line."""
        if session := os.fork():
            return session
        log = os.open("sessions.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 1
        try:
            torch.set_num_threads(1)
            cli = run(args, Signals(patience=10))
            scores = {name: value.item() for name, value in cli.trainer.callback_metrics.items()}
            Path("scores.json").write_text(json.dumps(scores))
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException as error:
            print(repr(error), flush=True)
        finally:
            os._exit(code)

    def kill_until_done(self, enough: int) -> None:
        """One run, ended until it is through or there were enough kills; then it is compared."""
        shutil.rmtree("broken", ignore_errors=True)
        while self.tally.kills < enough:
            if self.ends_by_itself(self.session("broken")):
                break
            self.look()
        else:
            os.waitpid(self.session("broken"), 0)
        self.compare()

    def ends_by_itself(self, session: int) -> bool:
        """Waits for a random time, half of the times also until a file is half-written; then ends what still runs."""
        step = self.step()
        number = self.random.choice([signal.SIGKILL] * 6 + [signal.SIGTERM, signal.SIGINT])
        aims_at_writing = self.random.random() < 0.5
        moment = time.monotonic() + self.random.uniform(0.2, 0.7) * self.seconds
        while time.monotonic() < moment or (aims_at_writing and not self.half_written()):
            if os.waitpid(session, os.WNOHANG)[0]:
                return True
            time.sleep(0 if time.monotonic() > moment else 0.001)
        os.kill(session, number)
        _, status = os.waitpid(session, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            return True
        if number == signal.SIGKILL:
            self.tally.kills += 1
            self.tally.kills_while_starting += self.step() == step
        else:
            self.tally.stops += 1
            self.tally.wrong_exits += code != 128 + number
        return False

    def half_written(self) -> list[Path]:
        """Files that a kill left, or that are being written."""
        return [*Path("broken", self.name).glob("*/checkpoints/*.part")]

    def look(self) -> None:
        """At what was left."""
        left = self.half_written()
        self.tally.kills_while_writing += bool(left)
        for path in left:
            path.unlink(missing_ok=True)  # so that the next kill's are its own
        for path in Path("broken").glob("**/checkpoints/*.ckpt"):
            try:
                read(path)
            except UserError:
                self.tally.damaged_checkpoints += 1
                self.tally.bytes_lost += path.stat().st_size

    def step(self) -> int:
        """The optimiser step of last.ckpt; 0 where there is none."""
        found = list(Path("broken").glob(f"{self.name}/*/checkpoints/last.ckpt"))
        return int(read(found[0])["global_step"]) if found else 0

    def compare(self) -> None:
        """The run that was killed with the one that was not."""
        self.tally.runs += 1
        for which in ("last", "best"):
            (whole,), (broken,) = (
                [*Path(root).glob(f"{self.name}/*/checkpoints/{which}.ckpt")] for root in ("whole", "broken")
            )
            one, other = read(whole), read(broken)
            same = one["global_step"] == other["global_step"] and one["state_dict"].keys() == other["state_dict"].keys()
            if not same or any(
                not torch.equal(one["state_dict"][k], other["state_dict"][k]) for k in one["state_dict"]
            ):
                self.tally.different_weights += 1

    def evaluate(self) -> None:
        """Tests and predicts from both runs' best checkpoints alone."""
        for command in ("test", "predict"):
            found = []
            for root in ("whole", "broken"):
                directory = Path(f"evaluated-{root}")
                shutil.rmtree(directory, ignore_errors=True)
                best = next(Path(root, self.name).glob("*/checkpoints/best.ckpt"))
                limits = [f"--trainer.limit_{command}_batches=2", "--trainer.accelerator=cpu"]
                session = self.fork([command, f"--ckpt_path={best}", f"--predictions.directory={directory}", *limits])
                if os.waitpid(session, 0)[1]:
                    raise RuntimeError(Path("sessions.log").read_text())
                scores = json.loads(Path("scores.json").read_text())
                scores.pop("test/tokens_per_second", None)
                found.append((scores, sorted(path.read_bytes() for path in directory.glob("*.csv"))))
            self.tally.evaluations += 1
            self.tally.different_scores += found[0] != found[1]


def main(config: str, kills: str, seed: str, *options: str) -> None:
    """Kills until there were enough kills."""
    killer = Killer(Path(config), list(options), int(seed))
    while killer.tally.kills < int(kills):
        killer.kill_until_done(int(kills))
    print(json.dumps(asdict(killer.tally)))


if __name__ == "__main__":
    main(*sys.argv[1:])
