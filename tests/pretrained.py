"""Tiny models with their tokenizers, in directories as the hub has them."""

from pathlib import Path

from texts import bert_like, gpt2_like, t5_like

from lt_cli.backbones.hf_seq2seq import HuggingFaceSeq2Seq
from lt_cli.backbones.hf_vision import HuggingFaceVision
from lt_cli.backbones.huggingface import HuggingFaceCausalLM, HuggingFaceMaskedLM
from lt_cli.data.tokenizers import HuggingFaceTokenizer

GPT2 = {"model_type": "gpt2", "n_head": 2, "n_embd": 8}
T5 = {"model_type": "t5", "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2}
VIT = {"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8}
VIT |= {"patch_size": 4, "intermediate_size": 16}
BERT = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}


def pretrained_gpt2(folder: Path, num_layers: int = 12) -> Path:
    """A GPT-2 with as many blocks as the small one on the hub."""
    made = HuggingFaceCausalLM(
        architecture={**GPT2, "n_layer": num_layers}, vocab_size=vocab_size(gpt2_like(folder)), max_seq_len=256
    )
    made.hf_model.save_pretrained(folder)
    return folder


def pretrained_bert(folder: Path) -> Path:
    """A BERT of two layers."""
    made = HuggingFaceMaskedLM(architecture=BERT, vocab_size=vocab_size(bert_like(folder)), max_seq_len=256)
    made.hf_model.save_pretrained(folder)
    return folder


def pretrained_t5(folder: Path) -> Path:
    """A T5 of two layers on each side, whose table is longer than the tokenizer's, as on the hub."""
    made = HuggingFaceSeq2Seq(architecture=T5, vocab_size=vocab_size(t5_like(folder)) + 5)
    made.hf_model.save_pretrained(folder)
    return folder


def vocab_size(folder: Path) -> int:
    """Of the tokenizer in a directory."""
    tokenizer = HuggingFaceTokenizer(str(folder))
    tokenizer.load()
    return tokenizer.vocab_size


def pretrained_vit(folder: Path) -> Path:
    """A ViT of two layers, for pictures of 8 by 8."""
    HuggingFaceVision(architecture=VIT).hf_model.save_pretrained(folder)
    return folder
