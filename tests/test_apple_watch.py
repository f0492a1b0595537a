"""ECGs of Apple Watches, in the languages and forms in which phones export them."""

import datetime

import numpy as np
import pytest
import wfdb
from apple_export import BIRTH, ENGLISH, GERMAN, NAME, apple_csv, watch_signal
from hypothesis import given, settings
from hypothesis import strategies as st

from ecg_finetune.apple_watch import is_apple_watch, read_apple_watch
from ecg_finetune.recordings import read_lead, read_recording
from ecg_finetune.waveform import RecordError

SIGNAL = watch_signal(samples=600)
BARE = {"decimal": ",", "rate": "511,422 hertz"}


@pytest.mark.parametrize(
    ("form", "rate"),
    [
        ({}, 512),
        ({"rate": "511.422 hertz"}, 511.422),
        ({"rate": '"511,422 hertz"', "decimal": ","}, 511.422),
        ({**BARE, "keys": GERMAN, "lead": "Ableitung I"}, 511.422),
        ({**BARE, "rate": "511,562\u00a0Hertz", "device": "Watch6,7"}, 511.562),
        ({"rate": "512 Hertz", "birth": '"15. Januar, 1990"'}, 512),
        ({"rate": "512 hercios", "lead": "Derivación I"}, 512),
        ({"rate": "512赫兹", "keys": ["姓名", "出生日期", *ENGLISH[2:]], "lead": "导联 I"}, 512),
        ({"rate": "512 ヘルツ", "lead": "誘導 I"}, 512),
        ({"name": None}, 512),
        ({"blank": True}, 512),
        ({"blank": True, "end": "\r\n", **BARE, "name": None}, 511.422),
        ({"name": '"Person, Test"', "birth": "1990-01-15"}, 512),
        ({"number": "{:.1f}", "unit": "uV"}, 512),
        ({"number": "{:+.2e}"}, 512),
        ({"number": '"{:.3f}"'}, 512),
        ({"unit": "\u03bcV", "end": "\r\n"}, 512),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_every_form_gives_the_samples(tmp_path, form, rate, encoding):
    path = tmp_path / "ecg_2026-03-14.csv"
    path.write_bytes(apple_csv(SIGNAL, **form).encode(encoding))
    found = read_recording(path)
    written = [float(form.get("number", "{:.3f}").replace('"', "").format(value)) for value in SIGNAL]
    assert list(found.leads) == ["I"] and np.allclose(found.leads["I"], np.array(written) / 1000, atol=1e-9)
    assert found.leads["I"].dtype == np.float64
    assert (found.rate, found.source, found.device) == (rate, "Apple Watch CSV", "Apple Watch6,7")
    assert found.start == datetime.datetime(2026, 3, 14, 9, 15, tzinfo=datetime.timezone(-datetime.timedelta(hours=4)))


def test_millivolts_large_numbers_and_minus_signs():
    assert np.array_equal(read_apple_watch(apple_csv([0.5, -1.25], unit="mV")).leads["I"], [0.5, -1.25])
    text = apple_csv([]) + "1,234.567\n1.234,567\n\u22122,5\n-180,596\n\n7\n"
    assert np.allclose(read_apple_watch(text).leads["I"] * 1000, [1234.567, 1234.567, -2.5, -180.596, 7])


def test_a_genuine_signal_comes_back(test_data, tmp_path):
    """CinC 2017 signals, as there is no genuine export here."""
    for name in ("A00004", "A00005", "A00009"):
        record = wfdb.rdrecord(str(test_data / "cinc2017/records" / name))
        text = apple_csv(record.p_signal[:, 0] * 1000, keys=GERMAN, rate="300 Hertz", decimal=",")
        (tmp_path / "ecg.csv").write_text(text, encoding="utf-8")
        signal = read_lead(str(tmp_path / "ecg.csv"), lead="I")
        assert signal.rate == 300 and np.abs(signal.values - record.p_signal[:, 0]).max() < 1e-9


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (apple_csv(SIGNAL, rate="fast"), "bad_rate"),
        (apple_csv(SIGNAL, unit="parts"), "unreadable"),
        (apple_csv(SIGNAL) + "12 34\n", "unreadable"),
        (apple_csv(SIGNAL) + f"{NAME}\n", "unreadable"),
        (apple_csv(SIGNAL, rate="5 hertz"), "bad_rate"),
        (apple_csv([]) + "0\n", "ok"),
        (apple_csv([]), "unreadable"),  # no number at all
        ("\n".join([f"Name,{NAME}", f"Date of Birth,{BIRTH}", "Recorded Date,2026-03-14 09:15:00", "0.5"]), "bad_rate"),
        (f"Name,{NAME}\nDate of Birth,{BIRTH}\n", "unreadable"),
        (f"Name\n{NAME}\n{BIRTH}\n1\n2\n", "unreadable"),
        (f"{NAME},{BIRTH}\n" + apple_csv(SIGNAL, rate="512 hertz 512 hertz", unit="?"), "unreadable"),
    ],
)
def test_whatever_is_wrong_with_it_names_and_birth_dates_stay_inside(tmp_path, text, status):
    path = tmp_path / "ecg.csv"
    path.write_text(text, encoding="utf-8")
    try:
        found = read_recording(path)
    except RecordError as error:
        assert error.status in (status, "unreadable")
        shown = f"{error} {error.detail} {error.args}"
    else:
        assert status == "ok"
        shown = repr(found)
    assert not any(part in shown for part in ("Test", "Person", "1990", "Jan"))


def test_a_rate_that_it_does_not_state_can_be_given():
    text = apple_csv(SIGNAL, rate="?")
    with pytest.raises(RecordError, match="--rate"):
        read_apple_watch(text)
    assert read_apple_watch(text, 512).rate == 512
    assert read_apple_watch(apple_csv(SIGNAL), 300).rate == 512


def test_a_plain_table_is_no_export():
    for text in ("I,II\n0.1,0.2\n", "time,mV\n0.0,0.1\n", "-180,596\n-181,2\n", "", "I\n1\n2\n", "512 hertz\n1\n2\n"):
        assert not is_apple_watch(text)


PIECES = ["Name,Test Person", "512 hertz", "Rate,512 hertz", "Rate,\u0665\u0661\u0662 hertz", "Unit,µV", "Unit,mV", "I"]
PIECES += ["1,5", "-3", "1,234.5", "9" * 400, "1e999", "1e99", "\u0663", "nan", "", ",", '"', "\0", "\r"]
PIECES += ["Rate," + "9" * 400 + " hertz"]
LINES = st.lists(st.sampled_from(PIECES) | st.text(max_size=12), max_size=12)


@settings(max_examples=200, deadline=None)
@given(lines=LINES, apple=st.booleans(), end=st.sampled_from(["\n", "\r", "\r\n"]))
def test_any_text_is_read_or_refused(tmp_path_factory, lines, apple, end):
    path = tmp_path_factory.getbasetemp() / "hostile.csv"
    text = end.join([*(["Name,Test Person", "Rate,512 hertz", "Unit,µV", "1,5"] if apple else []), *lines])
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = read_recording(path, rate=500)
    except RecordError as error:
        assert "Person" not in str(error) and error.detail.isprintable() and len(error.detail) < 250
    else:
        values = np.array(list(found.leads.values()))
        assert values.dtype == np.float64 and values.ndim == 2 and not np.isinf(values).any()
