"""Pack a linear layer's weights so that its outputs on real images change least, not the weights themselves.

Rounding one weight shifts the outputs; the weights that are still to be rounded can take most of that shift
back, because inputs are correlated. How they are is measured by sending slices of real volumes through the
encoder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK
import torch

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
DEVIATION = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
CT_WINDOW = (-200.0, 300.0)
BLOCK = 128
DAMPING = 0.01


def second_moments(model: torch.nn.Module, folder: Path, every: int) -> dict[str, torch.Tensor]:
    """Mean outer product of the inputs of each linear layer and 1x1 convolution of the image encoder.

    Args:
        model: a SAM2Base with float weights.
        folder: holds manifest.json with "cases" (name, modality, propagation_axis_ijk) and NAME/image.nii.gz.
        every: take each so-manieth case; two slices of each, every eighth at 512 px, the others at 256 px.

    Returns:
        name of the layer's weight -> (inputs, inputs) float64.
    """
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str, layer: torch.nn.Module) -> None:
        def note(_layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0] if isinstance(layer, torch.nn.Linear) else inputs[0].movedim(1, -1)
            x = x.reshape(-1, x.shape[-1])
            sums[name] = sums.get(name, torch.zeros(())) + (x.T @ x).double()
            counts[name] = counts.get(name, 0) + len(x)

        layer.register_forward_pre_hook(note)

    for name, layer in model.image_encoder.named_modules():  # type: ignore[union-attr]
        if isinstance(layer, torch.nn.Linear) or (
            isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (1, 1)
        ):
            watch(f"image_encoder.{name}.weight", layer)
    with torch.inference_mode():
        for image in _images(folder, every):
            model.forward_image(image)  # type: ignore[operator]
    return {name: total / counts[name] for name, total in sums.items()}


def _images(folder: Path, every: int) -> Iterator[torch.Tensor]:
    taken = 0
    for case in json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["cases"][::every]:
        volume = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / case["name"] / "image.nii.gz")))
        volume = np.moveaxis(volume.astype(np.float32), 2 - case["propagation_axis_ijk"], 0)
        sample = volume[:: max(1, len(volume) // 20)]
        low, high = CT_WINDOW if "CT" in case["modality"] else np.percentile(sample, [0.5, 99.5])
        for part in (0.4, 0.6):
            size = 512 if taken % 8 == 7 else 256
            taken += 1
            pixels = np.clip((volume[int(len(volume) * part)] - low) / (high - low), 0, 1)
            image = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))[None, None]
            image = torch.nn.functional.interpolate(
                image, (size, size), mode="bilinear", antialias=True, align_corners=False
            )
            yield (image.expand(1, 3, size, size) - MEAN) / DEVIATION


def pack_for_outputs(weight: torch.Tensor, moment: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 values and float32 scales, one per output, of a layer whose inputs have this second moment.

    The inputs are taken strongest first; each one's rounding error is spread over those that follow, as the
    Cholesky factor of the inverse moment says (the method known as GPTQ).

    Args:
        weight: (outputs, inputs) or (outputs, inputs, 1, 1).
        moment: (inputs, inputs).
    """
    exact = weight.reshape(weight.shape[0], -1).double()
    strength = moment.diagonal().clone()
    scale = _scales(exact, (strength / strength.mean()).clamp_min(1e-3))
    order = torch.argsort(strength, descending=True)
    damped = moment[order][:, order] + torch.eye(len(order), dtype=torch.float64) * DAMPING * strength.mean()
    factor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    left = exact[:, order].clone()
    values = torch.zeros_like(left)
    for start in range(0, len(order), BLOCK):
        end = min(len(order), start + BLOCK)
        errors = torch.zeros(len(left), end - start, dtype=torch.float64)
        for column in range(start, end):
            rounded = (left[:, column] / scale).round().clamp(-127, 127)
            values[:, column] = rounded
            errors[:, column - start] = (left[:, column] - rounded * scale) / factor[column, column]
            left[:, column:end] -= torch.outer(errors[:, column - start], factor[column, column:end])
        left[:, end:] -= errors @ factor[start:end, end:]
    packed = values[:, torch.argsort(order)].to(torch.int8).reshape(weight.shape)
    return packed, scale.float().reshape(-1, *[1] * (weight.ndim - 1))


def _scales(weight: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """Per output, the scale among ten below largest / 127 with the least rounding error, inputs weighted."""
    largest = weight.abs().amax(dim=1).clamp_min(1e-12)
    best = torch.zeros_like(largest)
    lowest = torch.full_like(largest, float("inf"))
    for shrink in (1.0, 0.98, 0.96, 0.93, 0.9, 0.86, 0.82, 0.78, 0.74, 0.7):
        scale = (largest * shrink / 127).float().double()
        rounded = (weight / scale[:, None]).round().clamp(-127, 127) * scale[:, None]
        error = ((rounded - weight).square() * strength).sum(dim=1)
        best = torch.where(error < lowest, scale, best)
        lowest = torch.minimum(error, lowest)
    return best


def output_error(weight: torch.Tensor, other: torch.Tensor, moment: torch.Tensor) -> float:
    """Root mean square change of the outputs, relative to them, when `other` replaces `weight`."""
    exact = weight.reshape(weight.shape[0], -1).double()
    change = other.reshape(exact.shape).double() - exact
    return float((((change @ moment) * change).sum() / ((exact @ moment) * exact).sum()).sqrt())
