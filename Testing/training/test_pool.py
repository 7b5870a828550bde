"""The looks in use: the same from main memory, from their files and drawn again; limits of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from SAM2PropagateLib.errors import SAM2PropagateError
from SAM2PropagateLib.training.cases import find_cases
from SAM2PropagateLib.training.features import FrameStock
from SAM2PropagateLib.training.image_half import ImageHalf
from SAM2PropagateLib.training.looks import Look
from SAM2PropagateLib.training.pool import CaseShelf, LookPool, LookStore, Source, most_looks
from SAM2PropagateLib.training.recipe import Recipe
from Testing.training.samples import outline_the_bright, write_case

RECIPE = Recipe(batch=2, first_looks=5, steps_per_look=1, most_looks=5, warped=0.5)
Propose = Callable[[torch.Tensor, np.ndarray], "list[np.ndarray]"]


@pytest.fixture
def sources(cases: Path) -> list[Source]:
    return [Source(case, (0,)) for case in find_cases(cases)]


def pool_in(
    folder: Path,
    sources: list[Source],
    propose: Propose = outline_the_bright,
    store: LookStore | None = None,
) -> LookPool:
    def stock(images: torch.Tensor) -> FrameStock:
        return FrameStock((images.half(),))

    return LookPool(sources, CaseShelf(), RECIPE, ImageHalf(stock, propose, 64), store or LookStore(folder))


def same(one: Look, other: Look) -> bool:
    return (
        torch.equal(one.frames.parts[0], other.frames.parts[0])
        and torch.equal(one.masks, other.masks)
        and np.array_equal(one.areas, other.areas)
        and one.owner == other.owner
    )


def test_looks_are_the_same_wherever_they_come_from(tmp_path: Path, sources: list[Source]) -> None:
    pool = pool_in(tmp_path / "a", sources)
    pool.prepare(0)
    looks = [pool.look(number) for number in pool.numbers(0)]
    assert len(looks) == 5
    # Some are made of one slice: these have more frames than the volume has slices.
    assert 0 < sum(len(look.masks) == 20 for look in looks) < 5
    store = LookStore(tmp_path / "b", budget=1)
    small = pool_in(tmp_path / "b", sources, store=store)
    small.prepare(0)
    first, second = (store.get(number) for number in (0, 1))
    assert first is not None and store.get(1) is second, "the last one is kept in main memory"
    assert store.get(0) is not first, "and no other"
    again = pool_in(tmp_path / "a", sources)
    files = sorted((tmp_path / "a").glob("look_*.safetensors"))
    files[1].write_bytes(files[1].read_bytes()[:-100])
    files[2].unlink()
    written = files[0].stat().st_mtime_ns
    again.prepare(0)
    assert files[0].stat().st_mtime_ns == written and files[2].is_file()
    files[3].unlink()  # behind its back
    for number, look in enumerate(looks):
        assert same(look, small.look(number)) and same(look, again.look(number))


def test_old_looks_go(tmp_path: Path, sources: list[Source]) -> None:
    pool, asked = pool_in(tmp_path, sources), []
    pool.prepare(0)
    pool.prepare(2, lambda: asked.append(1))
    assert pool.numbers(2) == range(2, 7) and len(asked) == 2
    assert [path.stem for path in sorted(tmp_path.iterdir())] == [f"look_{n:06d}" for n in range(2, 7)]


def test_what_is_asked_between_looks_can_end_it(tmp_path: Path, sources: list[Source]) -> None:
    def end() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool_in(tmp_path, sources).prepare(0, end)
    assert not list(tmp_path.iterdir())


def test_a_model_that_outlines_nothing_learns_from_the_labels(tmp_path: Path, sources: list[Source]) -> None:
    pool = pool_in(tmp_path, sources, propose=lambda image, points: [])
    pool.prepare(0)
    assert all(len(pool.look(number).masks) <= 10 for number in pool.numbers(0))


def test_the_default_recipe_is_whole_up_to_384_pixels_and_less_beyond() -> None:
    assert [most_looks(Recipe(), size) for size in (256, 384)] == [220, 220]
    assert [most_looks(Recipe(), size) for size in (512, 1024)] == [151, 37]
    assert most_looks(replace(Recipe(), batch=64), 1024) == 64  # a step must find its clips


def test_both_images_of_a_patient_have_one_owner(tmp_path: Path) -> None:
    for name in ("p1_ct", "p1_mr", "p2_ct"):
        write_case(tmp_path / "cases", name)
    sources = [Source(case, (0,)) for case in find_cases(tmp_path / "cases")]
    pool = pool_in(tmp_path / "looks", sources)
    owners = {}
    for number in range(12):
        rng = np.random.default_rng([RECIPE.seed, 1, number])
        rng.random()
        # Each has one structure, so all are as likely.
        source = sources[int(rng.choice(3, p=np.full(3, 1 / 3)))]
        owners.setdefault(source.case.patient, set()).add(pool.look(number).owner)
    assert owners == {"p1": {0}, "p2": {1}}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_a_full_disk_is_told(tmp_path: Path, sources: list[Source]) -> None:
    pool = pool_in(tmp_path, sources)
    (tmp_path / "look_000000.part").symlink_to("/dev/full")
    with pytest.raises(SAM2PropagateError) as error:
        pool.prepare(0)
    assert error.value.code == "disk_full" and not list(tmp_path.iterdir())
