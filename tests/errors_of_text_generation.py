"""Mistakes with texts that are written of texts, as in errors_corpus.py."""

import json
from collections.abc import Callable
from typing import Any

from contract_suite import ROOT
from errors_corpus import Wrong, save

CONFIG = ROOT / "tests" / "contract" / "text_generation.yaml"
FIT = ["fit", f"--config={CONFIG}", "--trainer.max_steps=2", "--model.schedule.warmup_steps=0"]
JSONL = [*FIT, "--data.source=lt_cli.data.row_sources.TableFiles", "--data.source.path=mine.jsonl"]
TSV = [*FIT, "--data.source=lt_cli.data.row_sources.TableFiles", "--data.source.path=mine.tsv"]
GOOD = {"source": "abc", "target": "cba"}
ONE = "and one of them says how to write: add"
CLASSES = "--data=lt_cli.data.labeled_text.LabeledText"


def rows(**wrong: Any) -> Callable[[], object]:
    """A file whose third row is wrong; what is None is not in it."""
    row = {name: value for name, value in {**GOOD, **wrong}.items() if value is not None}
    return save("mine.jsonl", "".join(json.dumps(line) + "\n" for line in [GOOD, GOOD, row, *[GOOD] * 9]))


GENERATION_CORPUS = [
    Wrong(
        [*FIT, "--model.max_new_token=3"],
        "--model: TextGeneration has no option max_new_token; did you mean max_new_tokens?",
    ),
    Wrong([*FIT, "--model.max_new_tokens=0"], "max_new_tokens (0) must be at least 1"),
    Wrong(
        [*FIT, "--model.max_new_tokens=9"],
        "max_new_tokens (9) must be at most the backbone's max_target_len (8): add --model.max_new_tokens=8",
    ),
    Wrong([*FIT, "--model.label_smoothing=1"], "label_smoothing (1.0) must be at least 0 and less than 1"),
    Wrong([*FIT, "--model.label_smoothing=much"], "--model.label_smoothing: expected float, got much"),
    Wrong([*FIT, "--model.search.num_beams=0"], "num_beams (0) must be at least 1"),
    Wrong(
        [*FIT, "--model.search.num_beam=3"],
        "--model.search: BeamSearch has no option num_beam; did you mean num_beams?",
    ),
    Wrong(
        [*FIT, "--model.search.min_new_tokens=7"],
        "search.min_new_tokens (7) must be at most max_new_tokens (6)",
    ),
    Wrong(
        [*FIT, "--model.sampling.temperature=0.5"],
        f"search and sampling are both given, {ONE} --model.search=null",
    ),
    Wrong([*FIT, "--model.search=null"], f"search and sampling are both null, {ONE} --model.sampling={{}}"),
    Wrong([*FIT, "--model.search=null", "--model.sampling.top_p=0"], "top_p (0.0) must be above 0 and at most 1"),
    Wrong(
        [*FIT, "--model.bleu_tokenize=ja"],
        "--model.bleu_tokenize: expected one of '13a', 'intl', 'zh', 'char', 'none', got ja",
    ),
    Wrong(
        [*FIT, "--model.backbone=lt_cli.backbones.encoder.Encoder"],
        "--model.backbone: lt_cli.backbones.encoder.Encoder is no Seq2SeqBackbone",
    ),
    Wrong(
        [*FIT, "--model.backbone.vocab_size=257"],
        "the data has 258 tokens, the backbone a vocabulary of 257: add --model.backbone.init_args.vocab_size=258",
    ),
    Wrong(
        [*FIT, "--data.max_seq_len=33"],
        "the data has sequences of 33 tokens, the backbone takes 32: add --model.backbone.init_args.max_seq_len=33",
    ),
    Wrong(
        [*FIT, "--data.max_target_len=9"],
        (
            "the data has targets of 9 tokens, the backbone takes 8: "
            "add --data.max_target_len=8, or --model.backbone.init_args.max_target_len=9"
        ),
    ),
    Wrong([*FIT, "--data.max_target_len=0"], "max_target_len (0) must be at least 1"),
    Wrong([*FIT, "--data.max_target_len=1"], "max_target_len (1) must be at least 2: 1 tokens frame a text"),
    Wrong(
        [*FIT, "--data.source_column=target"],
        "source_column (target) and target_column (target) must be different columns",
    ),
    Wrong([*FIT, "--data.target_column=summary"], "row 0 has no column 'summary', only id, source, target"),
    Wrong([*FIT, "--data.tokens_per_batch=16"], "tokens_per_batch (16) must hold the longest row, whose …"),
    Wrong(
        [*FIT, CLASSES, "--data.source=toys.Opinions", "--data.tokenizer=lt_cli.data.tokenizers.ByteTokenizer"],
        "TextGeneration needs data such as lt_cli.data.text_to_text.TextToText, not LabeledText",
    ),
    Wrong([*JSONL], "mine.jsonl:3 has no column 'target', only source", before=rows(target=None)),
    Wrong([*JSONL], "mine.jsonl:3: target must be text, not ['cba']", before=rows(target=["cba"])),
    Wrong([*JSONL], "mine.jsonl:3 has no text in source: give it some, or leave the row out", before=rows(source=" ")),
    Wrong(
        [*JSONL, "--data.target_column=target.de"],
        "mine.jsonl:1 has no column 'target.de', only source, target; did you mean target?",
        before=rows(),
    ),
    Wrong(
        [*TSV],
        "mine.tsv:2 has no column 'source', only one, eins; where the first line is a row, name the columns with "
        "--data.source.columns",
        before=save("mine.tsv", "one\teins\ntwo\tzwei\n" * 20),
    ),
    Wrong(
        [*TSV, "--data.source.columns=[source,target]"],
        "mine.tsv:2 has 3 columns, data.source.columns 2 ['source', 'target']: no text may have a tab",
        before=save("mine.tsv", "one\teins\ntwo\tzwei\tdrei\n" * 20),
    ),
]
