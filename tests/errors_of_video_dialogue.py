"""Mistakes with dialogs about videos and their features, as in errors_corpus.py."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from contract_suite import GOLDEN, ROOT
from errors_corpus import Wrong, save, together
from texts import KINDS

from lt_cli.data.dialogs import HIDDEN

CONFIG = ROOT / "tests" / "contract" / "video_dialogue.yaml"
FIT = ["fit", f"--config={CONFIG}", "--trainer.max_steps=2", "--model.schedule.warmup_steps=0"]
TRAINED = [f"--ckpt_path={GOLDEN / 'video_dialogue.ckpt'}", "--trainer.accelerator=cpu"]
FEATURES = ["--data.features=lt_cli.data.video_features.NpyFeatures", "--data.features.path=features"]
AVSD = ["--data.source=lt_cli.data.avsd.AvsdFiles"]
MINE = [*FIT, *AVSD, "--data.source.path=mine.json", "--data.source.val_path=val.json", *FEATURES]
"""Files and features as ``mine`` makes them."""
TABLE = [*FIT, "--data.source=lt_cli.data.row_sources.TableFiles", "--data.source.path=mine.jsonl"]
TABLE += ["--data.source.val_path=val.jsonl", *FEATURES]
TOKENIZER = ["--data.tokenizer=lt_cli.data.tokenizers.HuggingFaceTokenizer", "--data.tokenizer.path=tokens"]
ONE = "and one of them says how to write: add"
CURE = "leave these dialogs out, or give the files"
DIMS = {"i3d_flow": 64, "i3d_rgb": 96, "vggish": 32}
"""As many numbers together as the contract's backbone takes."""


def dialog(video: str = "A", answer: str | None = "there", **changes: Any) -> dict[str, Any]:
    """A dialog of two turns."""
    turns = [{"question": "who?", "answer": "a cat"}, {"question": "where?", "answer": answer}]
    return {"image_id": video, "caption": "a cat", "summary": "it sits", "dialog": turns, **changes}


def avsd(name: str, *dialogs: dict[str, Any]) -> Callable[[], None]:
    """Writes a file of dialogs."""
    return save(name, json.dumps({"dialogs": dialogs}))


def mine(*dialogs: dict[str, Any], also: Callable[[], object] = lambda: None) -> Callable[[], object]:
    """Dialogs to train on, good ones for validation, and features of the videos A, B and C."""
    arrays = {
        f"features/{kind}/{video}.npy": np.ones((4, dim), np.float32) for kind, dim in DIMS.items() for video in "ABC"
    }
    lines = "".join(json.dumps(fields) + "\n" for fields in dialogs)
    return together(
        *(save(name, array) for name, array in arrays.items()),
        avsd("mine.json", *(dialogs or [dialog("A"), dialog("B")])),
        avsd("val.json", dialog("C")),
        save("mine.jsonl", lines),
        save("val.jsonl", json.dumps(dialog("C"))),
        also,
    )


def cut_off() -> None:
    path = Path("features/i3d_rgb/B.npy")
    path.write_bytes(path.read_bytes()[:-8])


