"""What the command line's words mean."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from SAM2PropagateLib.cli.evaluate import EvaluateCommand
from SAM2PropagateLib.cli.experiment import KINDS, SLICES, STRUCTURES, ExperimentCommand
from SAM2PropagateLib.cli.main import parse_arguments
from SAM2PropagateLib.cli.models import ModelsCommand
from SAM2PropagateLib.cli.options import SegmentArguments
from SAM2PropagateLib.cli.segment import SegmentCommand
from SAM2PropagateLib.errors import InputError
from SAM2PropagateLib.evaluation import one_slice
from SAM2PropagateLib.experiment import plan
from SAM2PropagateLib.run_options import RunOptions


def segment(arguments: str) -> SegmentCommand:
    command = parse_arguments(["segment", "v.nrrd", "--out", "o.seg.nrrd", *arguments.split()])
    assert isinstance(command, SegmentCommand)
    return command


def refusal(*arguments: str) -> InputError:
    with pytest.raises(InputError) as caught:
        parse_arguments(arguments)
    assert "\n" not in str(caught.value)
    return caught.value


def test_each_prompt_belongs_to_the_segment_before_it() -> None:
    command = segment(
        "--segment liver --point-ras 1 2 3 --negative-ras 4 5 6 --segment spleen --box-ras 1 2 3 4 5 3 "
        "--absent-ras 7 8 9 --range 2 5 --segment liver --point-ras 0 0 0"
    )
    liver, spleen = command.segments
    assert liver == SegmentArguments(
        "liver", (((1.0, 2.0, 3.0), True), ((4.0, 5.0, 6.0), False), ((0.0, 0.0, 0.0), True))
    )
    assert spleen == SegmentArguments(
        "spleen",
        boxes=(((1.0, 2.0, 3.0), (4.0, 5.0, 3.0)),),
        absent=((7.0, 8.0, 9.0),),
        range=(2, 5),
    )


def test_strokes_have_as_many_points_as_they_need() -> None:
    (only,) = segment(
        "--scribble-ras 1 2 3 -4 -5.5 -6 --negative-scribble-ras 7 8 9 --lasso-ras 0 0 3 9 0 3 0 9 3 "
        "--exact-lasso-ras 0 0 3 9 0 3 0 9 3 --scribble-ras 0 0 0 --curve-ras 1 2 3 4 5 60"
    ).segments
    assert only.scribbles == (
        (((1.0, 2.0, 3.0), (-4.0, -5.5, -6.0)), True),
        (((7.0, 8.0, 9.0),), False),
        (((0.0, 0.0, 0.0),), True),
    )
    corners = ((0.0, 0.0, 3.0), (9.0, 0.0, 3.0), (0.0, 9.0, 3.0))
    assert only.lassos == ((corners, False), (corners, True))
    assert only.curves == (((1.0, 2.0, 3.0), (4.0, 5.0, 60.0)),)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("--scribble-ras 1 2 3 4", "--scribble-ras has 4 numbers, which do not make whole points"),
        ("--lasso-ras 1 2 3 4 5 6", "--lasso-ras has fewer than 3 points"),
        ("--curve-ras 1 2 3", "--curve-ras has fewer than 2 points. Give points along the structure."),
        ("--exact-lasso-ras 1 2", "--exact-lasso-ras has 2 numbers"),
        ("--negative-scribble-ras 1 2 x", "“x” is not a number of millimeters"),
        ("--scribble-ras", "--scribble-ras"),
    ],
)
def test_strokes_with_an_incomplete_point_are_refused(arguments: str, part: str) -> None:
    error = refusal("segment", "v.nrrd", "--out", "o.seg.nrrd", *arguments.split())
    assert error.code == "bad_arguments" and part in str(error)


def test_prompts_without_a_segment_get_the_default_one() -> None:
    (only,) = segment("--point-ras 1 2 3 --range 0 4").segments
    assert only.name == "Segment_1" and only.range == (0, 4)


def test_a_range_before_the_first_segment_holds_for_all_without_their_own() -> None:
    command = segment("--range 1 6 --segment a --point-ras 0 0 0 --segment b --range 2 3 --point-ras 0 0 0")
    assert [one.range for one in command.segments] == [(1, 6), (2, 3)]


@pytest.mark.parametrize(
    ("text", "value"),
    [("-12.5", -12.5), ("-3", -3.0), ("-.5", -0.5), ("-5.", -5.0), ("-1e-3", -0.001), ("-2.5E+1", -25.0)],
)
def test_negative_numbers_are_values(text: str, value: float) -> None:
    three = " ".join([text] * 3)
    command = segment(f"--point-ras {three} --box-ras {three} {three} --absent-ras {text} 0 1")
    (only,) = command.segments
    assert only.points == (((value, value, value), True),)
    assert only.boxes == (((value,) * 3, (value,) * 3),)
    assert only.absent == ((value, 0.0, 1.0),)


@pytest.mark.parametrize(
    ("given", "window"),
    [
        (["400", "40"], (400.0, 40.0)),
        (["1500", "-600"], (1500.0, -600.0)),
        (["bone"], "bone"),
        (["400,40"], (400.0, 40.0)),
    ],
)
@pytest.mark.parametrize("at_the_end", [True, False])
def test_the_window_takes_a_preset_or_two_numbers(given: list[str], window: object, at_the_end: bool) -> None:
    rest = ["v.nrrd", "--point-ras", "1", "2", "3", "--out", "o.seg.nrrd"]
    words = [*rest, "--window", *given] if at_the_end else ["--window", *given, *rest]
    command = parse_arguments(["segment", *words])
    assert isinstance(command, SegmentCommand)
    assert command.window == window and command.volume == Path("v.nrrd")


def test_the_defaults() -> None:
    command = segment("--point-ras 1 2 3")
    assert command.model == "sam2propagate_tiny" and command.device == "auto" and command.axis is None
    assert (command.crop, command.run.direction, command.run.reach, command.window) == (
        "auto",
        "both",
        None,
        None,
    )
    assert not (command.overwrite or command.keep_partial or command.debug)


def test_every_option_arrives() -> None:
    command = segment(
        "--prompts p.json --series 1.2.3 --part 2 --axis j --direction backward --reach 7 --crop none "
        "--model my.pt --config my.yaml --device cuda:1 --input-size 512 --precision float32 --report r.json "
        "--overwrite --keep-partial --debug"
    )
    assert command.prompts_file == Path("p.json") and command.series == "1.2.3" and command.axis == 1
    assert command.part == "2" and segment("--point-ras 1 2 3 --part all").part == "all"
    assert (command.run.direction, command.run.reach, command.crop) == ("backward", 7, None)
    assert (command.model, command.config, command.device) == ("my.pt", "my.yaml", "cuda:1")
    assert command.input_size == 512 and command.report == Path("r.json")
    assert command.precision == "float32" and segment("--point-ras 1 2 3").precision == "auto"
    assert command.overwrite and command.keep_partial and command.debug


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("", "No command"),
        ("paint", "paint"),
        ("segment", "required"),
        ("segment v.nrrd --point-ras 1 2 3", "--out"),
        ("segment v.nrrd --out o.seg.nrrd", "no prompts"),
        ("segment v.nrrd --out o.seg.nrrd --segment liver --range 1 x", "“x” is not a slice index"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2", "--point-ras"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2 three", "“three” is not a number"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2 nan", "“nan” is not a number"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2 -inf", "--point-ras"),
        ("segment v.nrrd --out o.seg.nrrd --range -1 4", "“-1” is not a slice index"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2 3 --reach 0", "“0” is not a whole number"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2 3 --part 0", "“0” is neither a number"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2 3 --part one", "“one” is neither a number"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2 3 --part ²", "“²” is neither a number"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2 ٣", "“٣” is not a number"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2 1_0", "“1_0” is not a number"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2 3 --range 0 ٣", "“٣” is not a slice index"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2 3 --window ٤٠٠ 40", "40"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2 3 --device cuda:٣", "no device “cuda:٣”"),
        ("finetune --cases c --out o.safetensors --seed ²", "“²” is not a whole number from 0"),
        ("finetune --cases c --out o.safetensors --seed ٣", "“٣” is not a whole number from 0"),
        ("finetune --cases c --out o.safetensors --minutes ٣", "“٣” is not a number of minutes"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2 3 --axis x", "invalid choice: 'x'"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2 3 --window 400", "“400” is not a window"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2 3 --window", "--window"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2 3 --window 1e999 40", "“1e999 40” is not a window"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2 3 --window -1e999", "“-1e999” is not a window"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2 -1e999", "“-1e999” is not a number of millimeters"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2 -1e" + "9" * 30, "is not a number of millimeters"),
        ("segment v.nrrd --out o.seg.nrrd --range 0 1000000000", "“1000000000” is not a slice index"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2 3 --prompts p.json", "both in a file"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2 3 --device tpu", "no device “tpu”"),
        ("segment v.nrrd --out o.seg.nrrd --point-ras 1 2 3 --frobnicate", "--frobnicate"),
        ("segment v.nrrd --out o.seg.nrrd --po 1 2 3", "--po"),
        ("models --download a --remove b", "not allowed"),
        ("evaluate --cases c --protocol chen2024", "invalid choice: 'chen2024'"),
        ("evaluate --cases c --model a --model b", "--model is given several times"),
        ("evaluate --cases c --input-size 0", "“0” is not a whole number from 1"),
        ("finetune --cases c --out o.safetensors --input-size -1", "“-1” is not a whole number from 1"),
        ("finetune --cases c --out o.safetensors --batch ٣", "“٣” is not a whole number from 1"),
        ("finetune --cases c --out o.safetensors --epochs 1000000000", "from 1 to 999999999"),
        ("evaluate --cases c d", "--cases names several folders"),
        ("evaluate --cases c --prompt box click", "--prompt box click is no first prompt"),
        ("evaluate --cases c --prompt mask", "--prompt mask is no first prompt"),
        ("evaluate --cases c --slice largest", "--slice belongs to --protocol shen2024"),
        ("evaluate --cases c --structures each", "--structures belongs to --protocol shen2024"),
        ("evaluate --cases c --tolerance 1", "--tolerance belongs to --protocol shen2024"),
        ("evaluate --cases c --resume", "--resume belongs to --protocol shen2024"),
        ("evaluate --cases c --protocol shen2024 --prompt 3 click", "--prompt click is no prompt of"),
        ("evaluate --cases c --protocol shen2024 --correction mask", "makes no corrections"),
        ("evaluate --cases c --protocol shen2024 --axes all", "runs along one axis"),
        ("evaluate --cases c --protocol shen2024 --slice first", "invalid choice: 'first'"),
        ("evaluate --cases c --protocol shen2024 --tolerance -1", "“-1” is not a distance"),
        ("evaluate --cases c --protocol shen2024 --tolerance near", "“near” is not a distance"),
        ("evaluate --cases c --protocol shen2024 --tolerance inf", "“inf” is not a distance"),
        ("evaluate --cases c --protocol shen2024 --tolerance ٣", "“٣” is not a distance"),
        (
            "evaluate --cases c --protocol shen2024 --model a --model b --config x",
            "--config is for one model",
        ),
        ("evaluate --cases c --protocol shen2024 --device tpu", "no device “tpu”"),
    ],
)
def test_a_wrong_option_is_told_in_one_sentence(arguments: str, part: str) -> None:
    assert part in str(refusal(*arguments.split()))


def test_without_a_command_all_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--help"])
    offered = re.findall(r"^    (\w+) ", capsys.readouterr().out, flags=re.M)
    named = re.findall(r"\w+", refusal().hint.partition(";")[0])
    assert "cohort" in offered and named == ["Use", *offered[:-1], "or", offered[-1]]


def test_the_published_experiment_has_words_of_its_own() -> None:
    command = parse_arguments(["evaluate", "--cases", "c", "--protocol", "shen2024"])
    assert isinstance(command, ExperimentCommand)
    assert (command.kinds, command.where) == (("1", "3", "5", "box", "mask"), "middle")
    assert (command.structures, command.tolerance, command.out) == ("together", 2.0, Path("shen2024"))
    assert (command.models, command.motion, command.resume) == (("sam2propagate_tiny",), True, False)
    words = (
        "--model a --model b.pt --model a --prompt mask 1 --slice largest --structures each --tolerance 1.5"
    )
    command = parse_arguments(
        ["evaluate", "--cases", "c", "--protocol", "shen2024", *words.split(), "--motion", "off", "--resume"]
    )
    assert isinstance(command, ExperimentCommand)
    assert (command.models, command.kinds) == (("a", "b.pt"), ("1", "mask"))
    assert (command.where, command.structures, command.tolerance) == ("largest", "each", 1.5)
    assert not command.motion and command.resume


def test_its_words_and_what_it_does_without_them_are_those_of_the_experiment() -> None:
    assert (KINDS, SLICES, STRUCTURES) == (one_slice.KINDS, one_slice.SLICES, plan.STRUCTURES)
    command = parse_arguments(["evaluate", "--cases", "c", "--protocol", "shen2024"])
    assert isinstance(command, ExperimentCommand)
    told = plan.ExperimentOptions(command.kinds, command.where, command.tolerance, command.structures)
    assert told == plan.ExperimentOptions()


def test_an_evaluation_by_a_user_is_as_it_was() -> None:
    command = parse_arguments(["evaluate", "--cases", "c"])
    assert isinstance(command, EvaluateCommand)
    assert (command.prompt, command.correction, command.model) == ("box", "mask", "sam2propagate_tiny")
    command = parse_arguments(["evaluate", "--cases", "c", "--prompt", "click", "--correction", "click"])
    assert isinstance(command, EvaluateCommand)
    assert (command.prompt, command.correction) == ("click", "click")
    assert command.run == RunOptions()
    command = parse_arguments(["evaluate", "--cases", "c", "--axes", "all"])
    assert isinstance(command, EvaluateCommand) and command.run == RunOptions(all_axes=True)


def test_a_segment_needs_a_name() -> None:
    assert "needs a name" in str(refusal("segment", "v", "--out", "o.seg.nrrd", "--segment", " "))


def test_help_and_version_end_well(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, part in (
        (["--help"], "segment"),
        (["segment", "--help"], "--negative-ras"),
        (["models", "--help"], "--download"),
        (["--version"], "SAM2Propagate"),
    ):
        with pytest.raises(SystemExit) as caught:
            parse_arguments(arguments)
        assert caught.value.code == 0
        assert part in capsys.readouterr().out


def test_the_documentation_has_every_option_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    offered = set()
    for command in ("segment", "models"):
        with pytest.raises(SystemExit):
            parse_arguments([command, "--help"])
        offered |= set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", capsys.readouterr().out))
    text = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)) == offered


def test_the_models_command() -> None:
    assert parse_arguments(["models"]) == ModelsCommand(None, None, False, False)
    assert parse_arguments(["models", "--download", "big", "--yes"]) == ModelsCommand(
        "big", None, True, False
    )
