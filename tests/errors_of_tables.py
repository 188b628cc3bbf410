"""Mistakes with tables, as in errors_corpus.py."""

import io
import json
from collections.abc import Callable

import numpy as np
from errors_corpus import Wrong, save

CONFIG = """
model:
  class_path: lt_cli.tasks.classification.Classification
  init_args:
    backbone:
      class_path: lt_cli.backbones.mlp.MLP
      init_args: {num_features: 4, hidden_dims: [8]}
    schedule: null
data:
  class_path: lt_cli.data.labeled_table.LabeledTable
  init_args:
    source:
      class_path: lt_cli.data.scikit_learn_rows.ScikitLearnRows
      init_args: {name: iris}
trainer: {max_steps: 2, accelerator: cpu}
"""
FIT = ["fit", "--config", "iris.yaml"]
TABLE = [*FIT, "--data.source=lt_cli.data.row_sources.TableFiles", "--data.source.path=mine.csv"]
JSONL = [*TABLE, "--data.source.path=mine.jsonl"]
PARQUET = [*TABLE, "--data.source.path=mine.parquet"]
NUMPY = [*FIT, "--data.source=lt_cli.data.numpy_rows.NumpyFiles", "--data.source.path=mine.npz"]
NAMES = "sepal length (cm), sepal width (cm), petal length (cm), petal width (cm)"
HEADER = "id,height,color,label"


def config(*before: Callable[[], object]) -> Callable[[], object]:
    """The configuration, and other files."""

    def all_of_them() -> None:
        for make in (save("iris.yaml", CONFIG), *before):
            make()

    return all_of_them


def files(*lines: str, val: str | None = None, header: str = HEADER) -> Callable[[], object]:
    """Good rows and these to train on, and one for validation."""
    good = [f"{i},{i % 5},{('red', 'blue')[i % 2]},{('no', 'yes')[i % 2]}" for i in range(10)]
    text = "\n".join([header, *good, *lines, ""])
    return config(save("mine.csv", text), save("val.csv", f"{header}\n{val or '77,2,red,no'}\n"))


def rows(*fields: dict[str, object]) -> Callable[[], object]:
    """A .jsonl of good rows and these."""
    good = {"x": [0.5, 1, 2], "label": "a"}
    lines = [json.dumps(row) + "\n" for row in (*[good, good | {"label": "b"}] * 10, *fields)]
    return config(save("mine.jsonl", "".join(lines)))


def arrays(**columns: object) -> Callable[[], object]:
    """A .npz."""
    stream = io.BytesIO()
    np.savez(stream, **columns)  # type: ignore[arg-type]
    return config(save("mine.npz", stream.getvalue()))


VAL = [*TABLE, "--data.source.val_path=val.csv"]
KNOWN = "and the training rows have id, height, color, label"
LEFT_OUT = "leave the row out, or leave the column out with --data.ignore_columns+="

