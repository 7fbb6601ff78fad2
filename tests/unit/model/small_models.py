"""Small models of several architectures with random weights, as whole sentence-transformers folders."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.model.embedder import unit_rows
from app.model.export import traced
from app.model.folder import ModelFolder
from app.model.prepared import check_texts
from app.model.source import DEFAULT_MODEL, find_model
from app.model.tokens import ModelTokenizer
from app.model.torch_model import import_torch

Vectors = NDArray[np.float32]
Batch = tuple[NDArray[np.int32], NDArray[np.bool_]]

MAX_TOKENS = 48
_HIDDEN = 32
_DEFAULT_CHARS = 500  # sentence-transformers needs seconds for a hundred texts of a page
# Weights this large make the vectors of different texts differ: with transformers' own .02 all of them have a cosine
# of .99 and more with each other, and an export that ignores its input would pass.
_SPREAD = 0.4

TEXTS = [
    "mill",
    "A mill needs water, and water needs a channel that leads it to the wheel.",
    "",
    "river 42!",
    "word " * 20,
    "x" * 90,
    "Long texts are cut. " * 30,
    "q",
]


@dataclass(frozen=True)
class Sample:
    """Texts of very different lengths for one model. wanted: the unit vector of each by sentence-transformers' encode.

    batches: ids and mask of the texts in order, padded to the longest of their batch.
    """

    folder: ModelFolder
    wanted: Vectors
    batches: list[Batch]

    def by(self, vectors: Callable[[NDArray[np.int32], NDArray[np.bool_]], Vectors]) -> Vectors:
        """Unit vectors of all texts by a runtime."""
        return unit_rows(np.concatenate([vectors(*batch) for batch in self.batches]))

    def cosines(self, vectors: Callable[[NDArray[np.int32], NDArray[np.bool_]], Vectors]) -> Vectors:
        """Of a runtime's vectors with the wanted ones."""
        cosines: Vectors = (self.by(vectors) * self.wanted).sum(axis=1)
        return cosines

    def alone(self) -> Sample:
        """The same texts in batches of one, without padding."""
        rows = [
            (row[held][None], held[held][None])
            for ids, mask in self.batches
            for row, held in zip(ids, mask, strict=True)
        ]
        return Sample(self.folder, self.wanted, rows)


def small_sample(path: Path, kind: str) -> Sample:
    """A small model, and all of TEXTS in one batch."""
    return _sample(save_small_model(path, kind), TEXTS, len(TEXTS), encode_texts=1)


@cache
def default_sample() -> Sample:
    """The default model, and a hundred of the check texts in batches of ten."""
    texts = sorted((text for text in check_texts() if len(text) <= _DEFAULT_CHARS), key=len)[:100]
    return _sample(ModelFolder(find_model(DEFAULT_MODEL), DEFAULT_MODEL), texts, 10)


@cache
def default_program() -> Any:
    """The default model traced, for several exports."""
    return traced(default_sample().folder)


def _sample(folder: ModelFolder, texts: list[str], batch_texts: int, encode_texts: int = 32) -> Sample:
    import_torch()
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(folder.path), device="cpu", local_files_only=True)
    reference.max_seq_length = folder.max_tokens
    wanted = reference.encode(texts, batch_size=encode_texts, normalize_embeddings=True, show_progress_bar=False)
    token_ids = ModelTokenizer(folder).ids(texts)
    pad_id = int(folder.config.get("pad_token_id") or 0)
    parts = [token_ids[at : at + batch_texts] for at in range(0, len(texts), batch_texts)]
    return Sample(folder, np.asarray(wanted, np.float32), [_padded(part, pad_id) for part in parts])


def _padded(token_ids: list[list[int]], pad_id: int) -> Batch:
    ids = np.full((len(token_ids), max(map(len, token_ids))), pad_id, np.int32)
    mask = np.zeros(ids.shape, np.bool_)
    for row, values in enumerate(token_ids):
        ids[row, : len(values)] = values
        mask[row, : len(values)] = True
    return ids, mask


