"""The image half of the model, as it makes what is learned from."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from SAM2PropagateLib.engine.crops import STRETCHED, style_of
from SAM2PropagateLib.engine.family import LoadedModel
from SAM2PropagateLib.engine.steps import SAM2Steps
from SAM2PropagateLib.training.features import FrameStock
from SAM2PropagateLib.training.looks import StockFrames
from SAM2PropagateLib.training.parts import IMAGE, Learning
from SAM2PropagateLib.training.precision import as_in_use
from SAM2PropagateLib.training.warps import Propose, proposer


@dataclass(frozen=True)
class ImageHalf:
    """The image half as it is when the training begins: makes and outlines what is learned from.

    Attributes:
        stock: frames as they are kept: their features, in the engine's own precision, or the images
            themselves if the image half learns too.
        propose: outlines what is on a slice.
        size: pixels of a side of the model's input.
        style: how a frame that is not square becomes that; see `engine.crops`.
    """

    stock: StockFrames
    propose: Propose
    size: int
    style: str = STRETCHED

    @staticmethod
    def of(loaded: LoadedModel, learning: Learning) -> ImageHalf:
        """Return the image half of a model about to learn."""
        steps = SAM2Steps(as_in_use(loaded))

        def images(images: torch.Tensor) -> FrameStock:
            return FrameStock((images.half(),))

        def features(images: torch.Tensor) -> FrameStock:
            found = [steps.encode(image[None].to(loaded.device))[0] for image in images]
            # Clones: tensors made for inference cannot be learned with.
            parts = ([f.fine for f in found], [f.middle for f in found], [f.coarse for f in found])
            return FrameStock(tuple(torch.stack(part).cpu().clone() for part in parts))

        return ImageHalf(
            images if IMAGE in learning.parts else features,
            proposer(steps),
            loaded.input_size,
            style_of(loaded.metadata),
        )
