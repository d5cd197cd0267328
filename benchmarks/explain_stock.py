"""Stock explanations of a film: what lime's and shap's own documentation tells a user to call, with
their defaults, on the bundle as it serves one prediction."""

import io
from contextlib import redirect_stderr
from typing import Any

import numpy as np
import shap
import torch
from lime.lime_image import LimeImageExplainer
from numpy.typing import NDArray

from cxr_mm.contracts.explanation import Target
from cxr_mm.data.transform import normalise
from cxr_mm.explain.subject import Subject
from cxr_mm.models.classifier import Batch

BLUR = "blur(128,128)"
"""The masker of shap's image example."""


class Stock:
    """A study's film as the libraries take it: uint8 (S, S, 3), and a function of many of them."""

    def __init__(self, subject: Subject, target: Target) -> None:
        assert subject.batch.image is not None
        self.subject, self.column = subject, subject.column(target)
        grey = ((subject.batch.image[0, 0].numpy() + 1) * 127.5).round().astype(np.uint8)
        self.film = np.repeat(grey[:, :, None], 3, axis=2)
        self.held = subject.bundle.embeddings(subject.batch)
        self._lime: Any = None
        self._shap: Any = None

    @torch.inference_mode()
    def logits(self, films: NDArray[Any]) -> NDArray[np.float64]:
        """Films (K, S, S, 3) → logits (K, 1), all else as it is."""
        bundle, batch = self.subject.bundle, self.subject.batch
        images = normalise(np.asarray(films)[..., 0].astype(np.uint8))
        mask = batch.mask.expand(len(images), -1)
        shown = {m: e.expand(len(images), -1) for m, e in self.held.items()}
        shown |= bundle.embeddings(Batch(mask=mask, image=images))
        logits = bundle.logits(shown, mask)[:, self.column]
        found: NDArray[np.float64] = logits.double().numpy()[:, None]
        return found

    def lime(self) -> None:
        """lime_image with its defaults."""
        explainer = LimeImageExplainer(random_state=0)
        with redirect_stderr(io.StringIO()):  # its progress bar cannot be turned off
            self._lime = explainer.explain_instance(
                self.film, self.logits, labels=(0,), top_labels=None
            )

    def lime_map(self) -> NDArray[np.float32]:
        """What `lime` found, as a map (S, S)."""
        painted: NDArray[np.float32] = self._weights()[self._lime.segments].astype(np.float32)
        return painted

    def lime_fit(self, fresh: int) -> float:
        """R² of lime's linear model on coalitions that it was not fitted on."""
        segments, weights = self._lime.segments, self._weights()
        kept = uniform(fresh, len(weights), 99)
        fill = np.zeros_like(self.film)
        for segment in np.unique(segments):
            inside = segments == segment
            fill[inside] = self.film[inside].mean(axis=0)
        films = np.where(kept[:, segments][..., None], self.film, fill)
        true = np.concatenate([self.logits(films[k : k + 10]) for k in range(0, fresh, 10)])[:, 0]
        told = self._lime.intercept[0] + kept @ weights
        return r_squared(true, told)

    def shap(self) -> None:
        """shap's partition explainer with its image masker and defaults."""
        masker = shap.maskers.Image(BLUR, self.film.shape)
        self._shap = shap.Explainer(self.logits, masker)(self.film[None], silent=True)

    def shap_map(self) -> NDArray[np.float32]:
        """What `shap` found, as a map (S, S)."""
        values = np.asarray(self._shap.values, dtype=np.float32).reshape(*self.film.shape)
        summed: NDArray[np.float32] = values.sum(axis=2)
        return summed

    def _weights(self) -> NDArray[np.float64]:
        weights = np.zeros(int(self._lime.segments.max()) + 1)
        for segment, weight in self._lime.local_exp[0]:
            weights[segment] = weight
        return weights


def uniform(samples: int, players: int, seed: int) -> NDArray[np.bool_]:
    """Coalitions (samples, players) as lime draws them: each player in with even chance."""
    return np.random.default_rng(seed).integers(0, 2, (samples, players)).astype(bool)


def r_squared(true: NDArray[np.float64], told: NDArray[np.float64]) -> float:
    """Share of the variance that is foretold."""
    return float(1 - ((true - told) ** 2).sum() / ((true - true.mean()) ** 2).sum())
