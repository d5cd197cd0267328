"""Fusion: embeddings of the present modalities → logits, for any subset of them.

Every kind has one interface and respects the modality mask: values of an absent modality (NaN
included) cannot reach the output, and absence is a state of its own, never zeros taken for data. A
kind turns a batch into columns of evidence, and its Calibration, fitted for each subset on studies
the networks have not seen, turns columns into logits:

- `late`: one column per part of a modality, so that calibration is stacking (Wolpert 1992);
- `concat`: one column, from hidden vectors side by side;
- `gated`: one column, from a gated sum of hidden vectors (Arevalo et al. 2017).
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from cxr_mm.core.types import MODALITIES, Frozen, Modality
from cxr_mm.models.calibration import Calibration


class Part(Frozen):
    """Consecutive numbers of an embedding that belong together.

    `counted`: word counts, weighted by inverse document frequency.
    """

    length: int
    counted: bool = False


class Standardise(nn.Module):
    """Scale an embedding to unit expected length, shared evenly by its parts, so that a long part
    does not dominate a short one.

    A part becomes standard scores; word counts are weighted by inverse document frequency (Spärck
    Jones 1972) and normalised to the same length for every note.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__()
        self.parts = tuple(parts)
        length = sum(part.length for part in parts)
        self.register_buffer("mean", torch.zeros(length))
        self.register_buffer("scale", torch.ones(length))
        self._learn(self.mean, [torch.ones(part.length) for part in self.parts])

    def fit(self, rows: Tensor) -> None:
        """Fit to the rows (N, D) of studies that have the modality."""
        if len(rows) > 1:
            spread = [_spread(own, part) for own, part in self._split(rows)]
            self._learn(rows.mean(0), spread)

    def _learn(self, mean: Tensor, spread: Sequence[Tensor]) -> None:
        share = [
            1.0 if part.counted else (part.length * len(self.parts)) ** 0.5 for part in self.parts
        ]
        self.scale.copy_(torch.cat([own * s for own, s in zip(spread, share, strict=True)]))
        means = [torch.zeros_like(m) if part.counted else m for m, part in self._split(mean)]
        self.mean.copy_(torch.cat(means))

    def _split(self, rows: Tensor) -> list[tuple[Tensor, Part]]:
        lengths = [part.length for part in self.parts]
        return list(zip(torch.split(rows, lengths, dim=-1), self.parts, strict=True))

    def forward(self, rows: Tensor) -> Tensor:
        """(B, D) → (B, D)."""
        scores = self._split((rows - self.mean) / self.scale)
        length = len(self.parts) ** -0.5
        return torch.cat(
            [
                nn.functional.normalize(own, dim=-1) * length if part.counted else own
                for own, part in scores
            ],
            dim=-1,
        )


def _spread(rows: Tensor, part: Part) -> Tensor:
    """Divisor of each dimension of a part (N, D), before the part is scaled to its length."""
    if part.counted:
        studies, with_word = len(rows), (rows > 0).sum(0)
        return 1 / (((1 + studies) / (1 + with_word)).log() + 1)
    deviation = rows.std(0)
    # A floor, so that a dimension that hardly varies does not become noise at full volume.
    return deviation.clamp(min=0.1 * float(deviation.mean()) + 1e-6)


class Erasure(nn.Module):
    """An affine map that takes K directions out of an embedding, as fitted by `fit_erasure`.

    Args:
        length: D of the embedding.
        directions: K.
    """

    centre: Tensor
    read: Tensor
    write: Tensor

    def __init__(self, length: int, directions: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(length))
        self.register_buffer("read", torch.zeros(directions, length))
        self.register_buffer("write", torch.zeros(length, directions))

    def forward(self, rows: Tensor) -> Tensor:
        """(B, D) → (B, D)."""
        return rows - (rows - self.centre) @ self.read.T @ self.write.T


