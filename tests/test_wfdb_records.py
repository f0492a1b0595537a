"""Reading one lead: the same numbers as wfdb, whatever the header looks like."""

import math
import os
import random
import tracemalloc
import warnings

import numpy as np
import pytest
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic_records import digital_ecg, write_record

from ecg_finetune.waveform import LEADS as LEADS12
from ecg_finetune.waveform import RecordError, find_lead
from ecg_finetune.wfdb_records import parse_plain, read_record, read_record_lead

LEADS = ["I", "II", "avf", "V1"]


class HeaderMaker:
    """Headers for a file r.dat of some kilobytes: plain ones, of which some places are then made odd."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.oddity = self.random.choice([0, 0.01, 0.05])

    def pick(self, usual, *odd: str) -> str:
        """Return (one of) the usual, rarely one of the odd."""
        if self.random.random() < self.oddity:
            return self.random.choice(odd)
        return usual if isinstance(usual, str) else self.random.choice(usual)

    def signal_line(self, lead: str) -> str:
        formats = ["16x2", "16:3", "16+24", "16x1", "16:0", "16+0", "212", "80", "61", "24", "32", "160", "8", "99"]
        gains = ["1e3", "200(0", "200.0(5)/", "200/mV/s", "200(1.5)/mV", ".5", "200.", "", "200(0)mV", "x", "-"]
        fields = [
            self.pick("r.dat", "r.xyz", "r.dat.gz", "sub/r.dat", "~", "r"),
            self.pick("16", *formats),
            self.pick(["200.0(0)/mV", "1000/mV", "200", "0", "2000(-7)", "31.25(12)/uV", "-200/mV", "0.5"], *gains),
            self.pick("16", "0", "", "-16", "16.0"),
            self.pick(["0", "100", "-3"], "", "1.5"),
            self.pick("-31", "99999", ""),
            self.pick(["9616", "-8337"], "", "x"),
            self.pick(["0", "4"], "-1", ""),
            self.pick(lead, "", "lead one", "I ", "V1\t", "#I", "Ä", "i,"),
        ]
        separator = self.pick([" ", "\t", "  "], "\x0b", "\xa0", "\x0c")
        return separator.join(fields[: int(self.pick("9", *"2345678"))])

    def header(self) -> bytes:
        count = self.random.randint(1, 4)
        record = [
            self.pick("r", "r/2", "other", "r r", ""),
            self.pick(str(count), str(count + 1), str(count - 1), "0", f"0{count}", ""),
            self.pick(["500", "360", "250.5"], "500/250", "500/250(3)", "500.", "", "0", "1e3"),
            self.pick([str(self.random.randint(1, 40)), "40"], "", "0", "99999", "40.0"),
            self.pick(["08:44:00", "08:44:00.5", ""], "24:00:00", "8:4:0", "08:44", "08:60:00", "1:2:3:4"),
            self.pick(["23/07/2180", ""], "31/02/2020", "2180/07/23", "23/07/80", "23-07-2180"),
        ]
        lines = [" ".join(record).rstrip(" "), *(self.signal_line(lead) for lead in LEADS[:count])]
        for _ in range(3):
            if extra := self.pick("", "# comment", "  ", "#", "\t# x", "\x0c"):
                lines.insert(self.random.randint(0, len(lines)), extra)
        lines += self.pick(["", "# <age>: 50", "\n#", "# caf\xe9"], "# a\x0cb", "r.dat 16 200", "# a\x85b").split("\n")
        ending = self.pick(["\n", "\r\n", " \n"], "\r")
        return (self.pick("", " ", "\t", "\ufeff") + ending.join(lines) + self.random.choice([ending, ""])).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a data file that is long enough for most headers, with some codes for missing samples in it."""
    folder = tmp_path_factory.mktemp("headers")
    data = np.random.default_rng(1).integers(-32768, 32767, 2000, dtype="<i2")
    data[::17] = -32768
    (folder / "r.dat").write_bytes(data.tobytes())
    (folder / "r.xyz").write_bytes(data[::-1].tobytes())
    return folder


