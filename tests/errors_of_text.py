"""Mistakes with text and language models, as in errors_corpus.py."""

from contract_suite import GOLDEN, ROOT
from errors_corpus import Wrong, save, together

SHORT = ["--trainer.max_steps=2", "--model.schedule.warmup_steps=0"]
CPU = "--trainer.accelerator=cpu"
CONTRACT = ROOT / "tests" / "contract"
CAUSAL = ["fit", f"--config={CONTRACT / 'causal_language_modeling.yaml'}", *SHORT]
MASKED = ["fit", f"--config={CONTRACT / 'masked_language_modeling.yaml'}", *SHORT]
TEXTFILES = [*CAUSAL, "--data.source=lt_cli.data.text_sources.TextFiles", "--data.source.path=mine"]
DATASET = [*CAUSAL, "--data.source=HuggingFaceText", "--data.source.path=mine"]
TOKENIZER = [*CAUSAL, "--data.tokenizer=HuggingFaceTokenizer"]
CONTINUE = ["predict", f"--ckpt_path={GOLDEN / 'causal_language_modeling.ckpt'}", CPU]
FILL = ["predict", f"--ckpt_path={GOLDEN / 'masked_language_modeling.ckpt'}", CPU]

TEXT_CORPUS = [
    Wrong(
        [*CAUSAL, "--model.max_new_token=3"],
        "--model: CausalLanguageModeling has no option max_new_token; did you mean max_new_tokens?",
    ),
    Wrong([*CAUSAL, "--model.max_new_tokens=0"], "max_new_tokens (0) must be at least 1"),
    Wrong([*CAUSAL, "--model.max_new_tokens=many"], "--model.max_new_tokens: expected int, got many"),
    Wrong(
        [*CAUSAL, "--model.stop=['']"], "stop must not have an empty text, which would end every continuation at once"
    ),
    Wrong([*CAUSAL, "--model.stop=x"], "--model.stop: expected list, got x"),
    Wrong(
        [*CAUSAL, "--model.backbone.start_token=true"],
        (
            "a text begins with a token of the tokenizer, so the backbone's own start token would have "
            "no use: add --model.backbone.init_args.start_token=false"
        ),
    ),
    Wrong(
        [*CAUSAL, "--model.backbone.vocab_size=256"],
        "the data has 258 tokens, the backbone a vocabulary of 256: add --model.backbone.init_args.vocab_size=258",
    ),
    Wrong(
        [*CAUSAL, "--model.backbone.grid_width=4"],
        (
            "the data has no pictures, the backbone a grid of 4: add "
            "--model.backbone.init_args.grid_width=null; GPT cannot keep documents apart: "
            "add --data.separate_documents=false"
        ),
    ),
    Wrong([*CAUSAL, "--data.max_seq_len=0"], "max_seq_len (0) must be at least 1"),
    Wrong(
        [*CAUSAL, "--data.max_seq_len=32"],
        "the data has sequences of 32 tokens, the backbone takes 16: add --model.backbone.init_args.max_seq_len=32",
    ),
    Wrong([*CAUSAL, "--data.val_fraction=1"], "val_fraction (1.0) must be above 0 and below 1, or null"),
    Wrong(
        [*CAUSAL, "--data.val_fraction=0.6", "--data.test_fraction=0.5"],
        "test_fraction (0.5) has no use, as the source has test text: set --data.test_fraction=null",
    ),
    Wrong(
        [*CAUSAL, "--data.test_fraction=0.1"],
        "test_fraction (0.1) has no use, as the source has test text: set --data.test_fraction=null",
    ),
    Wrong([*CAUSAL, "--data.split_seed=-1"], "split_seed (-1) must not be negative"),
    Wrong(
        [*CAUSAL, "--data.masking={}"], "separate_documents (true) has no meaning with masking: set one of them only"
    ),
    Wrong(
        [*CAUSAL, "--data.masking.fraction=0.1", "--data.separate_documents=false"],
        "the data masks tokens, and the next one is to be predicted: add --data.masking=null",
    ),
    Wrong(
        [*CAUSAL, "--data.tokens_per_epoch=3"],
        "tokens_per_epoch (3) must be at least 19: max_seq_len (16) and what begins and ends a document",
    ),
    Wrong(
        [*CAUSAL, "--data.tokens_per_epoch=300", "--data.num_workers=1"],
        "num_workers (1) must be 0 with tokens_per_epoch: each would read all the text",
    ),
    Wrong(
        [*CAUSAL, "--data.tokenizer=Bytes"],
        "--data.tokenizer: Bytes is no class known here: give its full dotted path, such as lt_cli.backbones.gpt.GPT",
    ),
    Wrong([*CAUSAL, "--data.tokenizer.path=x"], "--data.tokenizer: ByteTokenizer has no option path"),
    Wrong(
        [*CAUSAL, "--data.source=Sentence"],
        "--data.source: Sentence is no class known here: give its full dotted path, such as lt_cli.backbones.gpt.GPT",
    ),
    Wrong([*TOKENIZER], "--data.tokenizer.path must be given"),
    Wrong(
        [*TOKENIZER, "--data.tokenizer.path=nobody/nothing"],
        "tokenizer.path ('nobody/nothing') must be a name on a hub within reach: …",
    ),
    Wrong(
        [*TOKENIZER, "--data.tokenizer.path=mine"],
        "tokenizer.path ('mine') must be a directory with tokenizer.json: …",
        before=save("mine/x", "y"),
    ),
    Wrong(
        [*TOKENIZER, "--data.tokenizer.path=mine"],
        "tokenizer.path ('mine') must be a directory with tokenizer.json: …",
        before=save("mine/tokenizer.json", "{}"),
    ),
    Wrong([*MASKED, "--data.masking=null"], "the data masks no tokens: add --data.masking={}"),
    Wrong([*MASKED, "--data.masking.fraction=0"], "masking.fraction (0.0) must be above 0 and at most 1"),
    Wrong([*MASKED, "--data.masking.fraction=2"], "masking.fraction (2.0) must be above 0 and at most 1"),
    Wrong(
        [*MASKED, "--data.masking.random=0.6", "--data.masking.keep=0.6"],
        "masking.random (0.6) and masking.keep (0.6) must be at least 0 and at most 1 in all",
    ),
    Wrong([*MASKED, "--data.masking.part=0.6"], "--data.masking: Masking has no option part"),
    Wrong(
        [*MASKED, "--data.separate_documents=true"],
        "separate_documents (true) has no meaning with masking: set one of them only",
    ),
    Wrong(
        [*MASKED, "--model.backbone=lt_cli.backbones.gpt.GPT"],
        "--model.backbone: lt_cli.backbones.gpt.GPT is no MaskedBackbone",
    ),
    Wrong(
        [*CAUSAL, "--model.backbone=lt_cli.backbones.huggingface.HuggingFaceMaskedLM"],
        "--model.backbone: lt_cli.backbones.huggingface.HuggingFaceMaskedLM is no CausalBackbone",
    ),
    Wrong(
        [*CAUSAL, "--data=lt_cli.data.pixels.PixelData", "--data.source=Digits", "--data.palette=GreyLevels"],
        "language modelling needs data of text, such as lt_cli.data.packed_text.PackedText, not PixelData",
    ),
    Wrong([*TEXTFILES], "source.path (mine) must be a file or a folder, and there is none: correct the path"),
    Wrong([*TEXTFILES], "mine is empty: fill it, or leave it out", before=save("mine", "")),
    Wrong(
        [*TEXTFILES],
        "train: 3 tokens do not fill one block of max_seq_len (16): give more text, or set --data.max_seq_len=2",
        before=save("mine", "x"),
    ),
    Wrong(
        [*TEXTFILES],
        (
            "val: 5 tokens do not fill one block of max_seq_len (16): give more text, or set "
            "--data.max_seq_len=4, or a larger --data.val_fraction"
        ),
        before=save("mine", "xy " * 9),
    ),
    Wrong(
        [*TEXTFILES],
        "mine:1, byte 3: 0xff is not UTF-8 (invalid start byte): save all of it as UTF-8",
        before=save("mine", b"abc\xff\xfe"),
    ),
    Wrong(
        [*TEXTFILES],
        "source.path (mine) must have a file of text (.txt .md .jsonl .csv .tsv .parquet): name one",
        before=save("mine/a.png", "x"),
    ),
    Wrong(
        [*TEXTFILES],
        (
            "mine has test.txt, but nothing called train: add it, or name what there is with "
            "--data.source.path, .val_path and .test_path"
        ),
        before=save("mine/test.txt", "x"),
    ),
    Wrong(
        [*TEXTFILES, "--data.val_fraction=0.1"],
        "val_fraction (0.1) has no use, as the source has val text: set --data.val_fraction=null",
        before=together(
            save("mine/test.txt", "x"),
            save(
                "mine/train.txt",
                "xyz" * 99,
            ),
            save("mine/val.txt", "xyz" * 20),
        ),
    ),
    Wrong(
        [*TEXTFILES, "--data.source.separator="],
        "separator ('') must not be empty: give null for one document per file",
        before=save("mine", "x"),
    ),
    Wrong([*TEXTFILES, "--data.source.path=[]"], "path ([]) must name at least one file or folder"),
    Wrong(
        [*TEXTFILES, "--data.source.path=mine.jsonl"],
        "mine.jsonl:2 has no column 'text', only txt; did you mean txt?",
        before=save("mine.jsonl", '{"text": "a"}\n{"txt": "b"}\n'),
    ),
    Wrong(
        [*TEXTFILES, "--data.source.path=mine.jsonl"],
        "mine.jsonl:1: text must be text, not 3",
        before=save("mine.jsonl", '{"text": 3}\n'),
    ),
    Wrong(
        [*TEXTFILES, "--data.source.path=mine.jsonl"],
        "mine.jsonl:1 is not JSON: …",
        before=save("mine.jsonl", '{"text": "a"\n'),
    ),
    Wrong(
        [*TEXTFILES, "--data.source.path=mine.csv"],
        "mine.csv:3 has 1 columns, the header 2: label is missing",
        before=save("mine.csv", "text,label\na,b\nc\n"),
    ),
    Wrong(
        [*TEXTFILES, "--data.source.path=mine.csv", "--data.source.column=body"],
        "mine.csv:2 has no column 'body', only text, label",
        before=save("mine.csv", "text,label\na,b\n"),
    ),
    Wrong(
        [*TEXTFILES, "--data.source.val_path=there"],
        "source.val_path (there) must be a file or a folder, and there is none: correct the path",
        before=save(
            "mine",
            "xyz" * 99,
        ),
    ),
    Wrong(
        [*TEXTFILES, "--data.source.separator=|"],
        "the train text has no document with any text in it",
        before=save("mine", " | | "),
    ),
    Wrong(
        [*CAUSAL, "--data.source=HuggingFaceText", "--data.source.path=nobody/nothing"],
        "path (nobody/nothing), config_name (None), split (train) could not be loaded: …",
    ),
    Wrong(
        [*DATASET, "--data.source.train_split=trian"],
        "path (mine), config_name (None), split (trian) could not be loaded: …",
        before=save("mine/train.jsonl", '{"text": "a"}\n'),
    ),
    Wrong(
        [*DATASET, "--data.source.val_split=dev"],
        "path (mine), config_name (None), split (dev) could not be loaded: …",
        before=save(
            "mine/train.jsonl",
            '{"text": "a"}\n' * 99,
        ),
    ),
    Wrong(
        [*DATASET, "--data.source.column=body"],
        "column (body) must be a column of mine: text",
        before=save(
            "mine/train.jsonl",
            '{"text": "a"}\n' * 99,
        ),
    ),
    Wrong(
        [*DATASET, "--data.source.streaming=true"],
        "a source that is streamed is never read whole: set --data.tokens_per_epoch=10000000",
        before=save(
            "mine/train.jsonl",
            '{"text": "a"}\n' * 99,
        ),
    ),
    Wrong(
        [*CONTINUE, "--data.prompts=mine.txt"],
        "data.prompts (mine.txt) must be a file, or texts within brackets: …",
    ),
    Wrong(
        [*CONTINUE, "--data.prompts=mine.txt"],
        "mine.txt:2 is blank: every line of .txt is a prompt",
        before=save("mine.txt", "a\n\nb\n"),
    ),
    Wrong(
        [*CONTINUE, "--data.prompts=mine.txt"],
        "mine.txt:2 has 37 tokens, more than the backbone's max_seq_len (16): shorten it",
        before=save("mine.txt", "short\nlonglonglonglonglonglonglonglonglong"),
    ),
    Wrong(
        [*CONTINUE, "--data.prompts=mine.jsonl"],
        "mine.jsonl:1 has no column 'prompt', only text",
        before=save("mine.jsonl", '{"text": "a"}\n'),
    ),
    Wrong([*CONTINUE, "--data.prompts=[]"], "data.prompts ([]) must have at least one text, or be null"),
    Wrong(
        [*CONTINUE, "--data.prompts=3"],
        "data.prompts (3) must be a file, or texts within brackets: …",
    ),
    Wrong([*CONTINUE, "--model.sampling.top_p=0"], "top_p (0.0) must be above 0 and at most 1"),
    Wrong([*FILL, "--data.prompts=['no mask']"], "prompt 1 has nothing to fill in: write <mask> in its place"),
    Wrong(
        [*FILL, "--data.prompts=['<mask> aaaaaaaaaaaaaaaaaaaa']"],
        "prompt 1 has 24 tokens, more than the backbone's max_seq_len (16): shorten it",
    ),
    Wrong(
        ["test", *CONTINUE[1:], "--data.source=lt_cli.data.text_sources.PythonTopics"],
        "there is no test text: give the source some, or set --data.test_fraction=0.1",
    ),
    Wrong(
        ["test", *CONTINUE[1:], "--data.test_fraction=0.1"],
        "test_fraction (0.1) has no use, as the source has test text: set --data.test_fraction=null",
    ),
    Wrong(
        [*CAUSAL, "--freeze.modules=[backbone.block.0]"],
        (
            "freeze.modules: 'backbone.block.0' matches no module or parameter of "
            "CausalLanguageModeling: did you mean 'backbone.blocks.0' or 'backbone.blocks.1' or 'backbone.blocks'?"
        ),
    ),
    Wrong(
        [*CAUSAL, "--freeze.modules=[backbone.blocks.[7-9]]"],
        (
            "freeze.modules: 'backbone.blocks.[7-9]' matches no module or parameter of "
            "CausalLanguageModeling: did you mean 'backbone.blocks.1' or 'backbone.blocks.0' or 'backbone.blocks'?"
        ),
    ),
    Wrong(
        [*MASKED, "--freeze.modules=[backbone.model.bert]"],
        (
            "freeze.modules: 'backbone.model.bert' matches no module or parameter of "
            "MaskedLanguageModeling: did you mean 'backbone.bert' or 'backbone.bert.encoder' or 'backbone.cls'?"
        ),
    ),
    Wrong([*MASKED, "--model.backbone.lora.rank=0"], "lora.rank (0) must be at least 1"),
    Wrong([*MASKED, "--model.backbone.lora.rank=two"], "--model.backbone.lora.rank: expected int, got two"),
    Wrong([*MASKED, "--model.backbone.lora.dropout=1"], "lora.dropout (1.0) must be at least 0 and below 1"),
    Wrong(
        [*MASKED, "--model.backbone.lora.target_modules=[querry]"],
        (
            "lora.target_modules: 'querry' names no layer of 'bert': there are dense, key, "
            "position_embeddings, query, token_type_embeddings, value, word_embeddings, and all-linear; "
            "did you mean query?"
        ),
    ),
    Wrong(
        [*MASKED, "--model.backbone.lora=3"],
        "--model.backbone.lora: expected a class, by its full dotted path, and its options, got 3",
    ),
    Wrong(
        [*MASKED, "--model.backbone.architecture.model_type=gpt2"],
        "architecture.model_type ('gpt2') must be a masked language model of transformers, such as 'bert'",
    ),
    Wrong(
        [*MASKED, "--model.backbone.max_seq_len=600", "--data.max_seq_len=600"],
        (
            "val: 272 tokens do not fill one block of max_seq_len (600): give more text, or set "
            "--data.max_seq_len=272, or a larger --data.val_fraction"
        ),
    ),
]