class _Fold(nn.Module):
    """Fold word counts into fewer cells, as if hashed so: a weight for every pair of word and unit
    would be slow and overfit."""

    CELLS = 256

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.width = sum(self.CELLS if self._folds(part) else part.length for part in parts)

    def _folds(self, part: Part) -> bool:
        return part.counted and part.length > self.CELLS and part.length % self.CELLS == 0

    def forward(self, rows: Tensor) -> Tensor:
        split = torch.split(rows, [part.length for part in self.parts], dim=1)
        return torch.cat(
            [
                own.reshape(len(own), -1, self.CELLS).sum(1) if self._folds(part) else own
                for own, part in zip(split, self.parts, strict=True)
            ],
            dim=1,
        )


class _Gain(nn.Module):
    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, rows: Tensor) -> Tensor:
        return rows * self.gain


FusionKind = Literal["late", "concat", "gated"]
TrainingView = tuple[Tensor, Tensor]
"""Logits (B, F) in training, and whether each study (B,) has a visible modality."""


class FusionSpec(Frozen):
    """Shape of a fusion.

    `parts`: parts of each modality's input, for the modalities of the task.
    `scales`: prior standard deviation of each modality's logit (`late`).
    `outputs`: number of findings F.
    `hidden`: width H that each modality is projected to (`concat`, `gated`).
    `tabular_hidden`: width of the layer before it for clinical features; 0 for none.
    `erased`: directions taken out of the image's embedding.
    """

    kind: FusionKind
    parts: dict[Modality, tuple[Part, ...]]
    scales: dict[Modality, float]
    outputs: int
    hidden: int = 64
    tabular_hidden: int = 16
    dropout: float = 0.3
    erased: int = 0

    @property
    def dims(self) -> dict[Modality, int]:
        """Width of each modality's input."""
        return {m: sum(part.length for part in parts) for m, parts in self.parts.items()}


def owners(spec: FusionSpec) -> tuple[Modality, ...]:
    """Modality of each part, in order."""
    return tuple(modality for modality, parts in spec.parts.items() for _ in parts)


class Late(nn.Module):
    """A linear head per part of a modality, each trained on its own; (B, J, F) columns."""

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__()
        self.spec, self.owners = spec, owners(spec)
        lengths = [part.length for parts in spec.parts.values() for part in parts]
        self.heads = nn.ModuleList(nn.Linear(length, spec.outputs) for length in lengths)
        for weights in self.heads.parameters():
            nn.init.zeros_(weights)

    @torch.no_grad()
    def adopt(self, modality: Modality, weight: Tensor, bias: Tensor) -> None:
        """Copy and freeze the head (F, D), (F,) of a modality of one part."""
        head = self.heads[self.owners.index(modality)]
        head.requires_grad_(False)
        head.weight.copy_(weight)  # type: ignore[operator]
        head.bias.copy_(bias)  # type: ignore[operator]

    def encode(self, modality: Modality, rows: Tensor) -> Tensor:
        """Standard scores (B, D) of one modality → its own columns (B, J, F)."""
        parts = self.spec.parts[modality]
        first = self.owners.index(modality)
        heads = self.heads[first : first + len(parts)]
        split = torch.split(rows, [part.length for part in parts], dim=1)
        # Parts share one unit length; each head gets its own part at unit length.
        columns = [head(own * len(parts) ** 0.5) for head, own in zip(heads, split, strict=True)]
        return torch.stack(columns, dim=1)

    def join(self, encoded: Mapping[Modality, Tensor], mask: Tensor) -> Tensor:
        """Columns of every modality, mask (B, 3) → columns side by side, zero where absent."""
        side_by_side = [
            torch.where(mask[:, MODALITIES.index(modality), None, None], columns, 0.0)
            for modality, columns in encoded.items()
        ]
        return torch.cat(side_by_side, dim=1)

    def forward(self, inputs: Mapping[Modality, Tensor], mask: Tensor) -> Tensor:
        """Inputs (B, D) with zeros where absent, mask (B, 3) → columns, zero where absent."""
        return self.join({m: self.encode(m, inputs[m]) for m in self.spec.parts}, mask)

    def penalty(self) -> Tensor:
        """Negative log density of the heads' weights under their Gaussian priors."""
        scales = self.spec.scales
        energies = [
            head.weight.square().sum() / (2 * scales[owner] ** 2)  # type: ignore[operator]
            for head, owner in zip(self.heads, self.owners, strict=True)
        ]
        return torch.stack(energies).sum()

    def training_views(
        self, inputs: Mapping[Modality, Tensor], mask: Tensor, hide: float
    ) -> list[TrainingView]:
        """Show each part alone, so that no head relies on another."""
        del hide
        columns = self(inputs, mask)
        return [
            (columns[:, j], mask[:, MODALITIES.index(owner)]) for j, owner in enumerate(self.owners)
        ]