def by_wfdb(stem, lead, channels=None):
    """Return what wfdb alone says: (values, unit, rate, samples), or None where it fails or has no such lead."""
    try:
        record = wfdb.rdrecord(str(stem), channels=channels)
        channel = find_lead([name or "" for name in record.sig_name], lead)
        if channel is None or not 50 <= record.fs <= 100_000:  # wfdb does not mind the rate
            return None
        return record.p_signal[:, channel], record.units[channel], record.fs, record.sig_len
    except Exception:
        return None


def by_us(stem, lead):
    try:
        signal = read_record_lead(str(stem), lead)
    except RecordError:
        return None
    return signal.values, signal.unit, signal.rate, signal.samples


def same(ours, theirs) -> bool:
    return ours[1:] == theirs[1:] and ours[0].dtype == np.float64 and np.array_equal(ours[0], theirs[0], equal_nan=True)


SEEN = {"plain": 0, "left to wfdb": 0}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), lead=st.sampled_from(["I", "aVF", "V1", "II"]))
def test_every_header_gives_the_numbers_of_wfdb(folder, seed, lead):
    header = HeaderMaker(seed).header()
    (folder / "r.hea").write_bytes(header)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, ours = by_wfdb(folder / "r", lead), by_us(folder / "r", lead)
    if theirs is not None:
        assert ours is not None and same(ours, theirs)
    try:
        plain = parse_plain(header, lead) is not None
    except RecordError:
        plain = False
    SEEN["plain" if plain else "left to wfdb"] += 1
    if plain:
        assert (theirs is None) == (ours is None)


def test_the_property_above_saw_both_kinds_of_header():
    assert min(SEEN.values()) > 25


def test_genuine_records_give_the_numbers_of_wfdb(test_data):
    stems = [path.with_suffix("") for path in sorted(test_data.glob("wfdb*/**/*.hea"))]
    plain = 0
    for stem in stems:
        plain += parse_plain(stem.with_suffix(".hea").read_bytes(), "I") is not None
        for lead in ("I", "aVL"):
            # Of s0010_re the second file, with the leads after the twelfth, is not there.
            assert same(by_us(stem, lead), by_wfdb(stem, lead, list(range(12)))), stem
    assert len(stems) == 52 and plain == 26


@pytest.mark.parametrize("seconds", [0.5, 1.999, 2.0, 3.0])
def test_reading_the_first_seconds_is_the_beginning_of_reading_all(tmp_path, seconds):
    write_record(tmp_path, "plain", digital_ecg(1, 1000), gain="200.0(3)/mV")
    write_record(tmp_path, "odd", digital_ecg(1, 1000), gain="200.0(3)/mV")
    header = (tmp_path / "odd.hea").read_text()
    (tmp_path / "odd.hea").write_text(header.replace(".dat 16 ", ".dat 16+0 "))
    everything = by_wfdb(tmp_path / "plain", "II")[0]
    for name in ("plain", "odd"):
        signal = read_record_lead(str(tmp_path / name), "II", seconds)
        assert np.array_equal(signal.values, everything[: math.ceil(seconds * 500)])
        assert signal.samples == 1000


def make_odd(stem, old: str, new: str) -> None:
    header = stem.with_suffix(".hea")
    text = header.read_text()
    assert old in text
    header.write_text(text.replace(old, new))


def cut(stem, length: int) -> None:
    data = stem.with_suffix(".dat")
    data.write_bytes(data.read_bytes()[:length])


@pytest.mark.parametrize(
    ("damage", "status"),
    [
        (lambda _: None, "ok"),
        (lambda stem: stem.with_suffix(".hea").unlink(), "missing_header"),
        (lambda stem: stem.with_suffix(".dat").unlink(), "missing_data"),
        (lambda stem: cut(stem, 119_999), "truncated"),
        (lambda stem: cut(stem, 0), "truncated"),
        (lambda stem: make_odd(stem, " I\n", " X\n"), "no_lead"),
        (lambda stem: stem.with_suffix(".hea").write_text(""), "unreadable"),
        (lambda stem: stem.with_suffix(".hea").write_bytes(b"\x00\xff" * 300), "unreadable"),
        (lambda stem: make_odd(stem, ".dat 16 ", ".dat 99 "), "unreadable"),
        (lambda stem: make_odd(stem, ".dat 16 ", ".dat 16+24 "), "truncated"),
    ],
)
@pytest.mark.parametrize("plain", [True, False])
def test_damaged_records_get_their_reason(tmp_path, damage, status, plain):
    stem = tmp_path / "r"
    write_record(tmp_path, "r", digital_ecg(3))
    if not plain:
        make_odd(stem, " 12 500 ", " 12 500/500 ")
        assert parse_plain(stem.with_suffix(".hea").read_bytes(), "I") is None
    damage(stem)
    try:
        read_record_lead(str(stem), "I")
        found = "ok"
    except RecordError as error:
        found = error.status
    assert found == status


