"""Runs the steps of SAM 2, each on a batch of unrelated frames.

`sam2`'s own predictor runs these steps for one object on one frame at a time. Here a batch may mix
segments, stretches and directions: every entry brings its own frame's features and its own memories.
The steps and their order follow "SAM 2: Segment Anything in Images and Videos" (Ravi et al., 2024) and
call the model classes of the `sam2` package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from sam2.modeling.sam2_utils import get_1d_sine_pe

from SAM2PropagateLib.engine.cpu_attention import PlainAttention
from SAM2PropagateLib.engine.encoder import FrameEncoder
from SAM2PropagateLib.engine.family import (
    MASK_PROMPT_LOGIT,
    NO_OBJECT_LOGIT,
    Decoded,
    LoadedModel,
    Recall,
)
from SAM2PropagateLib.engine.memory_reader import MemoryReader, Projected
from SAM2PropagateLib.engine.transfer import uploaded


@dataclass(frozen=True)
class FrameFeatures:
    """The image encoder's features of one frame, for prompts and memories.

    Attributes:
        fine: (32, 4h, 4w), middle: (64, 2h, 2w), coarse: (256, h, w); h = w = input size / 16.
    """

    fine: torch.Tensor
    middle: torch.Tensor
    coarse: torch.Tensor

    @property
    def nbytes(self) -> int:
        return sum(t.nelement() * t.element_size() for t in (self.fine, self.middle, self.coarse))

    @property
    def maps(self) -> tuple[torch.Tensor, ...]:
        """The two finer maps; see `EncodedFrame`."""
        return self.fine, self.middle

    def to(self, device: torch.device | str) -> FrameFeatures:
        """Return the same features on a device."""
        parts = (self.fine, self.middle, self.coarse)
        return FrameFeatures(*(part.to(device, non_blocking=True) for part in parts))

    def to_host(self) -> FrameFeatures:
        """Return a copy in main memory, pinned beside a CUDA device so that it comes back fast."""

        def copied(part: torch.Tensor) -> torch.Tensor:
            host = torch.empty(part.shape, dtype=part.dtype, pin_memory=part.is_cuda)
            # Without waiting, as only the device reads it again, later in its queue.
            return host.copy_(part, non_blocking=True)

        return FrameFeatures(copied(self.fine), copied(self.middle), copied(self.coarse))


@dataclass
class Memory:
    """SAM 2's memory of one frame, for later frames.

    Attributes:
        spatial: (h*w, 64).
        pointer: (256,).
        projected: keys and values of `spatial`, which are much larger; made when first needed.
    """

    spatial: torch.Tensor
    pointer: torch.Tensor
    projected: Projected | None = None

    def rest(self) -> None:
        """Free the keys and values; they are made again when needed."""
        self.projected = None


class SAM2Steps:
    """SAM 2's steps on batches, in the model's compute precision.

    It takes the model over and converts its parts in place, so that a large model is not there twice.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.device: torch.device = loaded.device
        self.dtype: torch.dtype = loaded.dtype
        self.input_size: int = loaded.input_size
        # A GPU computes while the host does other things; on a CPU nothing is gained.
        self.runs_ahead: bool = self.device.type != "cpu"
        model = loaded.model
        on_cpu = self.device.type == "cpu"
        half_on_cpu = on_cpu and self.dtype != torch.float32
        self._attention_mode: Callable[[], AbstractContextManager[Any]] = (
            PlainAttention if half_on_cpu else nullcontext
        )
        self._encoder = FrameEncoder(
            model.image_encoder, model.sam_mask_decoder, self.dtype, int8=loaded.int8
        )
        self._decoder = self._converted(model.sam_mask_decoder)
        # On a CPU its depthwise convolutions are slower in half precision.
        self._memory_dtype = torch.float32 if on_cpu else self.dtype
        self._memory_encoder = model.memory_encoder.to(self._memory_dtype)
        self._pointer = self._converted(model.obj_ptr_proj)
        # Prompts stay in float32: half precision moves a click by more than a pixel.
        self._prompts = model.sam_prompt_encoder
        self._model = model
        self.grid = loaded.input_size // model.backbone_stride
        self.slots = model.num_maskmem
        self.max_pointers = model.max_obj_ptrs_in_encoder
        self._image_pe = self._prompts.get_dense_pe().to(self.dtype)
        nowhere, nothing = torch.zeros(1, 1, 2), -torch.ones(1, 1, dtype=torch.int32)
        self._no_points = (nowhere.to(self.device), nothing.to(self.device))
        with torch.inference_mode():
            self._no_prompts = self._prompts(points=self._no_points, boxes=None, masks=None)
        self._coarse_position = self._position(model.image_encoder.neck.position_encoding, model.hidden_dim)
        memory_position = self._position(model.memory_encoder.position_encoding, model.mem_dim)
        times = model.maskmem_tpos_enc[:, 0, 0].detach().to(self.dtype)
        # sam2's order: the newest memory has time code 0, a keyframe the last one whatever its distance.
        slot_positions = [memory_position + times[slot - 1] for slot in range(self.slots)]
        with torch.inference_mode():
            self._reader = MemoryReader(
                self._converted(model.memory_attention), slot_positions, values_last=on_cpu
            )
        self._no_memory = model.no_mem_embed.detach().reshape(1, -1, 1, 1).to(self.dtype)

    def _converted(self, module: Any) -> Any:
        return module.to(self.dtype)

    def _position(self, encoding: torch.nn.Module, channels: int) -> torch.Tensor:
        """Return (h*w, channels): the sine position code of the coarse grid."""
        code = encoding(torch.zeros(1, channels, self.grid, self.grid, device=self.device))
        return code.flatten(2)[0].T.contiguous().to(self.dtype)

    # --- encoding -----------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode(self, images: torch.Tensor) -> list[FrameFeatures]:
        """Return the features of a batch of frames, float32 (frames, 3, size, size), one `FrameFeatures`
        each."""
        with self._attention_mode():
            fine, middle, coarse = self._encoder(images)
        # Clones, so that dropping a frame from the cache frees main or GPU memory, not a view of the batch.
        if len(images) == 1:
            return [FrameFeatures(fine[0], middle[0], coarse[0])]
        return [
            FrameFeatures(fine[n].clone(), middle[n].clone(), coarse[n].clone()) for n in range(len(images))
        ]

    # --- decoding -----------------------------------------------------------------------------------

    @torch.inference_mode()
    def decode_prompts(
        self,
        features: FrameFeatures,
        points: torch.Tensor | None,
        labels: torch.Tensor | None,
        mask_logits: torch.Tensor | None = None,
    ) -> Decoded:
        """Return the mask of one frame from its prompts alone, as a batch of one.

        Unlike sam2, which may find a prompted object absent, it always returns a mask: there is something
        where the user clicks.

        Args:
            points: float32 (n, 2), x and y in model pixels with the center of the first pixel at 0, or None.
            labels: int32 (n,): 1 positive, 0 negative, 2 and 3 the corners of a box.
            mask_logits: float32 (1, 1, 4h, 4w), the mask to refine, or None.
        """
        coarse = features.coarse[None] + self._no_memory
        count = 0 if points is None else len(points)
        multimask = mask_logits is None and self._multimask(count, True)
        return self._decode(
            coarse,
            [features],
            None if points is None or labels is None else (points[None], labels[None]),
            mask_logits,
            multimask,
            is_there=True,
        )

    @torch.inference_mode()
    def track(self, features: Sequence[FrameFeatures], recalls: Sequence[Recall]) -> Decoded:
        """Return the answers for a batch of frames from their memories; all recalls have the same shape.

        The masks are as decoded, even with a negative object score; see `settled`.
        """
        coarse = torch.stack([f.coarse for f in features])
        conditioned = self._condition(coarse, recalls)
        return self._decode(conditioned, features, None, None, self._multimask(0, False))

    def _multimask(self, count: int, prompted: bool) -> bool:
        model = self._model
        return bool(
            model.multimask_output_in_sam
            and (prompted or model.multimask_output_for_tracking)
            and model.multimask_min_pt_num <= count <= model.multimask_max_pt_num
        )

    def _condition(self, coarse: torch.Tensor, recalls: Sequence[Recall]) -> torch.Tensor:
        batch, channels, height, width = coarse.shape
        model = self._model
        memories = [[(slot, self._projected(memory)) for slot, memory in r.spatial] for r in recalls]
        pointers = None
        count = len(recalls[0].pointers)
        if model.use_obj_ptrs_in_encoder and count:
            tokens = torch.stack([torch.stack([m.pointer for _, m in r.pointers]) for r in recalls])
            splits = channels // model.mem_dim
            tokens = tokens.reshape(batch, count * splits, model.mem_dim)
            if model.add_tpos_enc_to_obj_ptrs:
                distance = uploaded(
                    torch.tensor([[d / r.span for d, _ in r.pointers] for r in recalls]), self.device
                )
                dim = channels if model.proj_tpos_enc_in_obj_ptrs else model.mem_dim
                code = model.obj_ptr_tpos_proj(get_1d_sine_pe(distance, dim=dim))
            else:
                code = torch.zeros(batch, count, model.mem_dim, device=coarse.device)
            pointers = (tokens, code.to(self.dtype).repeat_interleave(splits, dim=1))
        frames = coarse.flatten(2).transpose(1, 2)
        with self._attention_mode():
            out = self._reader.read(frames, self._coarse_position, memories, pointers)
        return out.transpose(1, 2).reshape(batch, channels, height, width)

    def _projected(self, memory: Memory) -> Projected:
        if memory.projected is None:
            memory.projected = self._reader.project(memory.spatial)
        return memory.projected

    def _decode(
        self,
        coarse: torch.Tensor,
        features: Sequence[FrameFeatures],
        points: tuple[torch.Tensor, torch.Tensor] | None,
        mask_logits: torch.Tensor | None,
        multimask: bool,
        is_there: bool = False,
    ) -> Decoded:
        batch = len(coarse)
        if points is None and mask_logits is None:
            sparse, dense = (part.expand(batch, *part.shape[1:]) for part in self._no_prompts)
        else:
            sparse, dense = self._prompts(points=points or self._no_points, boxes=None, masks=mask_logits)
        masks, ious, tokens, score = self._decoder(
            image_embeddings=coarse,
            image_pe=self._image_pe,
            sparse_prompt_embeddings=sparse.to(self.dtype),
            dense_prompt_embeddings=dense.to(self.dtype),
            multimask_output=multimask,
            repeat_image=False,
            high_res_features=[
                torch.stack([f.fine for f in features]),
                torch.stack([f.middle for f in features]),
            ],
        )
        masks, ious = masks.float(), ious.float()
        token = tokens[:, 0]
        best = ious.argmax(dim=-1) if multimask else torch.zeros(batch, dtype=torch.long, device=self.device)
        rows = torch.arange(batch, device=self.device)
        if multimask and tokens.shape[1] > 1:
            token = tokens[rows, best]
        pointer = self._pointer(token)
        if is_there or not self._model.pred_obj_scores:
            # The user's prompt shows that it is there, or the model has no object score.
            score = torch.full((batch, 1), MASK_PROMPT_LOGIT, device=self.device)
        return Decoded(masks[rows, best], ious[rows, best], score[:, 0].float(), pointer)

    @torch.inference_mode()
    def settled(self, decoded: Decoded) -> Decoded:
        """Return the answers, without a mask and with the "no object" pointer for those that are absent by
        their object score."""
        if not self._model.pred_obj_scores:
            return decoded
        present = (decoded.object_score > 0)[:, None]
        return replace(
            decoded,
            logits=torch.where(present[..., None], decoded.logits, NO_OBJECT_LOGIT),
            pointer=self._with_absence(decoded.pointer, present),
        )

    def _with_absence(self, pointer: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        present = present.to(pointer.dtype)
        if self._model.fixed_no_obj_ptr:
            pointer = present * pointer
        return pointer + (1 - present) * self._model.no_obj_ptr.detach().to(pointer.dtype)

    # --- remembering --------------------------------------------------------------------------------

    @torch.inference_mode()
    def decode_mask(self, features: FrameFeatures, mask: torch.Tensor) -> Decoded:
        """Return a mask prompt, unchanged, as an answer of the decoder (a batch of one).

        Args:
            mask: float32 (1, 1, size, size) in [0, 1].
        """
        binary = (mask >= 0.5).float()
        logits = F.interpolate(
            (binary * 2 - 1) * MASK_PROMPT_LOGIT,
            scale_factor=0.25,
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        pointer = torch.zeros(1, self._model.hidden_dim, device=self.device, dtype=self.dtype)
        present = binary.any()[None]
        if self._model.use_obj_ptrs_in_encoder:
            # Only the pointer of this pass is used; sam2 gives the decoder no memory here.
            downsampled = self._model.mask_downsample(binary)
            found = self._decode(features.coarse[None], [features], None, downsampled, False)
            pointer = self.settled(found).pointer
            if self._model.pred_obj_scores:
                pointer = self._with_absence(pointer, present[:, None])
        score = (2 * present.float() - 1) * MASK_PROMPT_LOGIT
        return Decoded(logits[:, 0], torch.ones(1, device=self.device), score, pointer)

    @torch.inference_mode()
    def remember(
        self, features: Sequence[FrameFeatures], decoded: Decoded, *, prompted: bool
    ) -> list[Memory]:
        """Encode each frame's answer into a memory for later frames.

        Args:
            prompted: whether the masks come from the user's prompts; they are remembered as hard masks.
        """
        model = self._model
        size = (self.input_size, self.input_size)
        full = F.interpolate(decoded.logits[:, None], size=size, mode="bilinear", align_corners=False)
        if prompted and model.binarize_mask_from_pts_for_mem_enc:
            shown = (full > 0).float()
        else:
            shown = torch.sigmoid(full)
        shown = shown * model.sigmoid_scale_for_mem_enc + model.sigmoid_bias_for_mem_enc
        coarse = torch.stack([f.coarse for f in features])
        encoded = self._memory_encoder(
            coarse.to(self._memory_dtype), shown.to(self._memory_dtype), skip_mask_sigmoid=True
        )
        spatial = encoded["vision_features"].to(self.dtype)
        if model.no_obj_embed_spatial is not None:
            absent = (decoded.object_score <= 0)[:, None].to(spatial.dtype)
            embedding = model.no_obj_embed_spatial.detach().to(spatial.dtype)
            spatial = spatial + (absent * embedding)[..., None, None]
        flat = spatial.flatten(2).transpose(1, 2)
        return [Memory(flat[n].clone(), pointer) for n, pointer in enumerate(decoded.pointer)]