class Joint(nn.Module):
    """Base of `concat` and `gated`: a projection per modality and one column, (B, 1, F)."""

    def __init__(self, spec: FusionSpec, joined: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({m: _projection(m, spec) for m in spec.dims})
        self.absent = nn.ParameterDict(
            {m: nn.Parameter(torch.zeros(spec.hidden)) for m in spec.dims}
        )
        self.head = nn.Sequential(
            nn.Linear(joined, spec.hidden),
            nn.GELU(),
            nn.Dropout(spec.dropout),
            nn.Linear(spec.hidden, spec.outputs),
        )

    def encode(self, modality: Modality, rows: Tensor) -> Tensor:
        """Standard scores (B, D) of one modality → hidden vector (B, H)."""
        hidden: Tensor = self.encoders[modality](rows)
        return hidden

    def hidden(self, encoded: Mapping[Modality, Tensor], mask: Tensor) -> list[Tensor]:
        """Hidden vectors (B, H) of the task's modalities, a learnt one where absent."""
        return [
            torch.where(mask[:, MODALITIES.index(m), None], rows, self.absent[m])
            for m, rows in encoded.items()
        ]

    def join(self, encoded: Mapping[Modality, Tensor], mask: Tensor) -> Tensor:
        """Hidden vectors of every modality, mask (B, 3) → column (B, 1, F)."""
        raise NotImplementedError

    def forward(self, inputs: Mapping[Modality, Tensor], mask: Tensor) -> Tensor:
        """Inputs (B, D) with zeros where absent, mask (B, 3) → column (B, 1, F)."""
        return self.join({m: self.encode(m, rows) for m, rows in inputs.items()}, mask)

    def penalty(self) -> Tensor:
        """Zero: weight decay and dropout regularise these."""
        return torch.zeros(())

    def training_views(
        self, inputs: Mapping[Modality, Tensor], mask: Tensor, hide: float
    ) -> list[TrainingView]:
        """Modality dropout: hide each with chance `hide`, but at least one stays."""
        left = mask & (torch.rand(mask.shape, device=mask.device) >= hide)
        seen = torch.where(left.any(1, keepdim=True), left, mask)
        return [(self(inputs, seen)[:, 0], mask.any(1))]


class Concat(Joint):
    """Hidden vectors side by side, with the mask, then a perceptron."""

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__(spec, spec.hidden * len(spec.dims) + len(MODALITIES))

    def join(self, encoded: Mapping[Modality, Tensor], mask: Tensor) -> Tensor:
        """As of `Joint`."""
        parts = [*self.hidden(encoded, mask), mask.to(torch.float32)]
        column: Tensor = self.head(torch.cat(parts, dim=1))
        return column.unsqueeze(1)


class Gated(Joint):
    """A sum of gated hidden vectors; absent ones are a learnt constant."""

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__(spec, spec.hidden)
        self.gates = nn.ModuleDict({m: nn.Linear(spec.hidden, spec.hidden) for m in spec.dims})

    def join(self, encoded: Mapping[Modality, Tensor], mask: Tensor) -> Tensor:
        """As of `Joint`."""
        hidden = dict(zip(encoded, self.hidden(encoded, mask), strict=True))
        gated = [torch.sigmoid(self.gates[m](h)) * torch.tanh(h) for m, h in hidden.items()]
        column: Tensor = self.head(torch.stack(gated).sum(0))
        return column.unsqueeze(1)


KINDS: dict[FusionKind, type[Late] | type[Concat] | type[Gated]] = {
    "late": Late,
    "concat": Concat,
    "gated": Gated,
}


class Fusion(nn.Module):
    """Standard scores, the network of one kind, and calibration for the subset."""

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__()
        self.spec = spec
        self.erasure = Erasure(spec.dims["image"], spec.erased) if spec.erased else None
        self.standardise = nn.ModuleDict({m: Standardise(parts) for m, parts in spec.parts.items()})
        self.network = KINDS[spec.kind](spec)
        columns = owners(spec) if spec.kind == "late" else (None,)
        self.calibration = Calibration(columns, spec.outputs)

    def fit_standardise(self, inputs: Mapping[Modality, Tensor], mask: Tensor) -> None:
        """Fit the standard scores to training studies.

        Clinical features are scaled by their own transform and only brought to unit length here.
        """
        for modality in self.spec.dims:
            if modality != "tabular":
                rows = inputs[modality][mask[:, MODALITIES.index(modality)]]
                self.standardise[modality].fit(self._erased(modality, rows))  # type: ignore[operator]

    def _erased(self, modality: Modality, rows: Tensor) -> Tensor:
        """Embeddings (B, D) without what is erased from those of images."""
        if modality != "image" or self.erasure is None:
            return rows
        left: Tensor = self.erasure(rows)
        return left

    def _scores(self, modality: Modality, rows: Tensor) -> Tensor:
        """Embeddings (B, D) → standard scores (B, D)."""
        scores: Tensor = self.standardise[modality](self._erased(modality, rows.float()))
        return scores

    def freeze_head(self, modality: Modality, weight: Tensor, bias: Tensor) -> None:
        """Use a head fitted elsewhere, (F, D) and (F,) for embeddings as they come (`late`)."""
        scores = self.standardise[modality]
        assert isinstance(scores, Standardise)
        assert isinstance(self.network, Late)
        self.network.adopt(modality, weight * scores.scale, bias + weight @ scores.mean)

    def clean(self, inputs: Mapping[Modality, Tensor], mask: Tensor) -> dict[Modality, Tensor]:
        """Standard scores, with exact zeros where a modality is absent."""
        rows: dict[Modality, Tensor] = {}
        for modality in self.spec.dims:
            present = mask[:, MODALITIES.index(modality), None]
            scores = self._scores(modality, inputs[modality])
            rows[modality] = torch.where(present, scores, torch.zeros_like(scores))
        return rows

    def columns(self, inputs: Mapping[Modality, Tensor], mask: Tensor) -> Tensor:
        """Columns of evidence (B, J, F) before calibration."""
        columns: Tensor = self.network(self.clean(inputs, mask), mask)
        return columns

    def encode(self, modality: Modality, rows: Tensor) -> Tensor:
        """Encode embeddings (B, D) of one modality that is present.

        A caller that varies one modality and holds the others encodes the others only once.
        """
        return self.network.encode(modality, self._scores(modality, rows))

    def join(self, encoded: Mapping[Modality, Tensor], mask: Tensor) -> Tensor:
        """Encoded modalities and mask (B, 3) → logits (B, F), the same as `forward` gives.

        Each tensor has B rows, or one that stands for all.
        """
        rows = {m: encoded[m].expand(len(mask), *encoded[m].shape[1:]) for m in self.spec.dims}
        logits: Tensor = self.calibration(self.network.join(rows, mask), mask)
        return logits

    def forward(self, inputs: Mapping[Modality, Tensor], mask: Tensor) -> Tensor:
        """Embeddings of a batch → calibrated logits.

        Args:
            inputs: image (B, Di), tabular (B, T), note (B, Dn), of the modalities in the spec; rows
                of absent modalities are ignored.
            mask: bool (B, 3) in canonical order, True where present.

        Returns:
            Logits (B, F), whose sigmoid (or softmax) is the calibrated probability.
        """
        logits: Tensor = self.calibration(self.columns(inputs, mask), mask)
        return logits


def _projection(modality: Modality, spec: FusionSpec) -> nn.Sequential:
    """Layers from one modality's input (B, D) to (B, H)."""
    fold = _Fold(spec.parts[modality])
    width = fold.width
    layers: list[nn.Module] = [nn.Dropout(spec.dropout)]
    if modality == "tabular" and spec.tabular_hidden:
        layers = [nn.Linear(width, spec.tabular_hidden), nn.GELU()]
        width = spec.tabular_hidden
    # Inputs have unit length: scaled back, so that a linear layer starts at its usual size.
    gain = _Gain(fold.width**0.5)
    return nn.Sequential(fold, gain, *layers, nn.Linear(width, spec.hidden))