def test_checksums_are_compared_when_asked(tmp_path):
    write_record(tmp_path, "r", digital_ecg(4))
    expected = by_wfdb(tmp_path / "r", "I")
    assert same(by_us(tmp_path / "r", "I"), expected)
    signal = read_record_lead(str(tmp_path / "r"), "I", verify_checksums=True)
    assert np.array_equal(signal.values, expected[0])
    data = bytearray((tmp_path / "r.dat").read_bytes())
    data[-1] ^= 1  # one bit, in another lead than the one read
    (tmp_path / "r.dat").write_bytes(data)
    read_record_lead(str(tmp_path / "r"), "I")
    with pytest.raises(RecordError) as error:
        read_record_lead(str(tmp_path / "r"), "I", verify_checksums=True)
    assert error.value.status == "bad_checksum" and "V6" in error.value.detail


def test_checksums_of_genuine_records_are_right(test_data):
    for stem in [path.with_suffix("") for path in sorted(test_data.glob("wfdb*/**/*.hea"))][::5]:
        read_record_lead(str(stem), "I", verify_checksums=True)


def test_several_segments_are_read_as_one(tmp_path):
    for name, seed in (("s1", 1), ("s2", 2)):
        write_record(tmp_path, name, digital_ecg(seed, 3000))
    (tmp_path / "m.hea").write_text("m/2 12 500 6000\ns1 3000\ns2 3000\n")
    signal = read_record_lead(str(tmp_path / "m"), "I")
    expected = np.concatenate([digital_ecg(1, 3000)[:, 0], digital_ecg(2, 3000)[:, 0]]) / 200
    assert signal.samples == 6000 and np.array_equal(signal.values, expected)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize(("unit", "scale"), [("mv", 1), ("uV", 1e-3), ("\u00b5V", 1e-3), ("V", 1e3), ("NU", 1)])
def test_units_in_other_spellings(tmp_path, encoding, unit, scale):
    """wfdb reads headers as ASCII, and so microvolts as volts."""
    write_record(tmp_path, "r", digital_ecg(1, 100), gain="200.0(0)/mV")
    header = (tmp_path / "r.hea").read_text().replace("/mV", f"/{unit}")
    (tmp_path / "r.hea").write_bytes(header.encode(encoding))
    signal = read_record_lead(str(tmp_path / "r"), "I")
    assert signal.millivolts_per_unit == scale
    assert np.array_equal(signal.values, digital_ecg(1, 100)[:, 0] / 200)
    if unit != "NU":
        recording = read_record(str(tmp_path / "r"))
        assert np.allclose(recording.leads["aVF"], digital_ecg(1, 100)[:, 4] / 200 * scale, rtol=1e-12)


@pytest.mark.parametrize("plain", [True, False])
def test_channels_by_hand_and_limb_leads_from_i_and_ii(tmp_path, plain):
    digital = digital_ecg(2, 800, 3)
    write_record(tmp_path, "r", digital, leads=["V5", "II", "Lead I"])
    if not plain:
        make_odd(tmp_path / "r", ".dat 16 ", ".dat 16+0 ")
    first, second = digital[:, 2] / 200, digital[:, 1] / 200
    stem = str(tmp_path / "r")
    assert np.array_equal(read_record_lead(stem, "I").values, first)
    assert np.array_equal(read_record_lead(stem, "I", channel="1").values, digital[:, 0] / 200)
    assert np.array_equal(read_record_lead(stem, "V1", channel="ii").values, second)
    derived = read_record_lead(stem, "aVL", verify_checksums=True)
    assert np.allclose(derived.values, first - second / 2) and derived.unit == "mV"
    for lead, channel in (("V1", None), ("I", "V6"), ("I", "4")):
        with pytest.raises(RecordError) as error:
            read_record_lead(stem, lead, channel=channel)
        assert error.value.status == "no_lead" and "V5 II Lead I" in error.value.detail


