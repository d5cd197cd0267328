"""BERT encoder (Devlin et al. 2019), read from a transformers folder without transformers.

Importing transformers' models takes two seconds of processor time, most of a cold prediction; the
packaged sentence encoder is a plain BERT, which torch's own layers are enough for.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cxr_mm.core.files import read_json

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
LAYER = {
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "linear1",
    "output.dense": "linear2",
    "output.LayerNorm": "norm2",
}
"""transformers' name of a part of a layer → torch's."""


class Bert(nn.Module):
    """Token ids (B, L) and attention mask (B, L) → hidden states (B, L, D).

    Args:
        config: content of config.json.
        weights: tensors by the names that transformers gives them.
    """

    def __init__(self, config: dict[str, Any], weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        width, eps = config["hidden_size"], config["layer_norm_eps"]
        self.words, self.positions, self.types = (
            _embedding(weights[f"embeddings.{name}_embeddings.weight"])
            for name in ("word", "position", "token_type")
        )
        self.norm = nn.LayerNorm(width, eps)
        layer = nn.TransformerEncoderLayer(
            width,
            config["num_attention_heads"],
            config["intermediate_size"],
            activation="gelu",
            layer_norm_eps=eps,
            batch_first=True,
        )
        self.layers = nn.TransformerEncoder(
            layer, config["num_hidden_layers"], enable_nested_tensor=False
        )
        for kind in ("weight", "bias"):
            getattr(self.norm, kind).data = weights[f"embeddings.LayerNorm.{kind}"]
        for number, own in enumerate(self.layers.layers):
            own.load_state_dict(_layer_state(weights, f"encoder.layer.{number}."), assign=True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode tokens; what the mask leaves out (0) is not attended to."""
        positions = torch.arange(input_ids.shape[1])
        summed = self.words(input_ids) + self.types.weight[0] + self.positions(positions)
        hidden: Tensor = self.layers(self.norm(summed), src_key_padding_mask=attention_mask == 0)
        return hidden


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
    """Load a BERT encoder in evaluation mode, its weights frozen.

    Raises:
        OSError, ValueError: a file is missing or damaged.
        LookupError, RuntimeError: the weights do not fit the configuration.
    """
    weights = load_file(folder / WEIGHTS)
    weights = {name.removeprefix("bert."): tensor for name, tensor in weights.items()}
    return Bert(read_json(folder / CONFIG), weights).eval().requires_grad_(False)


def _embedding(weight: Tensor) -> nn.Embedding:
    count, width = weight.shape
    return nn.Embedding(count, width, _weight=weight)


def _layer_state(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """State of a torch layer out of the tensors of transformers' layer of that prefix."""
    state = {}
    for kind in ("weight", "bias"):
        parts = [weights[f"{prefix}attention.self.{n}.{kind}"] for n in ("query", "key", "value")]
        state[f"self_attn.in_proj_{kind}"] = torch.cat(parts)
        for theirs, ours in LAYER.items():
            state[f"{ours}.{kind}"] = weights[f"{prefix}{theirs}.{kind}"]
    return state
