"""Whether the video is used: the loss of answers with the right video beside another video's, on dialogs of AVSD.

    python benchmarks/video_use.py TRAIN.json VALID.json --steps 1500
    python benchmarks/video_use.py TRAIN.json VALID.json --pretrained DIRECTORY

The challenges' features cannot be had without their download, so each video gets frames that stand in for them: the
words of its caption and summary, of the 250 most frequent after the first 20, each a random vector, those of a frame
added up. Caption and summary themselves are kept from the model, a byte-level GPT or a causal language model of Hugging
Face with its tokenizer. Prints the loss in nats per token over all answers of the validation file, and how often an
answer's own video gives the lower one; the other video is the one after it in the file.
"""

import argparse
import json
import re
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from lt_cli.cli import run
from lt_cli.data.video_dialogs import VideoTurns
from lt_cli.tasks.video_dialogue import VideoDialogue

DIM, FRAMES = 256, 8


def stand_ins(files: list[Path], folder: Path) -> None:
    """Writes FOLDER/ID.npy for each video: frame t is the words of the t-th part of what is told about it."""
    dialogs = [dialog for file in files for dialog in json.loads(file.read_text())["dialogs"]]
    texts = [re.findall(r"\w+", f"{dialog['caption']} {dialog['summary']}".lower()) for dialog in dialogs]
    frequent = [word for word, _ in Counter(word for words in texts for word in words).most_common(270)[20:]]
    generator = np.random.default_rng(0)
    vectors = {word: generator.standard_normal(DIM).astype(np.float32) / 4 for word in frequent}
    for dialog, words in zip(dialogs, texts, strict=True):
        frames = np.zeros((FRAMES, DIM), np.float32)
        for place, word in enumerate(words):
            frames[place * FRAMES // len(words)] += vectors.get(word, 0)
        np.save(folder / f"{dialog['image_id']}.npy", frames)


def losses(task: VideoDialogue, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Nats and tokens of each answer, with the video that comes so many places behind its own."""
    data = task.data
    assert data is not None
    split = data.splits["val"]
    assert isinstance(split, VideoTurns)
    known = list(dict.fromkeys(split.videos))
    other = dict(zip(known, known[shift:] + known[:shift], strict=True))
    split.videos = [other[video] for video in split.videos]
    task.eval()
    nats, tokens = [], []
    with torch.no_grad():
        for batch in data.loader("val"):
            features = task.features_of(batch, batch["labels"])
            for x, labels in zip(features, batch["labels"], strict=True):
                outputs = task.loss_of(x, labels, "val")
                nats.append(float(outputs["loss"] * outputs["weight"]))
                tokens.append(int(outputs["weight"]))
    return np.array(nats), np.array(tokens)


def main() -> None:
    """Trains, and compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("valid", type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--pretrained")
    options = parser.parse_args()
    config = Path(__file__).parent.parent / "configs" / "avsd_tiny.yaml"
    with tempfile.TemporaryDirectory() as directory:
        stand_ins([options.train, options.valid], Path(directory))
        arguments = [
            *["fit", f"--config={config}", f"--trainer.default_root_dir={directory}/runs"],
            *["--data.source=lt_cli.data.avsd.AvsdFiles", f"--data.source.path={options.train.absolute()}"],
            *[f"--data.source.val_path={options.valid.absolute()}", "--data.summary_column=null"],
            "--data.caption_column=null",
            *["--data.features=lt_cli.data.video_features.NpyFeatures", f"--data.features.path={directory}"],
            *["--data.features.kinds=null", f"--model.backbone.video_dim={DIM}", "--data.max_turns=1"],
            *["--data.max_seq_len=320", "--data.max_target_len=96", "--data.batch_size=16"],
            *["--model.generate_in_validation=false", f"--trainer.max_steps={options.steps}"],
            *["--trainer.val_check_interval=500", "--trainer.limit_val_batches=20"],
        ]
        if options.pretrained:
            arguments += [
                "--model.backbone.text=lt_cli.backbones.huggingface.HuggingFaceCausalLM",
                f"--model.backbone.text.pretrained={options.pretrained}",
                "--data.tokenizer=lt_cli.data.tokenizers.HuggingFaceTokenizer",
                f"--data.tokenizer.path={options.pretrained}",
                *["--model.backbone.text.vocab_size=null", "--model.backbone.text.max_seq_len=null"],
                *["--data.max_seq_len=160", "--data.max_target_len=32", "--data.batch_size=16"],
                *["--model.optimizer=torch.optim.AdamW", "--model.optimizer.lr=5e-4"],
            ]
        else:
            arguments += ["--model.backbone.text.max_seq_len=320"]
        begun = time.perf_counter()
        task = run(arguments).model
        assert isinstance(task, VideoDialogue)
        seconds = time.perf_counter() - begun
        right, tokens = losses(task, 0)
        other, _ = losses(task, 1)
    print(f"trained {options.steps} steps in {seconds:.0f} s; {len(right):,} answers, {tokens.sum():,} tokens")
    print(f"right video   {right.sum() / tokens.sum():.4f} nats per token")
    print(f"other video   {other.sum() / tokens.sum():.4f} nats per token")
    print(f"an answer is likelier with its own video: {(right < other).mean():.3f} of the time")


if __name__ == "__main__":
    main()
