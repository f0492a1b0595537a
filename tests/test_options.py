"""Options with absurd values, of every script: wrong usage, exit code 2, before anything is read or written."""

import math
from pathlib import Path

import pytest

from ecg_finetune import checkpoint, cli
from ecg_finetune.device import choose_device
from ecg_finetune.documents import SCRIPTS, load_parser
from ecg_finetune.files import UserError

NO_NUMBERS = ["", " ", "1_000", "\u0661", "\uff15", "nan", "inf", "-inf", "1e400", "9" * 5000, "0x10", "1,000", "\0"]
ABSURD_NUMBERS = ["-1", "-0", "0", str(10**12), str(10**30), "1e300", "1.5", "1e-400"]
NO_PATHS = ["", "x\0y", "a" * 5000, "a/" * 1500]
# Texts of any form, which are looked at when they are used.
TEXTS = {
    "--by",
    *("--device", "--channel", "--labels", "--combine-by-max", "--name", "--data", "--license"),
}
# Of values between commas.
LISTS = {"snr", "kinds", "lr", "augment_snr"}

PARSERS = {script: load_parser(script) for script in SCRIPTS}
OPTIONS = [
    pytest.param(parser, action, id=f"{Path(script).name} {action.option_strings[0]}")
    for script, parser in PARSERS.items()
    for action in parser._actions
    if action.option_strings and action.nargs != 0
]


def parsed(parser, action, text: str, capsys):
    """Return the value of an option; None where it is refused, in one line that names the option."""
    needed = [
        f"{other.option_strings[0]}={(other.choices or 'x')[0]}"
        for other in parser._actions
        if other.required and other.option_strings
    ]
    try:
        return getattr(parser.parse_args([*needed, f"{action.option_strings[0]}={text}"]), action.dest)
    except SystemExit as end:
        told = capsys.readouterr().err.splitlines()[-1]
        assert end.code == 2 and f"error: argument {action.option_strings[0]}: " in told
        assert action.choices or (told.isprintable() and len(told) < 600)
        return None


@pytest.fixture(scope="module")
def link_to_itself(tmp_path_factory):
    path = tmp_path_factory.mktemp("links") / "link"
    path.symlink_to("link")
    return path


@pytest.mark.parametrize(("parser", "action"), OPTIONS)
def test_an_absurd_value_is_wrong_usage(parser, action, capsys, link_to_itself):
    if action.type is Path:
        for text in [*NO_PATHS, str(link_to_itself), str(link_to_itself / "below")]:
            assert parsed(parser, action, text, capsys) is None, text[:20]
    elif (action.choices or action.type is not None) and action.option_strings[0] not in TEXTS:
        for text in NO_NUMBERS:
            if text == "1,000" and action.dest in LISTS:
                continue
            assert parsed(parser, action, text, capsys) is None, text[:20]
        for text in ABSURD_NUMBERS:
            value = parsed(parser, action, text, capsys)
            if isinstance(value, tuple):
                assert all(math.isfinite(each) for each in value)
            else:
                assert value is None or (not isinstance(value, int) and math.isfinite(value)) or 0 <= value <= 2**32
    else:
        assert action.option_strings[0] in TEXTS


def test_paths_are_taken_as_they_are_but_for_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert cli.usable_path("~/ecg") == Path("/somewhere/ecg")
    for text in (".", "..", "-", " ", "é", "a\nb", "./~", "a" * 255, "/".join("a" * 190)):
        assert cli.usable_path(text) == Path(text)


def test_numbers_that_are_meant_are_taken():
    assert [cli.positive_int(text) for text in ("1", "007", "4294967295")] == [1, 7, 2**32 - 1]
    assert cli.non_negative_int("0") == 0 and cli.fraction("1e-1") == 0.1 and cli.real_number("-2.5") == -2.5
    for address in ("tcp://scheduler:8786", "tls://10.0.0.1:1", "127.0.0.1:8786", "tcp://[::1]:8786"):
        assert cli.scheduler_address(address) == address


def test_a_base_folder_from_the_environment_is_looked_at_too(monkeypatch, capsys):
    monkeypatch.setenv("ECG_FINETUNE_BASE", "a/" * 1500)
    with pytest.raises(SystemExit) as end:
        cli.execute(PARSERS[SCRIPTS[0]], None, [])
    assert end.value.code == 2 and "ECG_FINETUNE_BASE" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("text", NO_PATHS)
def test_the_paths_of_the_checkpoint_module_too(text, capsys):
    with pytest.raises(SystemExit) as end:
        checkpoint.get_parser().parse_args(["show", text])
    assert end.value.code == 2 and "error: argument FILE: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", ["", "gpu", "cuda:-1", "cuda:" + "9" * 20, "cuda:9", "meta", "\udcff", "9" * 5000])
def test_a_device_that_is_none(name):
    with pytest.raises(UserError, match="^--device ") as caught:
        choose_device(name)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_an_error_is_one_printable_line_of_bounded_length(capsys):
    def fail(*_):
        raise UserError("one\ntwo \x1b[31m\udcff \u00e9 " + "x" * 10**6)

    parser = cli.stage_parser("Fail.")
    assert cli.execute(parser, fail, []) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: one two \\x1b[31m\\udcff \u00e9 xxx") and told.count("\n") == 1
    assert told.removesuffix("\n").isprintable() and len(told) < 4000


def test_a_text_that_cannot_be_written_is_one_line(tmp_path, capsys):
    def write(*_):
        (tmp_path / "a").write_text("\udcff", encoding="utf-8")

    assert cli.execute(cli.stage_parser("Write."), write, []) == 1
    assert capsys.readouterr().err.startswith("error: '\\udcff': not to be written")