def test_a_single_channel_of_another_name(tmp_path):
    write_record(tmp_path, "r", digital_ecg(1, 100, 1), leads=["ECG "])
    assert np.array_equal(read_record_lead(str(tmp_path / "r"), "I").values, digital_ecg(1, 100, 1)[:, 0] / 200)
    write_record(tmp_path, "r", digital_ecg(1, 100, 1), leads=["MLII"])
    assert refusal(tmp_path / "r")[0] == "no_lead"


def test_whole_records_are_those_of_wfdb(test_data):
    stems = [test_data / "recordings/100", test_data / "cinc2017/records/A00004", test_data / "ludb/data/1"]
    stems += [path.with_suffix("") for path in sorted(test_data.glob("wfdb50/**/*.hea"))[:4]]
    for stem in stems:
        record, found = wfdb.rdrecord(str(stem)), read_record(str(stem))
        assert list(found.leads) == record.sig_name and found.rate == record.fs and found.source == "WFDB"
        assert np.array_equal(np.array(list(found.leads.values())).T, record.p_signal, equal_nan=True)
    found = read_record(str(test_data / "wfdb_odd/s0010_re"))  # the file of vx, vy, vz is not there
    assert list(found.leads) == [lead.lower() for lead in LEADS12] and found.left_out == ("vx", "vy", "vz")


def test_a_channel_that_is_no_voltage_is_no_lead_of_the_record(tmp_path):
    write_record(tmp_path, "r", digital_ecg(1, 100, 2), leads=["I", "RESP"])
    make_odd(tmp_path / "r", "/mV 16 0 " + str(digital_ecg(1, 100, 2)[0, 1]), "/NU 16 0 0")
    found = read_record(str(tmp_path / "r"))
    assert list(found.leads) == ["I"] and found.left_out == ("RESP",)


def refusal(stem, seconds: float = math.inf) -> tuple[str, str]:
    """Return status and detail of the refusal of Lead I of a record."""
    with pytest.raises(RecordError) as error:
        read_record_lead(str(stem), "I", seconds)
    return error.value.status, error.value.detail


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("suffix", [".hea", ".dat"])
@pytest.mark.parametrize("kind", ["pipe", "endless", "folder"])
def test_only_regular_files_are_read(tmp_path, plain, suffix, kind):
    write_record(tmp_path, "r", digital_ecg(3))
    if not plain:
        make_odd(tmp_path / "r", " 12 500 ", " 12 500/500 ")
    path = tmp_path / f"r{suffix}"
    path.unlink()
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "endless":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
    status, detail = refusal(tmp_path / "r")
    assert status == "unreadable" and "not a regular file" in detail


def test_a_header_of_a_megabyte_is_no_header(tmp_path):
    with (tmp_path / "r.hea").open("wb") as file:
        file.truncate(10**12)  # a hole: it takes no space
    status, detail = refusal(tmp_path / "r")
    assert status == "unreadable" and "1,000,000,000,000 bytes" in detail


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(
    ("rate", "usable"), [("49.9", False), ("50", True), ("100000", True), ("100000.5", False), ("0.5", False)]
)
def test_rates_that_no_ecg_has_are_refused(tmp_path, plain, rate, usable):
    write_record(tmp_path, "r", digital_ecg(3), rate=rate)
    if not plain:
        make_odd(tmp_path / "r", f" 12 {rate} ", f" 12 {rate}/{rate} ")
    if usable:
        assert read_record_lead(str(tmp_path / "r"), "I").rate == float(rate)
    else:
        status, detail = refusal(tmp_path / "r")
        assert status == "bad_rate" and rate in detail


@pytest.mark.parametrize("rate", ["0", "0.0000001", "999999999999999999999", "-300", "+500", "nan", "x"])
def test_rates_only_wfdb_reads_are_refused_too(tmp_path, rate):
    write_record(tmp_path, "r", digital_ecg(3), rate=rate)
    assert refusal(tmp_path / "r", 10)[0] == "bad_rate"