def save_small_model(path: Path, kind: str) -> ModelFolder:
    """Make a model of one of KINDS in the empty folder `path`. Takes a tenth of a second once torch is imported."""
    torch = import_torch()
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    architecture, pooling = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        inner, specials = architecture()
        inner.save_pretrained(path / "inner")
        _tokenizer(specials).save_pretrained(path / "inner")
        chain: list[Any] = [modules.Transformer(str(path / "inner"), max_seq_length=MAX_TOKENS)]
        chain.append(modules.Pooling(_HIDDEN, pooling))
        if kind == "bert-cls-dense":
            chain.append(modules.Dense(_HIDDEN, 20))
        chain.append(modules.Normalize())
        SentenceTransformer(modules=chain, device="cpu").save(str(path / "whole"), create_model_card=False)
    return ModelFolder(path / "whole", kind)


def _tokenizer(specials: list[str]) -> Any:
    """Words of letters cut into letters; `specials` are the first ids: padding, unknown, and what opens and closes."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = string.ascii_lowercase + string.digits + string.punctuation
    words = [*specials, *letters, *(f"##{letter}" for letter in letters), "mill", "water", "the", "word"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    opening, closing = ("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[opening, closing])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")


_PAD_FIRST = ["<pad>", "<s>", "</s>", "<unk>"]
_PAD_SECOND = ["<s>", "<pad>", "</s>", "<unk>"]  # RoBERTa and what came of it count positions from the padding's id on


def _sizes(specials: list[str], **more: Any) -> dict[str, Any]:
    sizes = {
        "vocab_size": 160,
        "hidden_size": _HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "initializer_range": _SPREAD,
        "pad_token_id": specials.index("<pad>"),
        "bos_token_id": specials.index("<s>"),
        "eos_token_id": specials.index("</s>"),
    }
    return sizes | more


def _bert() -> tuple[Any, list[str]]:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**_sizes(_PAD_FIRST))), _PAD_FIRST


def _distilbert() -> tuple[Any, list[str]]:
    from transformers import DistilBertConfig, DistilBertModel

    sizes = _sizes(_PAD_FIRST, dim=_HIDDEN, n_layers=1, n_heads=4, hidden_dim=64)
    names = {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"}
    return DistilBertModel(DistilBertConfig(**{key: sizes[key] for key in sizes.keys() - names})), _PAD_FIRST


def _mpnet() -> tuple[Any, list[str]]:
    from transformers import MPNetConfig, MPNetModel

    return MPNetModel(MPNetConfig(**_sizes(_PAD_SECOND))), _PAD_SECOND


def _xlm_roberta() -> tuple[Any, list[str]]:
    from transformers import XLMRobertaConfig, XLMRobertaModel

    return XLMRobertaModel(XLMRobertaConfig(**_sizes(_PAD_SECOND))), _PAD_SECOND


def _modernbert() -> tuple[Any, list[str]]:
    from transformers import ModernBertConfig, ModernBertModel

    more = {
        "num_hidden_layers": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "global_attn_every_n_layers": 2,
        "local_attention": 8,
    }
    return ModernBertModel(ModernBertConfig(**_sizes(_PAD_FIRST, **more))), _PAD_FIRST


def _qwen3() -> tuple[Any, list[str]]:
    from transformers import Qwen3Config, Qwen3Model

    return Qwen3Model(Qwen3Config(**_sizes(_PAD_FIRST, num_key_value_heads=2, head_dim=8))), _PAD_FIRST


KINDS: dict[str, tuple[Callable[[], tuple[Any, list[str]]], str]] = {
    "bert-mean": (_bert, "mean"),
    "bert-cls-dense": (_bert, "cls"),
    "distilbert": (_distilbert, "mean"),
    "mpnet": (_mpnet, "mean"),
    "xlm-roberta": (_xlm_roberta, "mean"),
    "modernbert": (_modernbert, "mean"),
    "qwen3": (_qwen3, "lasttoken"),
}
