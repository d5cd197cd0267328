"""BERT encoder (Devlin et al. 2019), read from a transformers folder without transformers.

Importing transformers' models takes two seconds of processor time, most of a cold prediction. The
packaged sentence encoder is a plain BERT; this gives the same hidden states to the bit.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file
from torch import Tensor, nn

from cxr_mm.core.files import read_json

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"


class Bert(nn.Module):
    """Token ids (B, L) and attention mask (B, L) → hidden states (B, L, D).

    Args:
        config: content of config.json.
        weights: tensors by the names that transformers gives them.
    """

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.layers, self.heads = config["num_hidden_layers"], config["num_attention_heads"]
        self.epsilon = config["layer_norm_eps"]
        self.weights = dict(weights)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode tokens; what the mask leaves out (0) is not attended to."""
        words, types, positions = (
            self.weights[f"embeddings.{name}_embeddings.weight"]
            for name in ("word", "token_type", "position")
        )
        summed = F.embedding(input_ids, words) + types[0] + positions[: input_ids.shape[1]]
        hidden = self._normalised(summed, "embeddings.")
        is_whole = bool(attention_mask.all())
        attended = None if is_whole else attention_mask[:, None, None, :].bool()
        for number in range(self.layers):
            hidden = self._layer(hidden, attended, f"encoder.layer.{number}.")
        return hidden

    def _layer(self, hidden: Tensor, attended: Tensor | None, name: str) -> Tensor:
        """Self-attention and feed-forward network, each added to its input and normalised."""
        query, key, value = (
            self._linear(hidden, f"{name}attention.self.{part}.")
            .view(*hidden.shape[:2], self.heads, -1)
            .transpose(1, 2)
            for part in ("query", "key", "value")
        )
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=attended)
        context = self._linear(context.transpose(1, 2).flatten(2), f"{name}attention.output.dense.")
        hidden = self._normalised(context + hidden, f"{name}attention.output.")
        inner = F.gelu(self._linear(hidden, f"{name}intermediate.dense."))
        return self._normalised(
            self._linear(inner, f"{name}output.dense.") + hidden, f"{name}output."
        )

    def _linear(self, rows: Tensor, name: str) -> Tensor:
        return F.linear(rows, self.weights[f"{name}weight"], self.weights[f"{name}bias"])

    def _normalised(self, rows: Tensor, name: str) -> Tensor:
        scale, shift = (self.weights[f"{name}LayerNorm.{kind}"] for kind in ("weight", "bias"))
        return F.layer_norm(rows, scale.shape, scale, shift, self.epsilon)


def is_plain_bert(folder: Path) -> bool:
    """Whether a folder holds a BERT encoder that `load_bert` can read."""
    if not all((folder / name).is_file() for name in (WEIGHTS, CONFIG, TOKENIZER)):
        return False
    config = read_json(folder / CONFIG)
    return bool(
        config.get("model_type") == "bert"
        and config.get("hidden_act") == "gelu"
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder")
    )


def load_bert(folder: Path) -> Bert:
    """Load a BERT encoder; its weights are frozen.

    Raises:
        OSError, ValueError, SafetensorError: a file is missing or damaged.
        LookupError: the configuration lacks something.
    """
    weights = load_file(folder / WEIGHTS)
    named = {name.removeprefix("bert."): tensor for name, tensor in weights.items()}
    return Bert(read_json(folder / CONFIG), named).eval()
