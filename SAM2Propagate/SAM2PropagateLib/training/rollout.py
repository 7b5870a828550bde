"""SAM 2 carried over clips with gradients: the same steps as `engine.steps`, on whole batches.

One frame after the other: what is remembered of the earlier frames conditions the frame's features, the mask
decoder answers, and the answer (the model's own, however imperfect) is encoded into a memory for the frames
to come. The order of memories is `engine.front.Front`'s, so that training and use cannot differ in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from sam2.modeling.sam2_utils import get_1d_sine_pe

from SAM2PropagateLib.engine.family import MASK_PROMPT_LOGIT, NO_OBJECT_LOGIT, LoadedModel, Recall
from SAM2PropagateLib.engine.front import Course, Front, Recollection, Tracked
from SAM2PropagateLib.engine.steps import Memory
from SAM2PropagateLib.training.clips import ClipPlan, ClipPrompt
from SAM2PropagateLib.training.features import Features, FrameStock


@dataclass(frozen=True)
class Answer:
    """The decoder's answer for a batch of frames.

    Attributes:
        masks: (batch, candidates, 4h, 4w) logits as decoded, whatever the object score says.
        ious: (batch, candidates) predicted.
        chosen: (batch,) the candidate with the highest predicted IoU.
        score: (batch, 1) logit that the object is there.
        present: (batch, 1) 1 or 0, whether it counts as there.
        logits: (batch, 4h, 4w) what the engine would show: the chosen mask, or nothing.
        pointer: (batch, 256).
    """

    masks: torch.Tensor
    ious: torch.Tensor
    chosen: torch.Tensor
    score: torch.Tensor
    present: torch.Tensor
    logits: torch.Tensor
    pointer: torch.Tensor


class Rollout:
    """Carries clips through a model.

    Args:
        loaded: its model's parameters get the gradients; it must be in float32.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.model = loaded.model
        self.device = loaded.device
        self.size = loaded.input_size
        self.grid = loaded.input_size // self.model.backbone_stride
        self._image_pe = self.model.sam_prompt_encoder.get_dense_pe().detach()
        self._coarse_position = self._position(
            self.model.image_encoder.neck.position_encoding, self.model.hidden_dim
        )
        self._memory_position = self._position(
            self.model.memory_encoder.position_encoding, self.model.mem_dim
        )

    def _position(self, encoding: torch.nn.Module, channels: int) -> torch.Tensor:
        code = encoding(torch.zeros(1, channels, self.grid, self.grid, device=self.device))
        return code.flatten(2)[0].T.contiguous()

    def run(
        self,
        frames: Sequence[FrameStock],
        prompts: Sequence[ClipPrompt],
        plan: ClipPlan,
        present: torch.Tensor | None = None,
    ) -> list[Answer]:
        """Return answers on the keyframe and on the `plan.length` frames learned from.

        Args:
            frames: warm + length + 1 stocks, the n-th with the n-th frame of every clip.
            prompts: one per clip, all of the plan's kind.
            present: bool (frames, batch), whether the structure is there, if the memories are to be told;
                None: they go by the model's own object score.
        """
        first = self.features(frames[0])
        keyframe = self.keyframe(first, prompts)
        front = Front(
            Course(0, 1),
            self.remember(first, keyframe, prompted=True),
            Recollection(plan.slots, plan.pointers),
        )
        answers = [keyframe]
        for number, stock in enumerate(frames[1:], 1):
            learns = number > plan.warm
            with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
                features = self.features(stock)
                answer = self.track(
                    features, front.recall(), None if present is None else present[number][:, None]
                )
                memory = self.remember(features, answer, prompted=False)
            front.advance(Tracked(answer.logits.detach(), answer.ious, answer.score), memory)
            if learns:
                answers.append(answer)
        return answers

    def features(self, stock: FrameStock) -> Features:
        """Return a batch of frames as features: as they are kept, or encoded now."""
        if len(stock.parts) == 3:
            return Features(*stock.parts)
        pyramid = self.model.image_encoder(stock.parts[0])["backbone_fpn"]
        decoder = self.model.sam_mask_decoder
        return Features(decoder.conv_s0(pyramid[0]), decoder.conv_s1(pyramid[1]), pyramid[2])

    # --- the steps ----------------------------------------------------------------------------------

    def keyframe(self, frames: Features, prompts: Sequence[ClipPrompt]) -> Answer:
        """Return the keyframe's masks from its prompts alone."""
        masks = [prompt.mask for prompt in prompts if prompt.mask is not None]
        if masks:
            return self._given(frames, torch.from_numpy(np.stack(masks)).to(self.device)[:, None].float())
        points = torch.from_numpy(np.stack([prompt.points for prompt in prompts])).to(self.device).float()
        labels = torch.from_numpy(np.stack([prompt.labels for prompt in prompts])).to(self.device).int()
        coarse = frames.coarse + self.model.no_mem_embed.reshape(1, -1, 1, 1)
        return self._decode(coarse, frames, (points, labels), None, points.shape[1], is_keyframe=True)

    def track(self, frames: Features, recall: Recall, present: torch.Tensor | None = None) -> Answer:
        """Return the masks from what is remembered; `present`, bool (batch, 1), overrules the object
        score."""
        conditioned = self._condition(frames.coarse, recall)
        return self._decode(conditioned, frames, None, None, 0, is_keyframe=False, told=present)

    def remember(self, frames: Features, answer: Answer, *, prompted: bool) -> Memory:
        """Return memories of a batch of frames: spatial (batch, h*w, 64), pointer (batch, 256)."""
        model = self.model
        full = F.interpolate(
            answer.logits[:, None].float(), size=(self.size, self.size), mode="bilinear", align_corners=False
        )
        hard = prompted and model.binarize_mask_from_pts_for_mem_enc
        shown = (full > 0).float() if hard else torch.sigmoid(full)
        shown = shown * model.sigmoid_scale_for_mem_enc + model.sigmoid_bias_for_mem_enc
        spatial = model.memory_encoder(frames.coarse, shown, skip_mask_sigmoid=True)["vision_features"]
        if model.no_obj_embed_spatial is not None:
            absent = 1 - answer.present
            spatial = spatial + (absent * model.no_obj_embed_spatial)[..., None, None]
        return Memory(spatial.flatten(2).transpose(1, 2), answer.pointer)

    def _condition(self, coarse: torch.Tensor, recall: Recall) -> torch.Tensor:
        model = self.model
        batch, channels, height, width = coarse.shape
        tokens = [memory.spatial for _, memory in recall.spatial]
        positions = [
            (self._memory_position + model.maskmem_tpos_enc[slot - 1, 0, 0]).expand(batch, -1, -1)
            for slot, _ in recall.spatial
        ]
        pointer_tokens = 0
        if model.use_obj_ptrs_in_encoder and recall.pointers:
            splits = channels // model.mem_dim
            pointers = torch.stack([memory.pointer for _, memory in recall.pointers], dim=1)
            count = pointers.shape[1]
            tokens.append(pointers.reshape(batch, count * splits, model.mem_dim))
            if model.add_tpos_enc_to_obj_ptrs:
                distance = torch.tensor([d / recall.span for d, _ in recall.pointers], device=self.device)
                dim = channels if model.proj_tpos_enc_in_obj_ptrs else model.mem_dim
                code = model.obj_ptr_tpos_proj(get_1d_sine_pe(distance, dim=dim))
            else:
                code = torch.zeros(count, model.mem_dim, device=self.device)
            positions.append(code.repeat_interleave(splits, dim=0).expand(batch, -1, -1))
            pointer_tokens = count * splits
        out = model.memory_attention(
            curr=coarse.flatten(2).permute(2, 0, 1),
            curr_pos=self._coarse_position[:, None].expand(-1, batch, -1),
            memory=torch.cat(tokens, dim=1).transpose(0, 1),
            memory_pos=torch.cat(positions, dim=1).transpose(0, 1),
            num_obj_ptr_tokens=pointer_tokens,
        )
        return out.permute(1, 2, 0).reshape(batch, channels, height, width)

    def _decode(
        self,
        coarse: torch.Tensor,
        frames: Features,
        points: tuple[torch.Tensor, torch.Tensor] | None,
        mask_input: torch.Tensor | None,
        count: int,
        *,
        is_keyframe: bool,
        told: torch.Tensor | None = None,
    ) -> Answer:
        model = self.model
        batch = len(coarse)
        if points is None:
            nothing = -torch.ones(batch, 1, dtype=torch.int32, device=self.device)
            points = (torch.zeros(batch, 1, 2, device=self.device), nothing)
        sparse, dense = model.sam_prompt_encoder(points=points, boxes=None, masks=mask_input)
        masks, ious, tokens, score = model.sam_mask_decoder.predict_masks(
            image_embeddings=coarse,
            image_pe=self._image_pe,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            repeat_image=False,
            high_res_features=[frames.fine, frames.middle],
        )
        masks, ious, score = masks.float(), ious.float(), score.float()
        several = bool(
            mask_input is None
            and model.multimask_output_in_sam
            and (is_keyframe or model.multimask_output_for_tracking)
            and model.multimask_min_pt_num <= count <= model.multimask_max_pt_num
        )
        kept = slice(1, None) if several else slice(0, 1)
        masks, ious = masks[:, kept], ious[:, kept]
        chosen = ious.argmax(dim=1)
        rows = torch.arange(batch, device=self.device)
        own = several and model.use_multimask_token_for_obj_ptr
        pointer = model.obj_ptr_proj(tokens[rows, chosen + 1] if own else tokens[:, 0])
        logits = masks[rows, chosen]
        present = torch.ones_like(score)
        if model.pred_obj_scores and not is_keyframe:
            present = (score > 0 if told is None else told).float()
            logits = torch.where(present[:, :, None] > 0, logits, NO_OBJECT_LOGIT)
            pointer = self._with_absence(pointer, present)
        return Answer(masks, ious, chosen, score, present, logits, pointer)

    def _with_absence(self, pointer: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        if self.model.fixed_no_obj_ptr:
            pointer = present * pointer
        return pointer + (1 - present) * self.model.no_obj_ptr

    def _given(self, frames: Features, mask: torch.Tensor) -> Answer:
        """Return a mask that the user gave: honored as it is; the decoder only makes its pointer."""
        model = self.model
        logits = F.interpolate(
            (mask * 2 - 1) * MASK_PROMPT_LOGIT,
            scale_factor=0.25,
            mode="bilinear",
            align_corners=False,
            antialias=True,
        )
        shown = model.mask_downsample(mask) if model.use_obj_ptrs_in_encoder else None
        decoded = self._decode(frames.coarse, frames, None, shown, 0, is_keyframe=False)
        ones = torch.ones(len(mask), 1, device=self.device)
        return Answer(
            logits,
            ones,
            torch.zeros(len(mask), dtype=torch.long, device=self.device),
            decoded.score,
            ones,
            logits[:, 0],
            decoded.pointer,
        )
