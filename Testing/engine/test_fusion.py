"""What the model finds, weighed against the mask that the motion carries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from SAM2PropagateLib.engine.appearance import Appearance
from SAM2PropagateLib.engine.family import Decoded, Recall
from SAM2PropagateLib.engine.fusion import Carried, fused, held
from SAM2PropagateLib.engine.motion import SIDE
from SAM2PropagateLib.engine.results import FrameMask
from SAM2PropagateLib.engine.session import EngineSession
from SAM2PropagateLib.engine.steps import FrameFeatures
from SAM2PropagateLib.prompts.frame_prompts import FramePrompts, ResolvedSegment
from SAM2PropagateLib.run_options import RunRequest
from Testing.engine.fake_steps import FakeSteps, session

GRID = 96


def disc(x: float, y: float, radius: float = 20, side: int = GRID) -> torch.Tensor:
    """Logits (side, side) of a disc with a sharp edge; places and radius in pixels of `GRID`."""
    rows, columns = np.mgrid[0:side, 0:side] * (GRID / side)
    depth = radius - np.hypot(columns - x, rows - y)
    return torch.from_numpy(np.clip(depth * 4, -12, 12)).float()


def decoded(*logits: torch.Tensor, iou: float = 0.8, score: float = 5.0) -> Decoded:
    count = len(logits)
    return Decoded(
        torch.stack(logits), torch.full((count,), iou), torch.full((count,), score), torch.zeros(count, 8)
    )


def flow(x: float = 0, y: float = 0) -> np.ndarray:
    return np.broadcast_to(np.float16([x, y]), (SIDE, SIDE, 2)).copy()


def dice(one: torch.Tensor, other: torch.Tensor) -> float:
    first, second = one > 0, other > 0
    return 2 * int((first & second).sum()) / int(first.sum() + second.sum())


NOTHING = torch.full((GRID, GRID), -12.0)
# A frame of which nothing is known.
BLANK = [torch.zeros(1, SIDE, SIDE)]


def carried(logits: torch.Tensor) -> Carried:
    return Carried.of(decoded(logits), BLANK)


def after(answer: Decoded, before: list[Carried], flows: list[np.ndarray]) -> tuple[Decoded, list[Carried]]:
    """The fused answers on frames of which nothing is known."""
    return fused(answer, before, flows, [BLANK] * len(before))


@pytest.mark.parametrize("grid", [64, GRID, 128, 256])
def test_a_model_without_trust_in_its_mask_leaves_the_moved_one(grid: int) -> None:
    before = carried(disc(40, 50, side=grid))
    # Ten pixels of the flow's grid are five of the logits': the disc was farther left and farther down.
    answer, _ = after(decoded(torch.full((grid, grid), -12.0), iou=0.0), [before], [flow(-10, 6)])
    assert answer.logits.shape == (1, grid, grid)
    assert dice(answer.logits[0], disc(45, 47, side=grid)) > 0.97


@pytest.mark.parametrize(("iou", "frames"), [(1.0, 1), (0.5, 3), (0.35, 8), (0.0, None)])
def test_the_surer_the_model_the_sooner_its_mask_prevails(iou: float, frames: int | None) -> None:
    mask, found = carried(disc(40, 48)), disc(60, 48)
    prevailed = None
    for n in range(1, 30):
        answer, (mask,) = after(decoded(found, iou=iou), [mask], [flow()])
        if prevailed is None and dice(answer.logits[0], found) > 0.95:
            prevailed = n
    assert prevailed == frames


def test_each_of_a_batch_is_moved_by_its_own_flow() -> None:
    before = [carried(disc(40, 50)), carried(disc(60, 30))]
    answer, masks = after(decoded(NOTHING, NOTHING, iou=0.0), before, [flow(-10, 0), flow(0, 10)])
    assert dice(answer.logits[0], disc(45, 50)) > 0.97
    assert dice(answer.logits[1], disc(60, 25)) > 0.97
    assert len(masks) == 2


def test_a_mask_stays_crisp_and_in_place_over_a_hundred_frames() -> None:
    start = disc(48, 48)
    mask = carried(start)
    for n in range(100):
        # Half a pixel to and fro: each step has to resample.
        way = flow(0.5 if n % 2 else -0.5, 0.25 if n % 2 else -0.25)
        answer, (mask,) = after(decoded(start, iou=0.0), [mask], [way])
    assert dice(answer.logits[0], start) > 0.97
    blurred = (answer.logits[0].abs() < 3).sum()
    assert blurred < 2 * (start.abs() < 3).sum()


def test_where_the_image_goes_on_beyond_the_picture_so_does_the_mask() -> None:
    before = carried(disc(-4, 48))
    answer, _ = after(decoded(NOTHING, iou=0.0), [before], [flow(-8, 0)])
    assert (answer.logits[0] > 0)[48, 0]


def test_the_appearance_counts_near_the_edge_alone() -> None:
    # On this frame the disc is two pixels larger, and there is another one that looks the same.
    larger, other = disc(40, 40, radius=22), disc(85, 85, radius=8)
    alike = torch.maximum(larger, other)[None].sign()
    appearance = Appearance(torch.ones(1))
    for edge, expected in ((disc(40, 40), larger), (disc(40, 40, radius=24), larger)):
        before = Carried(carried(edge).mask, appearance)
        answer, (then,) = fused(decoded(NOTHING, iou=0.0), [before], [flow()], [[alike]])
        assert dice(answer.logits[0], expected) > dice(edge, expected) + 0.01
        assert not (answer.logits[0] > 0)[75:, 75:].any()
        assert then.appearance is appearance
    before = Carried(torch.full((SIDE, SIDE), -6.0), appearance)
    assert not (fused(decoded(NOTHING), [before], [flow()], [[alike]])[0].logits > 0).any()


def pictured(gray: torch.Tensor) -> list[torch.Tensor]:
    """A frame's maps with its gray values alone, about -2 to 2."""
    return [gray[None]]