TABLE_CORPUS = [
    Wrong(
        [*FIT, "--data.source.name=titanic"],
        "--data.source.name: expected one of 'iris', 'wine', 'digits', 'breast_cancer', 'diabetes', got titanic",
        before=config(),
    ),
    Wrong(
        [*FIT, "--data.source.name=wine"],
        "the rows have 13 numbers, the backbone num_features (4): add --model.backbone.init_args.num_features=13",
        before=config(),
    ),
    Wrong(
        [*FIT, "--data.stratify=false", "--data.source.name=diabetes"],
        "diabetes, row 0: label must be text or a whole number, not 151.0: for scores say "
        "--data.labels=lt_cli.data.labels.Score, for lists of classes lt_cli.data.labels.SeveralLabels",
        before=config(),
    ),
    Wrong(
        [*FIT, "--data.ignore_column=[a]"],
        "--data: LabeledTable has no option ignore_column; did you mean ignore_columns?",
        before=config(),
    ),
    Wrong(
        [*FIT, "--data.ignore_columns=[label]"],
        "ignore_columns (['label']) must not name label_column (label), which is predicted",
        before=config(),
    ),
    Wrong(
        [*FIT, "--data.ignore_columns+=sepal lenght (cm)"],
        f"ignore_columns names 'sepal lenght (cm)', and the training rows have {NAMES}, label; did you mean sepal "
        "length (cm)?",
        before=config(),
    ),
    Wrong(
        [*FIT, "--data.feature_columns=[petal width]"],
        f"feature_columns names 'petal width', and the training rows have {NAMES}, label; did you mean petal "
        "width (cm)?",
        before=config(),
    ),
    Wrong(
        [*FIT, "--data.feature_columns=[petal width (cm)]", "--data.ignore_columns=[petal length (cm)]"],
        "ignore_columns (['petal length (cm)']) has no use beside feature_columns, which are all that is read: "
        "set --data.ignore_columns=null",
        before=config(),
    ),
    Wrong([*FIT, "--data.feature_columns=[]"], "feature_columns ([]) must name a column, and none …", before=config()),
    Wrong([*FIT, "--data.max_categories=0"], "max_categories (0) must be at least 1", before=config()),
    Wrong(
        [*FIT, "--data.standardize=perhaps"],
        "--data.standardize: expected bool, got perhaps",
        before=config(),
    ),
    Wrong([*FIT, "--data.val_fraction=1"], "val_fraction (1.0) must be above 0 and below 1, or null", before=config()),
    Wrong(
        VAL,
        f"mine.csv:12: height has no value (''): fill it, {LEFT_OUT}height",
        before=files("10,,red,no"),
    ),
    Wrong(
        VAL,
        f"mine.csv:12: height must be a number, as in most training rows, not 'tall': mend it, {LEFT_OUT}height",
        before=files("10,tall,red,no"),
    ),
    Wrong(
        VAL,
        f"val.csv:2: height must be at most 3.4e+38 in size, not '1e99': mend it, {LEFT_OUT}height",
        before=files(val="77,1e99,red,no"),
    ),
    Wrong(
        VAL,
        "val.csv:2: eye color 'gren' is not among the texts of the training rows, blue, green, red; did you mean "
        "green?: mend it, train with rows of it (where chance holds rows out, use another --data.split_seed), or leave "
        "the column out with --data.ignore_columns+='eye color'",
        before=files("10,3,green,no", val="77,2,gren,no", header="id,height,eye color,label"),
    ),
    Wrong(
        [*VAL, "--data.max_categories=2"],
        "color has 3 different texts in the training rows, such as 'blue', more than max_categories (2): leave the "
        "column out with --data.ignore_columns+=color, or set --data.max_categories=3",
        before=files("10,3,green,no"),
    ),
    Wrong(
        [*VAL, "--data.ignore_columns=[idd]"], f"ignore_columns names 'idd', {KNOWN}; did you mean id?", before=files()
    ),
    Wrong(
        [*VAL, "--data.stratify=false", "--data.label_column=lable"],
        "mine.csv:2 has no column 'lable', only id, height, color, label; did you mean label?; where the first line is "
        "a row, name the columns with --data.source.columns",
        before=files(),
    ),
    Wrong(
        TABLE,
        "mine.csv:1 names 2 columns 'id': rename all but one; where the first line is a row, name the columns with "
        "--data.source.columns",
        before=files(header="id,id,color,label"),
    ),
    Wrong(
        [*TABLE, "--data.source.path=mine.xls"],
        "source.path (mine.xls) must be one of .jsonl .csv .tsv .parquet: convert or rename it",
        before=config(save("mine.xls", "a,label\n1,b\n")),
    ),
    Wrong(
        JSONL,
        f"mine.jsonl:21: x must be a list of 3 numbers, as in most training rows, not a list of 2: mend it, "
        f"{LEFT_OUT}x",
        before=rows({"x": [1, 2], "label": "a"}, {"x": [1, 2, 3], "label": "a"}),
    ),
    Wrong(
        JSONL,
        f"mine.jsonl:21: x[1] has no value (None): fill it, {LEFT_OUT}x",
        before=rows({"x": [1, None, 2], "label": "a"}),
    ),
    Wrong(JSONL, "mine.jsonl:21 has no column 'x', only y, label", before=rows({"y": 1, "label": "a"})),
    Wrong(
        PARQUET,
        "mine.parquet is no .parquet that can be read: Parquet magic bytes not found …",
        before=config(save("mine.parquet", "id,label\n1,a\n")),
    ),
    Wrong(
        [*PARQUET, "--data.source.columns=[a,label]"],
        "columns (['a', 'label']) has no meaning for mine.parquet, whose rows name them: set it to null",
        before=config(save("mine.parquet", "PAR1")),
    ),
    Wrong(
        NUMPY,
        "mine.npz has arrays of different lengths, x 4, label 5: each must have one entry for each row",
        before=arrays(x=np.zeros((4, 3)), label=np.arange(5)),
    ),
    Wrong(
        NUMPY,
        "mine.npz: label is an array of Python's objects, which only running code could read: save numbers, or text "
        "with astype(str)",
        before=arrays(x=np.zeros((2, 3)), label=np.array(["a", "b"], object)),
    ),
    Wrong(
        NUMPY,
        "mine.npz is no .npz, which np.savez writes: write it with that",
        before=config(save("mine.npz", "1,2\n")),
    ),
]
