"""Mistakes with labeled texts, as in errors_corpus.py."""

from collections.abc import Callable

from contract_suite import GOLDEN, ROOT
from errors_corpus import Wrong, save, together

CONTRACT = ROOT / "tests" / "contract" / "sequence_classification.yaml"
FIT = ["fit", f"--config={CONTRACT}", "--trainer.max_steps=2", "--model.schedule.warmup_steps=0"]
ONE = [*FIT, "--data.pair_column=null"]
FILES = [*ONE, "--data.source=lt_cli.data.row_sources.TableFiles"]
MINE = [*FILES, "--data.source.path=mine.tsv"]
BARE = [*MINE, "--data.source.columns=[text,label]"]
HUB = [*ONE, "--data.source=lt_cli.data.row_sources.HubRows", "--data.source.path=nobody/nothing"]
TASKS = "lt_cli.tasks.sequence_classification"


def table(*rows: str, name: str = "mine.tsv") -> Callable[[], object]:
    """Ten good rows behind a header and these, each written with a comma for a tab."""
    lines = ["text,label", *rows, *(f"text {i},{'good' if i % 2 else 'bad'}" for i in range(10))]
    return save(name, "".join(f"{line}\n" for line in lines).replace(",", "\t"))


CLASSIFICATION_CORPUS = [
    Wrong(
        ["predict", f"--ckpt_path={GOLDEN / 'sequence_classification.ckpt'}", "--predictions.format=csv"],
        ("--predictions.format (csv) has no use with LabeledText, which writes the format that it reads: leave it out"),
    ),
    Wrong(
        [*FIT, "--model.poolin=mean"],
        "--model: SequenceClassification has no option poolin; did you mean pooling?",
    ),
    Wrong([*FIT, "--model.pooling=max"], "--model.pooling: expected one of 'first', 'mean', 'last', got max"),
    Wrong([*FIT, "--model.dropout=1"], "dropout (1.0) must be at least 0 and less than 1"),
    Wrong([*FIT, "--model.label_smoothing=1"], "label_smoothing (1.0) must be at least 0 and less than 1"),
    Wrong(
        [*FIT, "--model.layer_decay=0"],
        "layer_decay (0.0) must be above 0 and at most 1, which keeps one learning rate",
    ),
    Wrong(
        [*FIT, "--model.layer_decay=0.9", "--model.optimizer=lt_cli.optim.MuonAdamW"],
        ("layer_decay (0.9) must be 1 with MuonAdamW, which makes groups of its own: use torch.optim.AdamW"),
    ),
    Wrong(
        [*FIT, "--model.class_weights=balancd"],
        "--model.class_weights: expected dict or one of 'balanced', got balancd",
    ),
    Wrong(
        [*FIT, "--model.class_weights.goood=2"],
        "class_weights names 'goood', and the classes are bad, good; did you mean good?",
    ),
    Wrong(
        [*FIT, "--model.class_weights.good=0"],
        "class_weights of 'good' (0.0) must be above 0: leave out rows that are not to count",
    ),
    Wrong(
        [*FIT, "--model.metrics.mine=lt_cli.metrics.nothing"], "--model.metrics: there is no nothing in lt_cli.metrics"
    ),
    Wrong(
        [*FIT, "--model.backbone=lt_cli.backbones.gpt.GTP"],
        "--model.backbone: there is no GTP in lt_cli.backbones.gpt…",
    ),
    Wrong(
        [*FIT, "--model.backbone.vocab_size=256"],
        "the data has 258 tokens, the backbone a vocabulary of 256: add --model.backbone.init_args.vocab_size=258",
    ),
    Wrong(
        [*FIT, "--data.max_seq_len=64"],
        "the data has sequences of 64 tokens, the backbone takes 32: add --model.backbone.init_args.max_seq_len=64",
    ),
    Wrong([*FIT, "--data.max_seq_len=4"], "max_seq_len (4) must be at least 5: 3 tokens frame what is read"),
    Wrong(
        [*FIT, "--data=lt_cli.data.packed_text.PackedText", "--data.source=PythonTopics"],
        (
            "SequenceClassification needs data of texts with labels, such as lt_cli.data.labeled_text.LabeledText, "
            "not PackedText"
        ),
    ),
    Wrong(
        [*FIT, f"--model={TASKS}.MultiLabelClassification"],
        (
            "MultiLabelClassification needs labels of another kind than OneLabel: add "
            "--data.labels=lt_cli.data.labels.SeveralLabels"
        ),
    ),
    Wrong(
        [*FIT, "--data.labels=lt_cli.data.labels.Scores"],
        "--data.labels: there is no Scores in lt_cli.data.labels; did you mean Score?",
    ),
    Wrong([*FIT, "--data.labels=lt_cli.data.labels.Score"], "row 0: label must be a number, not …"),
    Wrong(
        [*FIT, "--data.pair_column=text"],
        "text_column (text), pair_column (text) and label_column (label) must be different columns",
    ),
    Wrong(
        [*FIT, "--data.text_column=txt"],
        "row 0 has no column 'txt', only id, text, reply, label, score; did you mean text?",
    ),
    Wrong(
        [*FIT, "--data.tokens_per_batch=64", "--data.bucket_by_length=false"],
        "bucket_by_length (false) must be true with tokens_per_batch: set one of them only",
    ),
    Wrong(
        [*FIT, "--data.val_fraction=0.1"],
        "val_fraction (0.1) has no use, as the source has val rows: set --data.val_fraction=null",
    ),
    Wrong([*FILES], "source.path (null) must name a file or a folder to train on: set --data.source.path"),
    Wrong([*MINE], "source.path (mine.tsv) must be a file or a folder, and there is none: correct the path"),
    Wrong(
        [*MINE, "--data.source.val_path=mine.tsv"],
        "source.val_path (mine.tsv) is the file to train on: name another, or leave it out",
        before=table(),
    ),
    Wrong(
        [*FILES, "--data.source.path=mine"],
        (
            "source.path (mine) must have train.jsonl or train.csv or train.tsv or train.parquet, and has a.csv: "
            "name a file"
        ),
        before=save("mine/a.csv", "text,label\n"),
    ),
    Wrong(
        [*FILES, "--data.source.path=mine"],
        (
            "source.path (mine) has train.csv and train.tsv, where one file must be the train split: "
            "name one with --data.source.path, .val_path or .test_path"
        ),
        before=together(table(name="mine/train.csv"), table(name="mine/train.tsv")),
    ),
    Wrong(
        [*MINE],
        "mine.tsv:2 has 1 columns, the header 2: label is missing",
        before=table("alone"),
    ),
    Wrong(
        [*MINE, "--data.label_column=lable"],
        "mine.tsv:2 has no column 'lable', only text, label; did you mean label?; …",
        before=table(),
    ),
    Wrong(
        [*MINE],
        (
            "mine.tsv:3 has no column 'label', only so lala, bad; where the first line is a row, name the columns with "
            "--data.source.columns"
        ),
        before=save("mine.tsv", "so lala\tbad\nfine\tgood\nvery fine\tgood\n"),
    ),
    Wrong(
        [*BARE],
        "mine.tsv:2 has 1 columns, data.source.columns 2 ['text', 'label']: label is missing",
        before=save("mine.tsv", "so lala\tbad\nfine\nvery fine\tgood\n"),
    ),
    Wrong(
        [*BARE, "--data.source.columns=[text,text]"],
        "source.columns (['text', 'text']) must name every column once",
        before=table(),
    ),
    Wrong(
        [*MINE, "--data.source.val_path=val.tsv"],
        (
            "val.tsv:2: label 'goood' is not among the classes of the training rows, bad, good; did you mean good?: "
            "mend it, train with rows of it, or, where chance holds rows out, use another --data.split_seed"
        ),
        before=together(table(), table("fine,goood", name="val.tsv")),
    ),
    Wrong(
        [*MINE, "--data.source.val_path=val.tsv"],
        "val.tsv:2 has no text in text: give it some, or leave the row out",
        before=together(table(), table(" ,good", name="val.tsv")),
    ),
    Wrong(
        [*MINE],
        "mine.tsv:2, byte 14: 0xfc is not UTF-8 (invalid start byte): save all of it as UTF-8",
        before=save("mine.tsv", b"text\tlabel\nein" + "ü\tgood\n".encode("latin-1")),
    ),
    Wrong(
        [*MINE],
        (
            "label must have two classes at least, and the training rows have ['good']: "
            "name the right column with --data.label_column"
        ),
        before=save("mine.tsv", "text\tlabel\n" + "fine\tgood\n" * 9),
    ),
    Wrong(
        ["test", *MINE[1:]],
        "there are no test rows: give the source some, or set --data.test_fraction=0.1",
        before=table(),
    ),
    Wrong([*HUB], "path (nobody/nothing), config_name (None) could not be loaded: …"),
]