def carried_over(start: torch.Tensor, pictures: Sequence[torch.Tensor]) -> torch.Tensor:
    """The logits on the last of these frames, between which nothing moves and the model finds nothing."""
    mask = carried(start)
    for gray in pictures:
        answer, (mask,) = fused(decoded(NOTHING, iou=0.0), [mask], [flow()], [pictured(gray)])
    return answer.logits[0]


@pytest.mark.parametrize("grid", [GRID, 256])
def test_a_ragged_edge_is_drawn_to_the_edge_of_the_picture(grid: int) -> None:
    true, shown = disc(48, 48, side=grid), disc(48, 48, side=SIDE).sign()
    angle = torch.linspace(0, 9 * 2 * torch.pi, grid).sin()
    ragged = disc(48, 48, radius=20, side=grid) + 12 * angle[None, :] * angle[:, None]
    assert dice(ragged, true) < 0.97
    answer, _ = fused(
        decoded(torch.full((grid, grid), -12.0), iou=0.0), [carried(ragged)], [flow()], [pictured(shown)]
    )
    assert dice(answer.logits[0], true) > dice(ragged, true) + 0.01


def test_what_is_thin_stays_where_the_picture_shows_it() -> None:
    bar, shown = torch.full((GRID, GRID), -6.0), torch.zeros(SIDE, SIDE)
    bar[20:76, 47:49], shown[40:152, 94:98] = 6.0, 0.5
    assert dice(carried_over(bar, [shown] * 30), bar) > 0.95


def many_discs() -> torch.Tensor:
    """The logits of nine small discs."""
    places = [(x, y) for x in (16, 48, 80) for y in (16, 48, 80)]
    return torch.stack([disc(x, y, radius=4) for x, y in places]).amax(0)


