"""Many processes: what README and docs/nodes.md say can be typed, one run's way, a restart, and a host that dies."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from contract_suite import CONFIGS, PREDICT_ALL, ROOT, TEST_ALL, finished, only_run, shell, weights, without_dropout

from lt_cli.checkpoint import load
from lt_cli.cli import run

sys.path.insert(0, str(ROOT / "benchmarks"))

from two_hosts import can_make_hosts

DOCUMENT = (ROOT / "docs" / "nodes.md").read_text()
BLOCKS = re.findall(
    r"^```(?:bash|text)\n(.*?)^```", (ROOT / "README.md").read_text() + DOCUMENT, re.DOTALL | re.MULTILINE
)
SCRIPTS = [block for block in BLOCKS if re.search(r"^srun|torchrun --", block, re.MULTILINE)]
FITS = [
    f"fit{match}" for script in SCRIPTS for match in re.findall(r"main\.py fit( [^'\n]*)", script.replace("\\\n", " "))
]
(JOURNEY,) = (block.splitlines() for block in BLOCKS if "configs/trainer/fsdp2.yaml" in block)


@pytest.mark.parametrize("script", SCRIPTS, ids=range(len(SCRIPTS)))
def test_scripts_are_of_the_shell(script: str) -> None:
    subprocess.run(["bash", "-n"], input=script, check=True, text=True)


@pytest.mark.parametrize("line", FITS, ids=range(len(FITS)))
def test_command_lines_parse(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    words = line.replace("$GROUP_WORLD_SIZE", "2").replace("$((256 / WORLD_SIZE))", "16")
    with pytest.raises(SystemExit) as stop:
        run([*shlex.split(words), "--print_config"])
    assert stop.value.code == 0
    trainer = yaml.safe_load(capsys.readouterr().out)["trainer"]
    assert trainer["num_nodes"] == 2
    assert trainer["accelerator"] == "gpu"


def test_there_are_scripts_for_both() -> None:
    """So that the tests above look at something."""
    assert len(FITS) == 5
    (batch,) = (script for script in SCRIPTS if "#SBATCH" in script)
    nodes, tasks = (re.search(rf"--{name}=(\d+)", batch) for name in ("ntasks-per-node", "trainer.devices"))
    assert nodes is not None
    assert tasks is not None
    assert nodes[1] == tasks[1]


def test_the_timeout_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    (options,) = re.findall(r"`(--trainer\.strategy=\S+ --trainer\.strategy\.timeout=\S+)`", DOCUMENT)
    with pytest.raises(SystemExit):
        run(["fit", *options.split(), "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["trainer"]["strategy"]["init_args"]["timeout"] == "0:05:00"


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", DOCUMENT):
        assert target.startswith("https://") or (ROOT / "docs" / target).exists(), target
    for path in re.findall(r"(?:configs|benchmarks)/[\w/]+\.\w+", DOCUMENT):
        assert (ROOT / path).exists(), path


FEWER = {f"--trainer.max_steps={many}": few for many, few in ((2000, 5), (20000, 7), (40000, 9), (40100, 11))}
"""Steps of the way, of which four are an epoch."""


def test_one_way_from_a_laptop_to_a_cluster_and_back() -> None:
    """Line by line, smaller and on CPUs: in the end it has learned and says what one process has and says."""
    Path("configs").symlink_to(ROOT / "configs")
    config = without_dropout(next(path for path in CONFIGS if path.stem == "sequence_classification"))
    for root in ("alone", "way"):
        kinds = []
        for line in JOURNEY:
            words = shlex.split(line.replace("configs/igpt_cifar.yaml", str(config)))[2:]
            words = [f"--trainer.max_steps={FEWER[word]}" if word in FEWER else word for word in words]
            words += [f"--trainer.default_root_dir={root}", "--trainer.accelerator=cpu", "--trainer.precision=32-true"]
            whole = {"fit": ["--trainer.max_epochs=-1"], "test": TEST_ALL, "predict": PREDICT_ALL}
            words += whole[words[0]]
            if root == "alone":
                cli = run([word for word in words if "configs/trainer" not in word and "batch_size" not in word])
            elif any("configs/trainer" in word for word in words):
                finished(shell(*words, "--trainer.devices=2"))
            else:
                cli = run(words)
            if words[0] == "test":
                test_loss = cli.trainer.callback_metrics["test/loss"]
            kinds.append(last(root).is_dir())
        assert kinds == [False, False, root == "way", False, False, False]
        if root == "alone":
            expected, rows = test_loss, predictions(root)
    torch.testing.assert_close(test_loss, expected, atol=1e-5, rtol=1e-5)
    one, two = weights(last("alone")), weights(last("way"))
    for name, weight in two.items():
        torch.testing.assert_close(weight, one[name], atol=1e-5, rtol=1e-4, msg=name)
        assert torch.equal(load(last("way")).task.state_dict()[name], weight)
    assert len(rows) == len(predictions("way")) > 0
    for row, expected_row in zip(predictions("way"), rows, strict=True):
        chances, expected_chances = row.pop("probabilities"), expected_row.pop("probabilities")
        assert chances == pytest.approx(expected_chances, abs=2e-5)
        assert row == expected_row


def last(root: str) -> Path:
    """The last checkpoint of the only run there, or what it stands for."""
    return only_run("sequence_classification", root) / "checkpoints" / "last.ckpt"


def predictions(root: str) -> list[dict[str, Any]]:
    """The rows of the only file of predictions there."""
    (path,) = Path(root).glob("*/*/predictions/*/predictions.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_torchrun_starts_again_where_the_run_stood() -> None:
    """One of two processes is killed, both are started again, and they learn what one process does."""
    fit = ["fit", f"--config={ROOT / 'tests' / 'contract' / 'pixel_generation.yaml'}", "--model.backbone.dropout=0"]
    fit += ["--trainer.max_epochs=-1", "--trainer.max_steps=24", "--checkpoints.every_minutes=0", "--ckpt_path=last"]
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=8", "--trainer.default_root_dir=two"]
    process = torchrun(*fit, *two, "--trainer.callbacks+=two_hosts.Steps", "--trainer.callbacks.path=steps.jsonl")
    while len(steps("steps.jsonl")) < 10:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    os.kill(steps("steps.jsonl")[-1]["process"], signal.SIGKILL)
    finished(process)
    done = [step["step"] for step in steps("steps.jsonl")]
    assert sorted(set(done)) == list(range(1, 25))
    assert len(done) <= 25, "the last step at most is done twice"
    assert len({step["process"] for step in steps("steps.jsonl")}) == 2
    alone = run(fit).model.state_dict()
    for name, weight in weights(only_run("pixel_generation", "two") / "checkpoints" / "last.ckpt").items():
        torch.testing.assert_close(weight, alone[name], atol=1e-5, rtol=1e-4)


def torchrun(*arguments: str) -> subprocess.Popen[str]:
    """Two processes of one host."""
    place = ["--nproc-per-node=2", "--max-restarts=1", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    paths = {"PYTHONPATH": f"{ROOT / 'benchmarks'}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *place, str(ROOT / "main.py"), *arguments],
        env={**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", **paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def steps(path: str) -> list[dict[str, Any]]:
    """What the callback wrote down so far, whole lines only."""
    text = Path(path).read_text() if Path(path).exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


@pytest.mark.skipif(not can_make_hosts(), reason="hosts are network namespaces, which need Linux, root and ip")
def test_a_host_dies() -> None:
    """The script looks at the weights itself, and at each step."""
    script = [sys.executable, str(ROOT / "benchmarks" / "two_hosts.py"), "--output=table.json"]
    subprocess.run([*script, "--max-steps=60", "--runs", "host2 killed"], check=True, timeout=600)
    whole, killed = json.loads(Path("table.json").read_text())
    assert (whole["sessions"], killed["sessions"]) == (1, 2)
    assert killed["difference"] == 0
    assert killed["twice"] == killed["lost"] < 60
