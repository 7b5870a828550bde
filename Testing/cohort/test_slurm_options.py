"""What the words after `--slurm` mean: a partition, and options of sbatch."""

from __future__ import annotations

import pytest

from SAM2PropagateLib.cohort.fleet import SlurmOptions, slurm_options
from SAM2PropagateLib.errors import InputError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("gpu", SlurmOptions("gpu", 4, 8192, None, ())),
        ("gpu --gres=gpu:1", SlurmOptions("gpu", others=("--gres=gpu:1",))),
        ("gpu --cpus-per-task=8 --mem=32G --time=12:00:00", SlurmOptions("gpu", 8, 32768, "12:00:00")),
        ("gpu --cpus-per-task 8 --mem 32G -t 1-0", SlurmOptions("gpu", 8, 32768, "1-0")),
        ("gpu -c 2 -t 30", SlurmOptions("gpu", 2, 8192, "30")),
        (
            "gpu -A project --exclusive -q long",
            SlurmOptions("gpu", others=("-A project", "--exclusive", "-q long")),
        ),
        ("'big gpu' --comment='two words'", SlurmOptions("big gpu", others=("--comment=two words",))),
        ("gpu -c 2 -c 6", SlurmOptions("gpu", 6)),
    ],
)
def test_words(text: str, wanted: SlurmOptions) -> None:
    assert slurm_options(text) == wanted


@pytest.mark.parametrize(
    ("memory", "megabytes"),
    [("4096", 4096), ("4096M", 4096), ("4G", 4096), ("4g", 4096), ("1T", 1 << 20), ("4194304K", 4096)],
)
def test_main_memory_is_read_as_slurm_does(memory: str, megabytes: int) -> None:
    assert slurm_options(f"gpu --mem={memory}").memory_mb == megabytes


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "names no partition"),
        ("   ", "names no partition"),
        ("--gres=gpu:1", "names no partition"),
        ("gpu cpu", "“cpu” is no option"),
        ("gpu --gres=gpu:1 8", "“8” is no option"),
        ("gpu 'half", "cannot be read"),
        ("gpu -c 0", "“0” is no number of cores"),
        ("gpu -c two", "“two” is no number of cores"),
        ("gpu -c", "“” is no number of cores"),
        ("gpu -c ٣", "“٣” is no number of cores"),
        ("gpu --mem=٣G", "“٣G” is no amount of memory"),
        ("gpu --mem=lots", "“lots” is no amount of memory"),
        ("gpu --mem=0", "“0” is no amount of memory"),
        ("gpu --mem=100K", "“100K” is no amount of memory"),
        ("gpu --mem=-4G", "“-4G” is no amount of memory"),
        ("gpu --mem=", "“” is no amount of memory"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_an_example(text: str, part: str) -> None:
    with pytest.raises(InputError) as error:
        slurm_options(text)
    assert error.value.code == "bad_slurm" and part in error.value.sentence
    assert '--slurm "gpu --gres=gpu:1 --mem=16G"' in error.value.hint
