"""Mistakes with words and their labels, as in errors_corpus.py."""

import json
from collections.abc import Callable

from contract_suite import ROOT
from errors_corpus import Wrong, save

FIT = [
    "fit",
    f"--config={ROOT / 'tests' / 'contract' / 'token_classification.yaml'}",
    *("--trainer.max_steps=2", "--model.schedule.warmup_steps=0"),
]
CONLL = [*FIT, "--data.source=lt_cli.data.conll.ConllFiles"]
TRAIN = [*CONLL, "--data.source.path=eng.train"]
BOTH = [*TRAIN, "--data.source.val_path=eng.testa"]
TABLE = [*FIT, "--data.source=lt_cli.data.row_sources.TableFiles", "--data.source.path=mine.jsonl"]
GOOD = "EU NNP B-ORG\ncalls VB O\n\nPeter NNP B-PER\n"


def files(train: str = GOOD, val: str = GOOD) -> Callable[[], object]:
    """The two files of a CoNLL corpus."""

    def both() -> None:
        save("eng.train", train)()
        save("eng.testa", val)()

    return both


def rows(*fields: dict[str, object]) -> Callable[[], object]:
    """A .jsonl of good rows and these."""
    good = {"tokens": ["a", "b"], "labels": ["O", "B-X"]}
    return save("mine.jsonl", "".join(json.dumps(row) + "\n" for row in (*[good] * 20, *fields)))


TOKEN_CORPUS = [
    Wrong([*FIT, "--model.dropout=1"], "dropout (1.0) must be at least 0 and less than 1"),
    Wrong([*FIT, "--model.label_smoothing=1"], "label_smoothing (1.0) must be at least 0 and less than 1"),
    Wrong(
        [*FIT, "--model.layer_decay=0"], "layer_decay (0.0) must be above 0 and at most 1, which keeps one learning…"
    ),
    Wrong([*FIT, "--model.dropuot=0.1"], "--model: TokenClassification has no option dropuot; did you mean dropout?"),
    Wrong(
        [*FIT, "--model.class_weights.B-LOK=2"],
        "class_weights names 'B-LOK', and the classes are B-LOC, B-PER, I-LOC, I-PER, O; did you mean B-LOC?",
    ),
    Wrong([*FIT, "--data.stride=-1"], "stride (-1) must not be negative"),
    Wrong(
        [*FIT, "--data.stride=14"],
        "stride (14) must be less than max_seq_len (16) without the 2 tokens that frame a window: lower it, or raise "
        "max_seq_len",
    ),
    Wrong(
        [*FIT, "--data.max_seq_len=32"],
        "the data has sequences of 32 tokens, the backbone takes 16: add --model.backbone.init_args.max_seq_len=32",
    ),
    Wrong([*FIT, "--data.scheme=biose"], "--data.scheme: expected one of 'iob1', 'bio', 'bioes', 'bilou', got biose"),
    Wrong(
        [*FIT, "--data.label_column=tokens"],
        "token_column (tokens) and label_column (tokens) must be different columns",
    ),
    Wrong([*FIT, "--data.label_column=tag"], "train:1 has no column 'tag', only tokens, labels, id"),
    Wrong(
        [*FIT, "--model.backbone=lt_cli.backbones.gpt.GPT"],
        "--model.backbone: lt_cli.backbones.gpt.GPT is no EncoderBackbone",
    ),
    Wrong(
        [*TABLE, "--data=lt_cli.data.labeled_text.LabeledText"],
        "TokenClassification needs data of words with labels, such as lt_cli.data.labeled_tokens.LabeledTokens, "
        "not LabeledText",
        before=save("mine.jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n' * 9),
    ),
    Wrong(
        [*FIT, "--model=lt_cli.tasks.sequence_classification.SequenceClassification"],
        "SequenceClassification needs data of texts with labels, such as lt_cli.data.labeled_text.LabeledText, "
        "not LabeledTokens",
    ),
    Wrong(CONLL, "source.path (null) must name a file or a folder to train on: set --data.source.path"),
    Wrong(TRAIN, "source.path (eng.train) must be a file or a folder, and there is none: correct the path"),
    Wrong(
        [*CONLL, "--data.source.path=."],
        "source.path (.) must have train.*, and has eng.testa, eng.train: name a file",
        before=files(),
    ),
    Wrong(
        [*BOTH, "--data.source.token_column=-1"],
        "source.token_column (-1) and source.label_column must be different columns",
    ),
    Wrong(
        [*BOTH, "--data.source.label_column=3"],
        "source.label_column (3) must be a column of eng.train, whose labeled lines have 3: 0 to 2, or -3 to -1 from "
        "the last",
        before=files(),
    ),
    Wrong(
        BOTH,
        "eng.train:5 has 2 columns, and the first word's line 3: every word needs all columns; a comment begins with a "
        "# and a space, and stands before a sentence",
        before=files(GOOD + "x O\n"),
    ),
    Wrong(BOTH, "eng.testa is empty: fill it, or leave it out", before=files(val="\n")),
    Wrong(
        BOTH,
        "eng.testa:6, word 2: labels 'B-PRE' is not among the classes of the training rows, B-ORG, B-PER, O; did you "
        "mean B-PER?: mend it, train with rows of it, or, where chance holds rows out, use another --data.split_seed",
        before=files(val=GOOD + "\nx NN O\ny NN B-PRE\n"),
    ),
    Wrong(
        BOTH,
        "eng.testa:1: the label 'E-ORG' is none of the scheme bio, whose tags are BIO: mend it",
        before=files(val="EU NNP E-ORG\n"),
    ),
    Wrong(
        TABLE,
        "mine.jsonl:21 has 2 words in tokens and 1 labels in labels: it needs a label for each word",
        before=rows({"tokens": ["a", "b"], "labels": ["O"]}),
    ),
    Wrong(
        TABLE,
        "mine.jsonl:21 has no word in tokens: give it one, or leave the row out",
        before=rows({"tokens": [], "labels": []}),
    ),
    Wrong(
        TABLE,
        "mine.jsonl:21, word 2: tokens must have text there, not ''",
        before=rows({"tokens": ["a", ""], "labels": ["O", "O"]}),
    ),
]