def wall() -> torch.Tensor:
    """The logits of a ring four pixels wide."""
    return torch.minimum(disc(48, 48, radius=30), -disc(48, 48, radius=26))


def noise(count: int) -> list[torch.Tensor]:
    """Pictures without anything but noise."""
    random = torch.Generator().manual_seed(1)
    return [0.3 * torch.randn(SIDE, SIDE, generator=random) for _ in range(count)]


@pytest.mark.parametrize(
    "start", [disc(48, 48, 3), disc(48, 48, 5), disc(48, 48, 10), disc(48, 48, 20), many_discs(), wall()]
)
def test_noise_alone_makes_no_mask_vanish(start: torch.Tensor) -> None:
    found = carried_over(start, noise(10))
    assert 0.7 < (found > 0).sum() / (start > 0).sum() < 1.2


def test_a_large_mask_becomes_smooth() -> None:
    ragged = disc(48, 48, 40) + 8 * torch.randn(GRID, GRID, generator=torch.Generator().manual_seed(2))
    before, found = (ragged > 0).float(), (carried_over(ragged, noise(1)) > 0).float()
    edges = [sum(float(one.diff(dim=axis).abs().sum()) for axis in (0, 1)) for one in (before, found)]
    assert edges[1] < 0.7 * edges[0]


def test_a_faint_edge_counts_where_there_is_no_other() -> None:
    true = disc(48, 48, 30)
    ragged = true + 12 * torch.randn(GRID, GRID, generator=torch.Generator().manual_seed(2))
    found = carried_over(ragged, [0.2 * (disc(48, 48, 30, side=SIDE) > 0).float()])
    assert dice(found, true) > dice(ragged, true) + 0.02


def test_each_of_a_batch_has_its_own_picture() -> None:
    ragged = disc(48, 48) + 8 * torch.randn(GRID, GRID, generator=torch.Generator().manual_seed(1))
    shown = [pictured(disc(48, 48, side=SIDE).sign()), pictured(torch.zeros(SIDE, SIDE))]
    both = [carried(ragged), carried(disc(30, 30, 5))]
    nothing = decoded(NOTHING, NOTHING, iou=0.0)
    together, _ = fused(nothing, both, [flow()] * 2, shown)
    for n, (mask, maps) in enumerate(zip(both, shown, strict=True)):
        alone, _ = fused(decoded(NOTHING, iou=0.0), [mask], [flow()], [maps])
        torch.testing.assert_close(together.logits[n], alone.logits[0])


def test_only_a_segment_that_is_known_to_be_there_is_held() -> None:
    absent = decoded(NOTHING, NOTHING, score=-7.0)
    assert held(absent, [False, False]) is absent
    scores = held(absent, [False, True]).object_score
    assert scores[0] == -7
    assert 0 < scores[1] < 0.1
    assert held(decoded(NOTHING, score=3.0), [True]).object_score[0] == 3


# --- in a session -----------------------------------------------------------------------------------


class Lost(FakeSteps):
    """A model that finds nothing after the keyframe, does not trust that, and gives this object score."""

    def __init__(self, *, score: float) -> None:
        super().__init__()
        self._score = score

    def track(self, features: Sequence[FrameFeatures], recalls: Sequence[Recall]) -> Decoded:
        found = super().track(features, recalls)
        count = len(features)
        return Decoded(
            torch.full_like(found.logits, -5.0),
            torch.zeros(count),
            torch.full((count,), self._score),
            found.pointer,
        )

    def settled(self, decoded: Decoded) -> Decoded:
        there = (decoded.object_score > 0)[:, None, None]
        return Decoded(
            torch.where(there, decoded.logits, -1024.0),
            decoded.iou,
            decoded.object_score,
            decoded.pointer,
        )


