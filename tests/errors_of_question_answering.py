"""Mistakes with questions, contexts and answers, as in errors_corpus.py."""

import json
from typing import Any

from contract_suite import ROOT
from errors_corpus import Wrong, save, together

FIT = ["fit", f"--config={ROOT / 'tests' / 'contract' / 'question_answering.yaml'}", "--trainer.max_steps=2"]
SQUAD = [*FIT, "--data.source=lt_cli.data.squad.SquadFiles", "--data.source.path=mine.json"]
TABLE = [*FIT, "--data.source=lt_cli.data.row_sources.TableFiles"]
ROW = {"context": "the cat", "question": "who?"}


def squad(name: str = "mine.json", **question: Any) -> Any:
    """Writes a file of one question."""
    whole = {"id": "x", "question": "who?", "answers": [{"text": "cat", "answer_start": 4}]} | question
    return save(name, json.dumps({"data": [{"paragraphs": [{"context": "the cat", "qas": [whole]}]}]}))


QUESTION_CORPUS = [
    Wrong(
        [*FIT, "--model.max_answer_length=3"],
        "--model: QuestionAnswering has no option max_answer_length; did you mean max_answer_len?",
    ),
    Wrong([*FIT, "--model.max_answer_len=0"], "max_answer_len (0) must be at least 1"),
    Wrong([*FIT, "--model.max_answer_len=long"], "--model.max_answer_len: expected int, got long"),
    Wrong([*FIT, "--model.dropout=1"], "dropout (1.0) must be at least 0 and less than 1"),
    Wrong([*FIT, "--model.layer_decay=2"], "layer_decay (2.0) must be above 0 and at most 1, which keeps one …"),
    Wrong(
        [*FIT, "--model.no_answer_threshold=1", "--data.source.unanswerable=0"],
        "no_answer_threshold (1.0) has no use, as every training question has an answer: "
        "add --model.no_answer_threshold=null",
    ),
    Wrong(
        [*FIT, "--data.source.unanswerable=10"],
        "none of 83 training questions has an answer: name the right column with --data.answers_column",
    ),
    Wrong([*FIT, "--data.stride=-1"], "stride (-1) must not be negative"),
    Wrong(
        [*FIT, "--data.stride=30"],
        "max_seq_len (32) must be at least 40: max_question_len (6), stride (30), 3 tokens that frame them, and one "
        "more of the context: raise it, or lower the others",
    ),
    Wrong([*FIT, "--data.max_question_len=0"], "max_question_len (0) must be at least 1"),
    Wrong(
        [*FIT, "--data.max_seq_len=64"],
        "the data has sequences of 64 tokens, the backbone takes 32: add --model.backbone.init_args.max_seq_len=64",
    ),
    Wrong(
        [*FIT, "--data.question_column=query"],
        "train, row 0 has no column 'query', only id, context, question, answers",
    ),
    Wrong(
        [*FIT, "--data.answers_column=answer"],
        "train, row 0 has no column 'answer', nor answer_start and answer_end, only id, context, question, answers; "
        "did you mean answers?",
    ),
    Wrong(
        [*FIT, "--data.question_column=context"],
        "question_column (context), context_column (context) and answers_column (answers) must be different columns",
    ),
    Wrong(
        [*FIT, "--data=lt_cli.data.pixels.PixelData", "--data.source=Digits", "--data.palette=GreyLevels"],
        "QuestionAnswering needs data of questions, such as lt_cli.data.questions.QuestionData, not PixelData",
    ),
    Wrong(
        [*FIT, "--model.backbone=lt_cli.backbones.gpt.GPT"],
        "--model.backbone: lt_cli.backbones.gpt.GPT is no EncoderBackbone",
    ),
    Wrong([*SQUAD], "source.path (mine.json) must be a file or a folder, and there is none: correct the path"),
    Wrong(
        [*SQUAD, "--data.source.path=mine.tsv"],
        "source.path (mine.tsv) must be one of .json: convert or rename it",
        before=save("mine.tsv", "x"),
    ),
    Wrong([*SQUAD], "mine.json is empty: fill it, or leave it out", before=save("mine.json", "")),
    Wrong([*SQUAD], "mine.json:2 is not JSON: Expecting value, column 1", before=save("mine.json", '{"data":\n')),
    Wrong([*SQUAD], "mine.json has no 'data', only version", before=save("mine.json", '{"version": "1"}')),
    Wrong(
        [*SQUAD],
        "mine.json: data[0] has no 'paragraphs', only paragraph; did you mean paragraph?",
        before=save("mine.json", '{"data": [{"paragraph": []}]}'),
    ),
    Wrong(
        [*SQUAD, "--data.source.val_path=val.json"],
        "mine.json, question x: the answer 'cat' must stand at answer_start (3), where ' ca' is: it stands at 4",
        before=together(squad("val.json"), squad(answers=[{"text": "cat", "answer_start": 3}])),
    ),
    Wrong(
        [*SQUAD, "--data.source.val_path=val.json"],
        "mine.json, question x has no answer: give it one in answers, or say that it has none",
        before=together(squad("val.json"), squad(answers=[])),
    ),
    Wrong(
        [*SQUAD],
        "mine.json, question x (data[0].paragraphs[0].qas[0]) is empty: fill it, or leave it out",
        before=squad(question=" "),
    ),
    Wrong(
        [*TABLE, "--data.source.path=mine.tsv", "--data.source.columns=[context,question,answer_start,answer_end]"],
        "mine.tsv:2 has 3 columns, data.source.columns 4 ['context', 'question', 'answer_start', 'answer_end']: "
        "answer_end is missing",
        before=save("mine.tsv", "the cat\twho?\t4\t7\nthe cat\twho?\t4\n"),
    ),
    Wrong(
        [*TABLE, "--data.source.path=mine.jsonl"],
        "mine.jsonl:1: answer_start (4) and answer_end (9), the character behind the answer, must be a part of the "
        "context, which has 7 characters",
        before=save(
            "mine.jsonl", '{"context": "the cat", "question": "who?", "answer_start": 4, "answer_end": 9}\n' * 3
        ),
    ),
]
