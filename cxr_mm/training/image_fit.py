"""One image training, from a built encoder to the best epoch's weights, by Lightning's Trainer."""

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import lightning as L  # noqa: N812
import torch
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    ModelCheckpoint,
    TQDMProgressBar,
)
from torch.utils.data import DataLoader, DistributedSampler

from cxr_mm.contracts.task import Problem
from cxr_mm.data.dataset import LabelledSquares, PixelDataset, as_it_is
from cxr_mm.data.transform import normalise
from cxr_mm.files import folder_written_aside, read_json, write_json
from cxr_mm.models.image_encoder import ImageEncoder, load_image_encoder, save_image_encoder
from cxr_mm.models.precision import MEASURED_ON, Precision, choose_precision
from cxr_mm.params import TrainImageParams
from cxr_mm.training.curve_callback import CurveCallback
from cxr_mm.training.curves import CHOSEN_BY, Epoch, write_curves
from cxr_mm.training.image_module import ImageModule, choose_trainable
from cxr_mm.training.loss import class_weights
from cxr_mm.training.quiet import quiet

_log = logging.getLogger(__name__)
DONE, FIT, PRECISION = "done", "fit.json", "precision.json"


@dataclass(frozen=True)
class ImageFit:
    """A training that is over."""

    encoder: ImageEncoder
    history: list[Epoch]
    precision: str


def fit_image_encoder(
    encoder: ImageEncoder,
    train: PixelDataset,
    val: PixelDataset,
    problem: Problem,
    params: TrainImageParams,
    folder: Path,
    curves: Path,
) -> ImageFit:
    """Train, or go on with what was interrupted, or give what was already finished.

    Args:
        encoder: as built; trained in place.
        train, val: rows to learn from and rows to choose the best epoch on.
        problem: as of the task.
        params: as of the stage.
        folder: where checkpoints lie; it belongs to these data and parameters alone.
        curves: where the DVCLive curves go.
    """
    done = folder / DONE
    if not done.is_dir():
        _train(encoder, train, val, problem, params, folder, curves)
    else:
        _log.warning("%s: already trained before an interruption", folder.name)
        write_curves(curves, read_json(done / FIT)["history"])
    kept = read_json(done / FIT)
    return ImageFit(load_image_encoder(done), kept["history"], kept["precision"])


def _train(
    encoder: ImageEncoder,
    train: PixelDataset,
    val: PixelDataset,
    problem: Problem,
    params: TrainImageParams,
    folder: Path,
    curves: Path,
) -> None:
    choose_trainable(encoder, params.trainable)
    precision = _precision(encoder, train, params, folder)
    weights = torch.ones(2, train.labels.shape[1])
    if params.class_weights:
        weights = class_weights(torch.from_numpy(train.labels), problem)
    module = ImageModule(encoder, problem, weights, params, precision)
    history = CurveCallback(curves)
    trainer, best = _trainer(params, precision, folder, history)
    last = folder / "last.ckpt"
    if last.is_file():
        _log.warning("%s: resuming the interrupted training from %s", folder.name, last)
    with quiet():
        trainer.fit(
            module,
            _loader(train, params, trainer, shuffle=True),
            _loader(val, params, trainer, shuffle=False),
            ckpt_path=last if last.is_file() else None,
            weights_only=True,
        )
    checkpoint = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    module.load_state_dict(checkpoint["state_dict"])
    if trainer.is_global_zero:
        with folder_written_aside(folder / DONE) as aside:
            save_image_encoder(encoder, aside)
            write_json(aside / FIT, {"history": history.history, "precision": precision.name})
    trainer.strategy.barrier()


def _trainer(
    params: TrainImageParams, precision: Precision, folder: Path, history: CurveCallback
) -> tuple[L.Trainer, ModelCheckpoint]:
    best = ModelCheckpoint(folder, "best", monitor=CHOSEN_BY, enable_version_counter=False)
    last = ModelCheckpoint(
        folder, "last", enable_version_counter=False, save_on_train_epoch_end=True
    )
    callbacks: list[L.Callback] = [history, best, last, TQDMProgressBar(refresh_rate=5)]
    if params.ema_decay:
        callbacks.append(EMAWeightAveraging(decay=params.ema_decay))
    with quiet():
        trainer = L.Trainer(
            accelerator=params.accelerator,
            devices=params.devices,
            num_nodes=params.nodes,
            precision="bf16-mixed" if precision.name == "bf16" else "32-true",
            max_epochs=params.epochs,
            callbacks=callbacks,
            default_root_dir=folder,
            logger=False,
            num_sanity_val_steps=0,
            enable_model_summary=False,
        )
    return trainer, best


def _loader(
    dataset: PixelDataset, params: TrainImageParams, trainer: L.Trainer, *, shuffle: bool
) -> DataLoader[LabelledSquares]:
    """Batches; the order of each epoch depends on the seed and the epoch's number alone."""
    sampler: DistributedSampler[LabelledSquares] = DistributedSampler(
        dataset, trainer.world_size, trainer.global_rank, shuffle=shuffle, seed=params.seed
    )
    return DataLoader(
        dataset,
        batch_size=params.batch_size,
        sampler=sampler,
        num_workers=params.workers,
        collate_fn=as_it_is,
        # A last batch of one image would leave batch normalisation nothing to normalise by.
        drop_last=shuffle and len(dataset) > params.batch_size,
        persistent_workers=params.workers > 0,
    )


def _precision(
    encoder: ImageEncoder, train: PixelDataset, params: TrainImageParams, folder: Path
) -> Precision:
    """Measured once per training and kept, so that a resumed one goes on in the same."""
    kept = folder / PRECISION
    if kept.is_file():
        return Precision(**read_json(kept))
    cuda = params.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    squares, _ = train.__getitems__(range(min(MEASURED_ON, len(train))))
    sample = normalise(squares).to(device)
    chosen = choose_precision(encoder.to(device), sample, wanted=params.precision, training=True)
    encoder.cpu()
    write_json(kept, asdict(chosen))
    return chosen