def several_segments(folder, record_line: str, *segments: str) -> None:
    for name, seed in (("s1", 1), ("s2", 2)):
        write_record(folder, name, digital_ecg(seed, 3000))
    header = (folder / "s1.hea").read_text().replace("s1.dat 16", "~ 0")
    (folder / "layout.hea").write_text(header.replace("s1 12 500 3000", "layout 12 500 0"))
    (folder / "m.hea").write_text("\n".join([record_line, *segments, ""]))


@pytest.mark.parametrize(
    ("record_line", "segments", "status"),
    [
        ("m/2 12 500 6000", ["s1 3000", "s2 3000"], "ok"),
        ("m/4 12 500 8000", ["layout 0", "s1 3000", "~ 2000", "s2 3000"], "ok"),
        ("m/2 12 500 60000000000", ["s1 30000000000", "s2 30000000000"], "unreadable"),  # not what their headers say
        ("m/2 12 500 60000000000", ["s1 3000", "s2 3000"], "unreadable"),
        ("m/2 12 500 30000003000", ["s1 3000", "~ 30000000000"], "truncated"),
        ("m/1000000000000 12 500 6000", ["s1 3000", "s2 3000"], "unreadable"),
        ("m/2 12 500 6000", ["s1 3000", "m 3000"], "unreadable"),  # a segment of itself
        ("m/2 12 500 6000", ["s1 3000", "s3 3000"], "missing_data"),
        ("m/2 12 500 6000", ["s1 3000", "pipe 3000"], "unreadable"),
        ("m/2 12 0.1 6000", ["s1 3000", "s2 3000"], "bad_rate"),
    ],
)
def test_several_segments_get_no_more_memory_than_they_fill(tmp_path, record_line, segments, status):
    several_segments(tmp_path, record_line, *segments)
    os.mkfifo(tmp_path / "pipe.hea")
    tracemalloc.start()
    try:
        if status == "ok":
            read_record_lead(str(tmp_path / "m"), "I")
        else:
            assert refusal(tmp_path / "m")[0] == status
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_a_segment_whose_file_is_short_or_a_pipe_is_refused(tmp_path):
    several_segments(tmp_path, "m/2 12 500 6000", "s1 3000", "s2 3000")
    cut(tmp_path / "s2", 1000)
    assert refusal(tmp_path / "m", 1) == ("truncated", "s2.dat has 1000 of 72000 bytes")
    (tmp_path / "s2.dat").unlink()
    os.mkfifo(tmp_path / "s2.dat")
    assert refusal(tmp_path / "m", 1)[0] == "unreadable"


@pytest.mark.parametrize("fmt", ["16x1000000000", "16:1000000000", "16+1000000000000", "212x1000000000"])
def test_a_header_cannot_claim_memory_that_its_file_does_not_fill(tmp_path, fmt):
    write_record(tmp_path, "r", digital_ecg(3))
    make_odd(tmp_path / "r", ".dat 16 ", f".dat {fmt} ")
    tracemalloc.start()
    try:
        assert refusal(tmp_path / "r", 10)[0] in ("truncated", "unreadable")
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_a_lead_is_read_though_the_file_of_another_is_not_there(tmp_path):
    write_record(tmp_path, "r", digital_ecg(3))
    header = (tmp_path / "r.hea").read_text().replace("V6\n", "V6\nother.dat 16 200.0(0)/mV 16 0 0 0 0 X\n")
    (tmp_path / "r.hea").write_text(header.replace("r 12 ", "r 13 "))
    assert len(read_record_lead(str(tmp_path / "r"), "I").values) == 5000
    with pytest.raises(RecordError, match="missing_data"):
        read_record_lead(str(tmp_path / "r"), "X")


def test_what_a_header_says_is_shown_in_one_short_line(tmp_path):
    names = [f"lead\x00{number}\x1b[31m" + 500 * "x" for number in range(300)]
    lines = [f"r {len(names)} 500 5000", *(f"r.dat 16 200 16 0 0 0 0 {name}" for name in names)]
    (tmp_path / "r.hea").write_text("\n".join(lines) + "\n")
    status, detail = refusal(tmp_path / "r")
    assert status == "no_lead" and detail.isprintable() and len(detail) < 250


def test_a_path_that_the_system_cannot_express_is_refused():
    assert refusal("a\0b")[0] == "unreadable"