def moving(frames: int = 8) -> np.ndarray:
    """uint8 (frames, 64, 64): a textured block that moves by two pixels a frame over a textured ground."""
    random = np.random.default_rng(1)
    ground = random.integers(20, 60, (64, 64)).astype(np.uint8)
    block = random.integers(150, 250, (20, 20)).astype(np.uint8)
    volume = np.stack([ground] * frames)
    for n in range(frames):
        volume[n, 20:40, 10 + 2 * n : 30 + 2 * n] = block
    return volume


def carry(opened: EngineSession, *, is_ranged: bool = False, last: int = 7) -> dict[int, FrameMask]:
    masks: dict[int, FrameMask] = {}
    mask = moving()[0] >= 150
    resolved = ResolvedSegment(
        "block", {0: FramePrompts(mask=mask)}, frozenset(), 0, last, is_ranged=is_ranged
    )
    opened.propagate(RunRequest((resolved,)), lambda one: masks.__setitem__(one.frame, one))
    return masks


def share(mask: np.ndarray, frame: int) -> float:
    expected = moving()[frame] >= 150
    return 2 * int((mask & expected).sum()) / max(1, int(mask.sum() + expected.sum()))


def test_a_structure_that_the_model_loses_is_carried_by_the_motion() -> None:
    with_motion = carry(session(moving(), steps=Lost(score=1.0), motion_budget=1 << 24))
    without = carry(session(moving(), steps=Lost(score=1.0)))
    assert share(with_motion[7].mask, 7) > 0.85
    assert not without[7].mask.any()


def test_a_structure_that_the_model_calls_absent_ends_unless_a_range_holds_it() -> None:
    free = carry(session(moving(), steps=Lost(score=-5.0), motion_budget=1 << 24))
    ranged = carry(session(moving(), steps=Lost(score=-5.0), motion_budget=1 << 24), is_ranged=True)
    assert not free[5].mask.any()
    assert share(ranged[7].mask, 7) > 0.85
    # The model says otherwise: that is worth a look.
    assert ranged[7].doubt > 0.8


def growing() -> tuple[np.ndarray, np.ndarray]:
    """uint8 (8, 64, 64), and bool: a block grows by a pixel a frame all around, over texture that stays."""
    texture = np.random.default_rng(1).integers(40, 100, (64, 64))
    block = np.zeros((8, 64, 64), bool)
    for n in range(8):
        block[n, 20 - n : 44 + n, 20 - n : 44 + n] = True
    return (texture + 100 * block).astype(np.uint8), block


def test_a_structure_that_grows_without_motion_is_followed_by_its_gray_value() -> None:
    volume, block = growing()
    opened = session(volume, steps=Lost(score=1.0), motion_budget=1 << 24)
    masks: dict[int, np.ndarray] = {}
    resolved = ResolvedSegment("block", {0: FramePrompts(mask=block[0])}, frozenset(), 0, 7)
    opened.propagate(RunRequest((resolved,)), lambda one: masks.__setitem__(one.frame, one.mask))
    found = masks[7]
    assert 2 * (found & block[7]).sum() / (found.sum() + block[7].sum()) > 0.95


def test_giving_a_range_computes_the_frames_again() -> None:
    opened = session(moving(), steps=Lost(score=-5.0), motion_budget=1 << 24)
    carry(opened)
    assert sorted(carry(opened, is_ranged=True)) == [*range(1, 8)]
    assert carry(opened, is_ranged=True) == {}


def test_pairs_are_registered_once_for_runs_and_corrections() -> None:
    opened = session(moving(), motion_budget=1 << 24)
    assert opened.motion is not None
    carry(opened)
    assert opened.motion.registered_pairs == 7
    carry(opened, is_ranged=True)
    assert opened.motion.registered_pairs == 7


def test_pairs_are_registered_ahead_outward_from_the_previewed_frame() -> None:
    opened = session(moving(), motion_budget=1 << 24)
    assert opened.motion is not None
    opened.preview(3, FramePrompts(mask=moving()[3] >= 150), segment="block")
    opened.encode_ahead([3, 4, 2, 5, 1], lambda: False)
    assert opened.motion.registered_pairs == 4
