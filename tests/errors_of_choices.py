"""Mistakes with multiple choice, as in errors_corpus.py."""

import json
from collections.abc import Callable
from typing import Any

from contract_suite import ROOT
from errors_corpus import Wrong, save

CONFIG = ROOT / "tests" / "contract" / "multiple_choice.yaml"
FIT = ["fit", f"--config={CONFIG}", "--trainer.max_steps=2", "--model.schedule.warmup_steps=0"]
FILE = [*FIT, "--data.source=TableFiles", "--data.source.path=mine.jsonl"]
TABLE = [*FIT, "--data.source=TableFiles", "--data.source.path=mine.csv", "--data.choices_column=null"]
GOOD = {"context": "a", "choices": ["b", "c", "d"], "label": 1}


def rows(**wrong: Any) -> Callable[[], object]:
    """A file whose third row is wrong."""
    lines = [GOOD, GOOD, {**GOOD, **wrong}, *[GOOD] * 9]
    return save("mine.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def table(*lines: str) -> Callable[[], object]:
    """A table of these lines."""
    return save("mine.csv", "\n".join(lines))


ONE_OF = "give one of them, --data.choices_column=choices for lists, or --data.choice_columns=[ending0,ending1]"

CHOICES_CORPUS = [
    Wrong([*FIT, "--data.choices_column=null"], f"choices_column (None) and choice_columns (None): {ONE_OF}"),
    Wrong(
        [*FIT, "--data.choice_columns=[a,b]"],
        f"choices_column (choices) and choice_columns (['a', 'b']): {ONE_OF}",
    ),
    Wrong(
        [*FIT, "--data.choices_column=null", "--data.choice_columns=[a]"],
        "choice_columns (['a']) must be two columns at least: lists have --data.choices_column",
    ),
    Wrong(
        [*FIT, "--data.question_column=context"],
        "column 'context' must be one thing only: text, question, choice or label",
    ),
    Wrong(
        [*FIT, "--data.gap=_"], "gap ('_') must be a part of questions: name their column with --data.question_column"
    ),
    Wrong(
        [*FIT, "--data.gap=", "--data.question_column=q"],
        "gap ('') must be a part of questions: name their column with --data.question_column",
    ),
    Wrong(
        [*FIT, "--data.label_form=letter"],
        "--data.label_form: expected one of 'index', 'number', 'name', 'text', got letter",
    ),
    Wrong(
        [*FIT, "--data.choice_column=x"], "--data: ChoiceData has no option choice_column; did you mean choice_columns?"
    ),
    Wrong([*FIT, "--data.max_seq_len=4"], "max_seq_len (4) must be at least 5: 3 tokens frame a text and a choice"),
    Wrong([*FIT, "--data.max_seq_len=32"], "the data has sequences of 32 tokens, the backbone takes 24: add …"),
    Wrong([*FIT, "--data.tokens_per_batch=20"], "tokens_per_batch (20) must hold the longest row, whose …"),
    Wrong(
        [*FIT, "--data.text_column=text"],
        "row 0 has no column 'text', only id, context, choices, label; did you mean context?",
    ),
    Wrong(
        [*FIT, "--data.choices_column=choice"],
        "row 0 has no column 'choice', only id, context, choices, label; did you mean choices?",
    ),
    Wrong(
        [*FIT, "--data.label_column=id"],
        "row 2: id 2 is none of its choices, which by index are 0, 1: mend it, or say --data.label_form=number",
    ),
    Wrong(
        [*FIT, "--data.choices_column=context", "--data.text_column=choices"],
        "row 0: context must be a list of texts, or two lists, label and text, not …",
    ),
    Wrong([*FIT, "--model.dropout=1"], "dropout (1.0) must be at least 0 and less than 1"),
    Wrong([*FIT, "--model.label_smoothing=1"], "label_smoothing (1.0) must be at least 0 and less than 1"),
    Wrong([*FIT, "--model.metrics=3"], "--model: MultipleChoice has no option metrics"),
    Wrong(
        [*FIT, "--data=lt_cli.data.labeled_text.LabeledText", "--data.source=toys.Opinions", "--data.max_seq_len=24"],
        "MultipleChoice needs data of choices, such as lt_cli.data.choices.ChoiceData, not LabeledText",
    ),
    Wrong(
        FILE,
        "mine.jsonl:3: label 3 is none of its choices, which by index are 0, 1, 2: mend it, or say "
        "--data.label_form=number",
        before=rows(label=3),
    ),
    Wrong(
        FILE,
        "mine.jsonl:3: label 'B' is none of its choices, which by index are 0, 1, 2: mend it, or say "
        "--data.label_form=name",
        before=rows(label="B"),
    ),
    Wrong(FILE, "mine.jsonl:3 has no label: give it one, or leave the row out", before=rows(label=None)),
    Wrong(
        [*FILE, "--data.label_form=text"],
        "mine.jsonl:1: label 1 is none of its choices, which by text are b, c, d: mend it, or say "
        "--data.label_form=index or --data.label_form=number",
        before=rows(),
    ),
    Wrong(
        FILE,
        "mine.jsonl:3 must have two choices at least, and has ['b']: give it more, or leave it out",
        before=rows(choices=["b"]),
    ),
    Wrong(
        FILE,
        "mine.jsonl:3: choice 1 of choices must be text, not '': give it some, or leave it out",
        before=rows(choices=["b", "", "d"]),
    ),
    Wrong(FILE, "mine.jsonl:3 has no text in context: give it some, or leave the row out", before=rows(context=" ")),
    Wrong(
        [*FILE, "--data.source.path=mine.csv"],
        "mine.csv:2: choices must be a list of texts, or two lists, label and text, not 'b': where each choice has a "
        "column of its own, name them with --data.choice_columns, and no choices_column",
        before=table("context,choices,label", *["a,b,0"] * 9),
    ),
    Wrong(
        [*TABLE, "--data.choice_columns=[one,tow]"],
        (
            "mine.csv:2 has no column 'tow', only context, one, two, label; did you mean two?; where the first line is "
            "a row, name the columns with --data.source.columns"
        ),
        before=table("context,one,two,label", *["a,b,c,0"] * 9),
    ),
    Wrong(
        [*TABLE, "--data.choice_columns=[one,two]"],
        "mine.csv:4: one must be text, not '': give it some, or leave it out",
        before=table("context,one,two,label", *["a,b,c,0"] * 2, "a,,c,0", *["a,b,c,0"] * 9),
    ),
]
