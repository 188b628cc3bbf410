"""Whether the video is used: the loss of answers with the right video beside another video's, on dialogs of AVSD.

    python benchmarks/video_use.py TRAIN.json VALID.json --steps 1500
    python benchmarks/video_use.py TRAIN.json VALID.json --pretrained DIRECTORY

The challenges' features cannot be had without their download, so each video gets 20 frames that stand in for them: one
for each word of its summary and caption but the 20 most frequent words, over and over. A word is the mean embedding of
its tokens in the pretrained model, or, without one, a random vector. Summary and caption themselves are kept from the
model, a byte-level GPT or a causal language model of Hugging Face with its tokenizer. Prints the loss in nats per token
over all answers of the validation file, and how often an answer's own video gives the lower one; the other video is the
one after it in the file.
"""

import argparse
import json
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch

from lt_cli.cli import run
from lt_cli.data.video_dialogs import VideoTurns
from lt_cli.tasks.video_dialogue import VideoDialogue

FRAMES = 20
COMMON = 20
"""Words that say nothing about a video, as it is in most texts that they are in."""

Words = Callable[[str], np.ndarray]
"""From a word to a frame."""


def random_words(dim: int) -> Words:
    """A random vector for each word."""
    return lambda word: np.random.default_rng([*word.encode()]).standard_normal(dim).astype(np.float32)


def embedded_words(pretrained: str) -> Words:
    """The mean embedding of a word's tokens, of unit variance over the vocabulary."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(pretrained)
    model = AutoModelForCausalLM.from_pretrained(pretrained, dtype=torch.float32)
    table = model.get_input_embeddings().weight.detach().numpy()
    table = table / table.std()
    return lambda word: table[tokenizer(word, add_special_tokens=False)["input_ids"]].mean(0)


def stand_ins(files: list[Path], folder: Path, words: Words) -> int:
    """Writes FOLDER/ID.npy for each video, and returns the numbers of a frame."""
    dialogs = [dialog for file in files for dialog in json.loads(file.read_text())["dialogs"]]
    texts = [re.findall(r"\w+", f"{dialog['summary']} {dialog['caption']}".lower()) for dialog in dialogs]
    common = {word for word, _ in Counter(word for text in texts for word in text).most_common(COMMON)}
    for dialog, text in zip(dialogs, texts, strict=True):
        told = dict.fromkeys(word for word in text if word not in common) or {"nothing": None}
        frames = np.stack([words(word) for word in islice(cycle(told), FRAMES)])
        np.save(folder / f"{dialog['image_id']}.npy", frames)
    return int(frames.shape[1])


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
        words = embedded_words(options.pretrained) if options.pretrained else random_words(256)
        dim = stand_ins([options.train, options.valid], Path(directory), words)
        arguments = [
            *["fit", f"--config={config}", f"--trainer.default_root_dir={directory}/runs"],
            *["--data.source=lt_cli.data.avsd.AvsdFiles", f"--data.source.path={options.train.absolute()}"],
            *[f"--data.source.val_path={options.valid.absolute()}", "--data.summary_column=null"],
            "--data.caption_column=null",
            *["--data.features=lt_cli.data.video_features.NpyFeatures", f"--data.features.path={directory}"],
            *["--data.features.kinds=null", f"--model.backbone.video_dim={dim}", "--data.max_turns=1"],
            *["--data.max_seq_len=320", "--data.max_target_len=96", "--data.batch_size=16"],
            *["--model.generate_in_validation=false", f"--trainer.max_steps={options.steps}"],
            "--model.frame_weight=0.1",
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
    more = other - right
    print(f"an answer costs {more.mean():.3f} nats more with it, standard error {more.std() / len(more) ** 0.5:.3f}")
    print(f"an answer is likelier with its own video: {(right < other).mean():.3f} of the time")


if __name__ == "__main__":
    main()