VIDEO_CORPUS = [
    # what is no part of such a run
    Wrong(
        [*FIT, "--model.backbone=lt_cli.backbones.gpt.GPT"],
        "--model.backbone: lt_cli.backbones.gpt.GPT is no VideoTextBackbone",
    ),
    Wrong(
        [*FIT, "--model.backbone.text=lt_cli.backbones.encoder.Encoder"],
        "--model.backbone.text: lt_cli.backbones.encoder.Encoder is no CausalVectorBackbone",
    ),
    Wrong(
        [*FIT, "--data.features=lt_cli.data.scenes.Scenes"],
        "--data.features: lt_cli.data.scenes.Scenes is no VideoFeatures",
    ),
    Wrong(
        [*FIT, "--data.features=NpyFeature"],
        "--data.features: NpyFeature is no class known here; did you mean lt_cli.data.video_features.NpyFeatures?",
    ),
    Wrong(
        [*FIT, "--data=lt_cli.data.text_to_text.TextToText", "--data.source=toys.Beginnings"],
        "VideoDialogue needs data such as lt_cli.data.video_dialogs.VideoDialogs, not TextToText",
    ),
    # options of the backbone
    Wrong(
        [*FIT, "--model.backbone.video_dim=128"],
        "the data has 192 numbers in a frame, the backbone 128: add --model.backbone.init_args.video_dim=192",
    ),
    Wrong(
        [*FIT, "--model.backbone.num_segments=3"],
        "the data has 4 kinds of places in a row, the backbone 3: add --model.backbone.init_args.num_segments=4",
    ),
    Wrong(
        [*FIT, "--model.backbone.text.vocab_size=257"],
        "the data has 258 tokens, the backbone a vocabulary of 257: add "
        "--model.backbone.init_args.text.init_args.vocab_size=258",
    ),
    Wrong(
        [*FIT, "--model.backbone.text.max_seq_len=100"],
        "the data has sequences of 128 tokens, the backbone takes 100: add "
        "--model.backbone.init_args.text.init_args.max_seq_len=128",
    ),
    Wrong(
        [*FIT, "--model.backbone.text.start_token=true"],
        "text has a start token of its own, which would have no use, as rows begin with a video: set "
        "--model.backbone.init_args.text.init_args.start_token=false",
    ),
    # options of the task
    Wrong(
        [*FIT, "--model.frame_weigth=0.5"],
        "--model: VideoDialogue has no option frame_weigth; did you mean frame_weight?",
    ),
    Wrong(
        [*FIT, "--model.frame_weight=-1"],
        "frame_weight (-1.0) must be a finite number of at least 0, which leaves the frames' loss out",
    ),
    Wrong(
        [*FIT, "--model.max_new_tokens=25"],
        "max_new_tokens (25) must be at most the data's max_target_len (24), which is kept free for answers: add "
        "--model.max_new_tokens=24, or --data.max_target_len=25",
    ),
    Wrong(
        [*FIT, "--model.search.min_new_tokens=5"],
        "search.min_new_tokens (5) must be at most max_new_tokens (4)",
    ),
    Wrong(
        [*FIT, "--model.sampling.temperature=0.5"],
        f"search and sampling are both given, {ONE} --model.search=null",
    ),
    Wrong([*FIT, "--model.search=null"], f"search and sampling are both null, {ONE} --model.sampling={{}}"),
    # sizes and columns of the data
    Wrong(
        [*FIT, "--data.max_target_len=128"],
        "max_target_len (128) must be at least 2 and less than max_seq_len (128)",
    ),
    Wrong(
        [*FIT, "--data.features.num_frames=100"],
        "train, dialog 0 (scene_0104): the question 'what colour is it?' and 100 frames have no room in max_seq_len "
        "(128) beside max_target_len (24), which is so for 144 questions: set --data.max_seq_len=144 or more, or take "
        "fewer frames of a video",
    ),
    Wrong(
        [*FIT, "--data.summary_column=sumary"],
        "train, dialog 0 (scene_0104) has no column 'sumary', only image_id, caption, summary, dialog; did you mean "
        "summary?",
    ),
    Wrong(
        [*FIT, "--data.video_column=caption"],
        "video_column (caption), dialog_column (dialog), caption_column (caption) and summary_column (summary) must be "
        "different columns",
    ),
    Wrong(
        [*TABLE, "--data.dialog_column=summary", "--data.summary_column=null"],
        "mine.jsonl:1: summary is not JSON: Expecting value, column 1",
        before=mine(dialog()),
    ),
    # dialogs in files
    Wrong(
        MINE,
        f"mine.json, dialogs[1] (B): the last answer is hidden ({HIDDEN}), so that train cannot use it: predict it, or "
        "leave the row out",
        before=mine(dialog("A"), dialog("B", HIDDEN)),
    ),
    Wrong(
        MINE,
        f"val.json, dialogs[0] (C): the last answer is hidden ({HIDDEN}), so that val cannot use it: predict it, or "
        "leave the row out",
        before=mine(also=avsd("val.json", dialog("C", None))),
    ),
    Wrong(
        ["test", *TRAINED, *AVSD, "--data.source.test_path=test.json", *FEATURES],
        f"test.json, dialogs[0] (A): the last answer is hidden ({HIDDEN}), so that test cannot use it: predict it, …",
        before=mine(also=avsd("test.json", dialog("A", HIDDEN))),
    ),
    Wrong(
        TABLE,
        f"mine.jsonl:1: dialog[0].answer must be text, not '{HIDDEN}': only the last turn may be without an answer",
        before=mine(dialog(dialog=[{"question": "a", "answer": HIDDEN}, {"question": "b", "answer": "c"}])),
    ),
    Wrong(
        [*MINE, "--data.source.references_path=refs.json"],
        "source.references_path (refs.json) has answers to a test file, and there is none: name it with "
        "--data.source.test_path, or set --data.source.references_path=null",
        before=mine(),
    ),
    # features of videos
    Wrong([*FIT, *FEATURES[:1]], "--data.features.path must be given"),
    Wrong(
        MINE,
        "features.path (features) must be a folder, and there is none: correct --data.features.path",
        before=together(avsd("mine.json", dialog()), avsd("val.json", dialog())),
    ),
    Wrong(
        [*MINE, "--data.features.kinds=[i3d_rbg]"],
        "features has no folder 'i3d_rbg' of kinds ['i3d_rbg'], only i3d_flow, i3d_rgb, vggish; did you mean i3d_rgb?",
        before=mine(),
    ),
    Wrong(
        MINE,
        f"1 of 2 videos have no features that can be used in features: i3d_flow/Z.npy is missing: {CURE}",
        before=mine(dialog("A"), dialog("Z")),
    ),
    Wrong(
        MINE,
        "1 of 2 videos have no features that can be used in features: i3d_rgb/B.npy is cut off: it has 1,656 bytes, "
        f"where it says 1,664: {CURE}",
        before=mine(also=cut_off),
    ),
    Wrong(
        [*MINE, "--data.num_workers=1"],
        "features/i3d_rgb/B.npy has numbers that are not finite as float32: mend it, or leave the video out",
        before=mine(also=save("features/i3d_rgb/B.npy", np.full((4, 96), np.nan, np.float32))),
    ),
    Wrong(
        [*MINE, "--data.features.kinds=[vggish]"],
        "the data has 32 numbers in a frame, the backbone 192: add --model.backbone.init_args.video_dim=32",
        before=mine(),
    ),
    Wrong(
        ["test", *TRAINED, *AVSD, "--data.source.test_path=mine.json", *FEATURES, "--data.features.kinds=[vggish]"],
        "the data has 32 numbers in a frame, the backbone 192: give it those that it learned with",
        before=mine(),
    ),
    Wrong(
        ["predict", *TRAINED, *AVSD, "--data.source.predict_path=mine.json"],
        "SceneFrames draws videos called scene_NUMBER only, and 2 are others: A, B: take their features from files "
        "with lt_cli.data.video_features.NpyFeatures",
        before=mine(),
    ),
    # tokens
    Wrong(
        [*FIT, *TOKENIZER, "--data.tokenizer.start_token=<speaker2>"],
        "tokenizer.start_token ('<speaker2>') must be a token of 'tokens', which has none such",
        before=lambda: KINDS["gpt2"](Path("tokens")),
    ),
    Wrong(
        [*FIT, *TOKENIZER],
        "the data has 290 tokens, the backbone a vocabulary of 258: add "
        "--model.backbone.init_args.text.init_args.vocab_size=290",
        before=lambda: KINDS["gpt2"](Path("tokens")),
    ),
    # what has been trained
    *(
        Wrong(
            [command, f"--config={CONFIG}"],
            "the weights of VideoDialogue are untrained: give --ckpt_path=best, last or a file",
        )
        for command in ("test", "predict")
    ),
    Wrong(
        ["test", *TRAINED, "--model.backbone.text.num_layers=1"],
        f"the checkpoint {GOLDEN / 'video_dialogue.ckpt'} is of another model: Unexpected key(s) …",
    ),
]
