"""Any recording: the values of a second reader, and one line for whatever cannot be read."""

import base64
import csv
import io
import os
import re
import shutil
import sys
import tracemalloc
import xml.etree.ElementTree as ET
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from apple_export import GERMAN, apple_csv, watch_signal
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_records import digital_ecg, write_record
from vendor_files import edf, ishne, kardia_json

from ecg_finetune.files import UserError
from ecg_finetune.matfile import encode_mat, read_mat
from ecg_finetune.paths import locate
from ecg_finetune.recordings import read_lead, read_recording
from ecg_finetune.studies import save_file_name
from ecg_finetune.tables import write_rows
from ecg_finetune.waveform import LEADS, RecordError, measure, standardise

SCRIPT = "preprocess/scripts/preprocess_ecgfm.py"


def hl7_leads(path: Path) -> dict[str, np.ndarray]:
    """Return the rhythm leads of an HL7 aECG in millivolts, read plainly."""
    name = {"h": "urn:hl7-org:v3"}
    series = ET.parse(path).getroot().find("h:component/h:series", name)
    leads = {}
    for sequence in series.iterfind("h:component/h:sequenceSet/h:component/h:sequence", name):
        code, value = sequence.find("h:code", name).get("code"), sequence.find("h:value", name)
        if code.startswith("MDC_ECG_LEAD_"):
            scale, origin = value.find("h:scale", name), value.find("h:origin", name)
            assert scale.get("unit") == "uV"
            digits = np.array(value.find("h:digits", name).text.split(), dtype=float)
            leads[code.removeprefix("MDC_ECG_LEAD_")] = (
                digits * float(scale.get("value")) + float(origin.get("value"))
            ) / 1000
    return leads


def muse_leads(path: Path) -> dict[str, np.ndarray]:
    """Return the rhythm leads of a GE MUSE file in millivolts, read plainly."""
    for waveform in ET.parse(path).getroot().iter("Waveform"):
        if waveform.findtext("WaveformType") == "Rhythm":
            return {
                lead.findtext("LeadID"): np.frombuffer(base64.b64decode(lead.findtext("WaveFormData")), "<i2")
                * float(lead.findtext("LeadAmplitudeUnitsPerBit"))
                / 1000
                for lead in waveform.iter("LeadData")
            }
    raise AssertionError("no rhythm")


def dicom_leads(path: Path) -> dict[str, np.ndarray]:
    """Return the first group of channels of a DICOM waveform in millivolts, by pydicom."""
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.dcmread(path)
    group, values = data.WaveformSequence[0], data.waveform_array(0)
    leads = {}
    for k, channel in enumerate(group.ChannelDefinitionSequence):
        unit = channel.ChannelSensitivityUnitsSequence[0].CodeValue
        source = channel.ChannelSourceSequence[0].CodeMeaning
        leads[re.sub(r"^Lead | \(.*", "", source)] = values[:, k] * {"uV": 1e-3, "mV": 1}[unit]
    return leads


def philips_leads(path: Path) -> dict[str, np.ndarray]:
    """Return the leads of a Philips file in millivolts, by sierraecg; the file says 5 microvolts a step."""
    reader = pytest.importorskip("sierraecg")
    return {lead.label: np.asarray(lead.samples) * 0.005 for lead in reader.read_file(str(path)).leads}


@pytest.mark.parametrize(
    ("name", "second_reader", "source", "count", "rate"),
    [
        ("hl7_aecg.xml", hl7_leads, "HL7 aECG", 12, 500),
        ("example.scp", lambda path: hl7_leads(path.with_name("hl7_aecg.xml")), "SCP-ECG", 12, 500),  # the same ECG
        ("muse_1.xml", muse_leads, "GE MUSE XML", 8, 500),
        ("general_ecg.dcm", dicom_leads, "DICOM Waveform", 12, 1000),
        ("twelve_lead.dcm", dicom_leads, "DICOM Waveform", 12, 500),
        ("philips_sierra.xml", philips_leads, "Philips Sierra XML", 12, 500),
    ],
)
def test_vendor_files_have_the_values_of_a_second_reader(test_data, name, second_reader, source, count, rate):
    pytest.importorskip("ecgdatakit")
    path = test_data / "recordings" / name
    found, expected = read_recording(path), second_reader(path)
    assert (found.source, len(found.leads), found.rate) == (source, count, rate)
    assert {lead.lower() for lead in found.leads} == {lead.lower() for lead in expected}
    expected = {lead.lower(): values for lead, values in expected.items()}
    for lead, values in found.leads.items():
        assert values.dtype == np.float64 and lead in LEADS
        assert np.allclose(values, expected[lead.lower()], rtol=0, atol=1e-9), lead


def test_code_15_has_the_values_and_the_leads(test_data):
    path = test_data / "recordings/code15.mat"
    found = read_recording(path, rate=400)
    feats = scipy.io.loadmat(path)["feats"]
    assert tuple(found.leads) == LEADS and found.rate == 400
    assert np.array_equal(np.array(list(found.leads.values())), feats.astype(float))
    assert np.allclose(read_recording(path, 400, "uV").leads["V2"], feats[7].astype(float) / 1000, rtol=1e-12)
    with pytest.raises(RecordError, match="--rate"):
        read_recording(path)


def test_every_file_there_is_read_or_refused_in_one_line(test_data):
    read = 0
    for path in sorted((test_data / "recordings").iterdir()):
        try:
            assert read_recording(path, rate=400).leads
            read += 1
        except RecordError as error:
            assert "\n" not in error.detail and path.name == "kardia_broken_checksum.atc"
    assert read == 11


def test_a_philips_calibration_pulse_is_no_beat(test_data):
    pytest.importorskip("ecgdatakit")
    path = str(test_data / "recordings/philips_sierra.xml")
    whole, lead = read_recording(path).leads["I"], read_lead(path, lead="I")
    assert lead.samples == len(lead.values) == len(whole) - 200
    assert np.array_equal(lead.values, whole[:-200]) and (whole[-150:-50] == 1).all()


def test_limb_leads_of_a_muse_file_follow_from_i_and_ii(test_data):
    pytest.importorskip("ecgdatakit")
    path = test_data / "recordings/muse_1.xml"
    leads = muse_leads(path)
    assert np.allclose(read_lead(str(path), lead="aVF").values, leads["II"] - leads["I"] / 2)
    with pytest.raises(RecordError, match="no_lead"):
        read_lead(str(path), lead="aVF", channel="aVF")


SAMPLES = np.rint(1000 * np.sin(np.arange(2000) / 30)).astype(int) + 7


@pytest.mark.parametrize(
    ("content", "source", "scale"),
    [
        (edf({"ECG I": SAMPLES, "II": -SAMPLES}, 200, 10, patient="12345 F 02-JAN-1990 Test_Person"), "EDF/EDF+", 1e-3),
        (ishne([SAMPLES, -SAMPLES], 200, "Test Person"), "ISHNE Holter", 1e-3),
        (kardia_json({"leadI": SAMPLES, "leadII": -SAMPLES}, 200, patientID="Person"), "AliveCor Kardia JSON", 5e-4),
    ],
)
def test_files_built_by_the_definition_of_their_format(tmp_path, content, source, scale):
    pytest.importorskip("ecgdatakit")
    (tmp_path / "any.name").write_bytes(content)
    found = read_recording(tmp_path / "any.name")
    assert (list(found.leads), found.rate, found.source) == (["I", "II"], 200, source)
    assert np.allclose(found.leads["I"], SAMPLES * scale) and np.allclose(found.leads["II"], -SAMPLES * scale)
    assert "Person" not in repr(found) and "1990" not in repr(found)


def test_vendor_files_that_end_early_or_do_not_add_up_are_refused(tmp_path):
    pytest.importorskip("ecgdatakit")
    path = tmp_path / "x"
    path.write_bytes(edf({"I": SAMPLES}, 200, 10)[:-500])
    assert refusal(path)[0] == "truncated"
    content = bytearray(ishne([SAMPLES], 200))
    content[20] ^= 1
    path.write_bytes(content)
    assert refusal(path)[0] == "bad_checksum"
    path.write_bytes(edf({"SpO2": SAMPLES}, 200, 10, unit="%"))
    assert refusal(path)[0] == "unreadable"


def refusal(path, **options) -> tuple[str, str]:
    with pytest.raises(RecordError) as error:
        read_recording(path, **options)
    assert error.value.detail.isprintable() and len(error.value.detail) < 250
    return error.value.status, error.value.detail


# Tables and arrays


TWO = np.array([[0.1, -0.5], [np.nan, 1e-3], [-2.5, 3.0]])


@pytest.mark.parametrize(
    "text",
    [
        "I,II\n0.1,-0.5\n,0.001\n-2.5,3\n",
        "\ufeffI,II\r\n0.1,-0.5\r\nNaN,1e-3\r\n-2.5,3\r\n\r\n",
        '"I","II"\n"0.1","-0.5"\n"","0.001"\n"-2.5","3"\n',
        "I\tII\n0.1\t-0.5\n\t0.001\n-2.5\t3\n",
        "I;II\n0,1;-0,5\n;0,001\n-2,5;3\n",
        "I II\n0.1 -0.5\nnan 0.001\n-2.5 3\n",
        "time,I,II\n0,0.1,-0.5\n0.004,,0.001\n0.008,-2.5,3\n",
        "t [ms],I,II\n7,0.1,-0.5\n11,,0.001\n15,-2.5,3\n",
        ",I,II\n0,0.1,-0.5\n1,,0.001\n2,-2.5,3\n",
        "I (mV),II [uV]\n0.1,-500\n,1\n-2.5,3000\n",
    ],
)
def test_tables(tmp_path, text):
    (tmp_path / "table").write_bytes(text.encode())
    found = read_recording(tmp_path / "table", rate=250)
    assert list(found.leads) == ["I", "II"] and found.rate == 250
    assert np.allclose(np.array(list(found.leads.values())).T, TWO, equal_nan=True)


def test_times_of_another_rate_than_the_one_given_are_refused(tmp_path):
    for rows in (["time,I", *(f"{k / 500},0.1" for k in range(20))], ["ms;I", *(f"{2 * k};0,1" for k in range(20))]):
        (tmp_path / "x.csv").write_text("\n".join(rows))
        assert read_recording(tmp_path / "x.csv", rate=500).rate == 500
        status, detail = refusal(tmp_path / "x.csv", rate=250)
        assert status == "bad_rate" and "which is not 250 Hz" in detail


@pytest.mark.parametrize(
    "text", ["0.5\n1.5\n-2\n", "ECG\n0.5\n1.5\n-2\n", "Lead I\n0.5\n1.5\n-2\n", "0.5\r\n1.5\r\n-2"]
)
def test_a_single_column_is_a_lead(tmp_path, text):
    (tmp_path / "x.txt").write_text(text, newline="")
    signal = read_lead(str(tmp_path / "x.txt"), lead="I", rate=100, unit="uV")
    assert np.allclose(signal.values, [0.0005, 0.0015, -0.002]) and signal.unit == "mV" and signal.samples == 3


def test_columns_without_names_have_numbers(tmp_path):
    (tmp_path / "x.csv").write_text("0.1,0.2\n0.3,0.4\n")
    assert list(read_recording(tmp_path / "x.csv", rate=100).leads) == ["1", "2"]
    assert np.allclose(read_lead(str(tmp_path / "x.csv"), lead="I", channel="2", rate=100).values, [0.2, 0.4])
    with pytest.raises(RecordError, match="no_lead"):
        read_lead(str(tmp_path / "x.csv"), lead="I", rate=100)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "12,34\n56,78\n",  # two columns, or two numbers?
        "I,II\n1,2\n3\n",
        "I,II\n1,2,3\n",
        "I,I\n1,2\n",
        "I (uV),I (mV)\n1,2\n",
        "I,II\nmV,mV\n1,2\n3,4\n",  # and no export of an Apple Watch, of which 1,2 is one number
        "I\n1\nx\n",
        "I\n1\ninf\n",
        "I\n1_0\n",
        "I\n",
        "Name,Test Person\nDate of Birth,1990\n1,2\n",
        "words of Test Person, born 1990",
        ",".join(map(str, range(5000))),
        "9" * 5000,
    ],
)
def test_what_is_no_table_is_refused_without_quoting_it(tmp_path, text):
    (tmp_path / "x").write_text(text)
    status, detail = refusal(tmp_path / "x", rate=100)
    assert status in ("unreadable", "too_short")
    assert not any(word in detail for word in ("Test", "Person", "1990", "words"))


def saved(save, *arrays, **named) -> bytes:
    file = io.BytesIO()
    save(file, *arrays, **named)
    return file.getvalue()


ONE = np.linspace(-1, 1, 60)
CHANNELS = np.stack([ONE, ONE**2, ONE**3])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (saved(np.save, ONE), {"1": ONE}),
        (saved(np.save, ONE.astype(">f4")), {"1": ONE.astype("f4")}),
        (saved(np.save, CHANNELS), {"1": ONE, "2": ONE**2, "3": ONE**3}),
        (saved(np.save, CHANNELS.T), {"1": ONE, "2": ONE**2, "3": ONE**3}),
        (saved(np.save, np.asfortranarray(CHANNELS)[None]), {"1": ONE, "2": ONE**2, "3": ONE**3}),
        (saved(np.save, np.arange(60, dtype="i2")), {"1": np.arange(60.0)}),
        (saved(np.savez, I=ONE, II=ONE**2, rate=np.array(500)), {"I": ONE, "II": ONE**2}),
        (saved(np.savez, I=ONE, II=ONE**2, names=np.array(["I", "II"])), {"I": ONE, "II": ONE**2}),
        (saved(np.savez_compressed, ecg=CHANNELS, labels=np.arange(5)), {"1": ONE, "2": ONE**2, "3": ONE**3}),
        (encode_mat({"I": ONE, "V2": ONE**2}), {"I": ONE, "V2": ONE**2}),
        (encode_mat({"val": CHANNELS}), {"1": ONE, "2": ONE**2, "3": ONE**3}),
        (saved(scipy.io.savemat, {"val": CHANNELS}), {"1": ONE, "2": ONE**2, "3": ONE**3}),
        (saved(scipy.io.savemat, {"val": CHANNELS}, do_compression=True), {"1": ONE, "2": ONE**2, "3": ONE**3}),
    ],
)
def test_arrays(tmp_path, content, expected):
    if "1" in expected and len(expected) == 1:
        (tmp_path / "y").write_bytes(content)
        assert np.array_equal(read_lead(str(tmp_path / "y"), lead="V3", rate=100).values, expected["1"])
    (tmp_path / "x").write_bytes(content)
    found = read_recording(tmp_path / "x", rate=100)
    assert found.leads.keys() == expected.keys() and found.rate == 100
    assert all(np.array_equal(found.leads[name], expected[name]) for name in expected)
    assert refusal(tmp_path / "x")[0] == "bad_rate"


def test_a_unit_that_is_no_voltage_and_numbers_beyond_all(tmp_path, recwarn):
    np.save(tmp_path / "x.npy", np.array([1e308, 0.5]))
    assert "mmHg is no unit of voltage" in refusal(tmp_path / "x.npy", rate=100, unit="mmHg")[1]
    found = read_recording(tmp_path / "x.npy", rate=100, unit="V").leads["1"]
    assert np.isnan(found[0]) and found[1] == 500 and not recwarn.list


def test_twelve_channels_whose_limb_leads_fit_are_the_twelve_leads(tmp_path):
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 500)).cumsum(axis=1)
    chest = list(generator.normal(size=(6, 500)))
    limb = [second - first, -(first + second) / 2, first - second / 2, second - first / 2]
    for rows, names in (
        ([first, second, *limb, *chest], LEADS),
        ([first, second, *limb[:2], limb[3], limb[2], *chest], tuple(map(str, range(1, 13)))),  # MIMIC's order
        (list(generator.normal(size=(12, 500))), tuple(map(str, range(1, 13)))),
        (list(np.zeros((12, 500))), tuple(map(str, range(1, 13)))),
    ):
        np.save(tmp_path / "x.npy", np.array(rows))
        assert tuple(read_recording(tmp_path / "x.npy", rate=500).leads) == names


def npy_header(text: str) -> bytes:
    header = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header


def zip_of(content: bytes, name: str = "I.npy", claimed: int | None = None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    data = file.getvalue()
    if claimed is not None:
        data = data.replace(len(content).to_bytes(4, "little"), claimed.to_bytes(4, "little"))
    return data


def bomb(size: int) -> bytes:
    """Return a compressed MATLAB variable that unpacks to zeros of `size` bytes."""
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()
    return encode_mat({})[:128] + (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed


HOSTILE = {
    "shape": npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,)}"),
    "negative": npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (-2, -5)}") + bytes(80),
    "nothing": npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (0,)}"),
    "objects": npy_header("{'descr': '|O', 'fortran_order': False, 'shape': (10,)}") + bytes(80),
    "structure": npy_header("{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (10,)}") + bytes(80),
    "code": npy_header("__import__('os').abort()"),
    "nesting": b"\x93NUMPY\1\0\xff\xff" + b"(" * 65535,
    "four dimensions": npy_header("{'descr': '|i1', 'fortran_order': False, 'shape': (2, 2, 2, 2)}") + bytes(16),
    "a zip without arrays": zip_of(b"words", "words.txt"),
    "a zip of words": zip_of(b"words"),
    "a zip cut short": zip_of(saved(np.save, ONE))[:300],
    "a zip that claims less": zip_of(saved(np.save, ONE), claimed=300),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(500),
    "zeros": bytes(1000),
    "noise": np.random.default_rng(0).bytes(5000),
    "xml": b"<?xml version='1.0'?><html/>",
    "xml cut short": b"<RestingECG><Waveform>",
    "json": b'{"recordedAt": 1, "data": ' + b"[" * 100_000,
    "json of something": b'{"a": 1}',
    "dicom": bytes(128) + b"DICM" + bytes(200),
    "deflated dicom": bytes(128) + b"DICM\2\0\x10\0UI\x16\x001.2.840.10008.1.2.1.99" + bytes(200),
    "edf": b"0       " + b"9" * 248,
    "edf that claims more": edf({"I": SAMPLES}, 200, 10).replace(b"10      1 ", b"99999999"[:8] + b"1 "),
    "ishne": b"ISHNE1.0" + b"\xff" * 600,
    "scp": bytes(8) + bytes(14) + bytes(6) + b"\7\0\0\0" + b"\xff" * 100,
    "mfer": b"@\x20MFR " + b"\xff" * 100,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_in_one_line_and_little_memory(tmp_path, kind):
    pytest.importorskip("ecgdatakit").parsing  # noqa: B018  imported before memory is measured
    (tmp_path / "x").write_bytes(HOSTILE[kind])
    tracemalloc.start()
    status, _ = refusal(tmp_path / "x", rate=100)
    assert status in ("unreadable", "truncated", "too_short", "bad_checksum")
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


def test_bombs_are_stopped_at_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("ecg_finetune.number_tables.MOST_NUMBERS_BYTES", 1 << 22)
    for content in (zip_of(saved(np.save, np.zeros(4_000_000))), bomb(64 << 20)):
        assert len(content) < 100_000
        (tmp_path / "x").write_bytes(content)
        tracemalloc.start()
        assert refusal(tmp_path / "x", rate=100)[0] == "unreadable"
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
        tracemalloc.stop()


@pytest.mark.parametrize("root", ["AnnotatedECG xmlns='urn:hl7-org:v3'", "RestingECG", "restingecgdata", "ECG"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused(tmp_path, root, encoding):
    """A billion laughs, and a file of this machine."""
    pytest.importorskip("ecgdatakit")
    name = root.split()[0]
    levels = "".join(f'<!ENTITY e{k} "{10 * f"&e{k - 1};"}">' for k in range(1, 12))
    for entities, use in (
        ('<!ENTITY e0 "laugh">' + levels, "&e11;"),
        (f'<!ENTITY f SYSTEM "file://{__file__}">', "&f;"),
    ):
        text = f"<?xml version='1.0'?><!DOCTYPE {name} [{entities}]><{root}><id>{use}</id></{name}>"
        (tmp_path / "x").write_bytes(text.encode(encoding))
        tracemalloc.start()
        assert refusal(tmp_path / "x")[0] == "unreadable"
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
        tracemalloc.stop()


@pytest.mark.parametrize(
    "head", [b"<RestingECG>", b"ALIVE\0\0\0", b"\x93NUMPY", b"I,II\n", b"PK\3\4", bytes(128) + b"DICM"]
)
def test_a_file_of_a_gigabyte_is_refused_unread(tmp_path, head):
    with (tmp_path / "x").open("wb") as file:
        file.write(head)
        file.truncate(1 << 30)  # a hole: it takes no space
    status, detail = refusal(tmp_path / "x", rate=100)
    assert status == "unreadable" and "1,073,741,824 bytes" in detail


def test_xml_that_grows_in_memory_is_refused_earlier(tmp_path):
    with (tmp_path / "x").open("wb") as file:
        file.write(b"<RestingECG>")
        file.truncate(20 << 20)
    assert "20,971,520 bytes" in refusal(tmp_path / "x")[1]


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "nothing", "zero byte"])
def test_only_regular_files_are_read(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    status, _ = refusal(path if kind != "zero byte" else "a\0b")
    assert status == ("missing_header" if kind == "nothing" else "unreadable")
    with pytest.raises(RecordError):
        read_lead(str(path), lead="I")


def test_without_ecgdatakit_one_line_says_how_to_install_it(tmp_path, monkeypatch):
    (tmp_path / "x.xml").write_text("<RestingECG></RestingECG>")
    (tmp_path / "x.npy").write_bytes(saved(np.save, ONE))
    for name in [name for name in sys.modules if name.split(".")[0] == "ecgdatakit"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ecgdatakit", None)
    with pytest.raises(UserError) as error:
        read_recording(tmp_path / "x.xml")
    assert not isinstance(error.value, RecordError)
    assert "x.xml" in str(error.value) and 'pip install "ecg-finetune[formats]"' in str(error.value)
    assert len(read_recording(tmp_path / "x.npy", rate=100).leads) == 1


DAMAGES = st.lists(
    st.tuples(st.floats(0, 1), st.sampled_from([b"\0", b"\xff\xff", b"9", b"-1", b"\x7f\xff\xff\xff", b"<a>", b'"'])),
    min_size=1,
    max_size=6,
)


@settings(max_examples=120, deadline=None)
@given(which=st.integers(0, 6), damages=DAMAGES, cut=st.floats(0, 2))
def test_damaged_files_are_read_or_refused(tmp_path_factory, which, damages, cut):
    pytest.importorskip("ecgdatakit")
    content = bytearray(
        [
            edf({"I": SAMPLES}, 200, 10),
            ishne([SAMPLES], 200),
            kardia_json({"leadI": SAMPLES}, 200),
            saved(np.savez, I=ONE, II=ONE**2),
            saved(scipy.io.savemat, {"val": CHANNELS}, do_compression=True),
            apple_csv(watch_signal(samples=50)).encode(),
            saved(np.save, CHANNELS),
        ][which]
    )
    for place, piece in damages:
        at = int(place**3 * len(content))  # more of them in the header
        content[at : at + len(piece)] = piece
    if cut < 1:
        del content[int(cut * len(content)) :]
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    try:
        found = read_recording(path, rate=200)
    except RecordError as error:
        assert error.detail.isprintable() and "Person" not in error.detail
    else:
        values = np.array(list(found.leads.values()))
        assert values.dtype == np.float64 and values.ndim == 2 and not np.isinf(values).any()


# WFDB by other paths


def test_wfdb_records_by_the_name_of_a_file(tmp_path):
    write_record(tmp_path, "r", digital_ecg(1, 500))
    expected = digital_ecg(1, 500)[:, 0] / 200
    for name in ("r", "r.hea", "r.dat"):
        assert np.array_equal(read_recording(tmp_path / name).leads["I"], expected)
        assert np.array_equal(read_lead(str(tmp_path / name), lead="I").values, expected)
    (tmp_path / "r.hea").unlink()
    assert refusal(tmp_path / "r.hea")[0] == "missing_header"
    assert refusal(tmp_path / "r")[0] == "missing_header"


# Through preprocess


def preprocess(base: Path, raw: Path, paths: list[str], run_script, *options, exit_code: int = 0):
    """Run preprocess over the files; return the process, and the rows of the report by path."""
    numbers = range(1, len(paths) + 1)
    write_rows(locate(base, "record_list"), ["study_id", "path"], zip(numbers, paths))
    rows = [(save_file_name(study), "train") for study in numbers]
    write_rows(locate(base, "meta_split"), ["save_file", "split"], rows)
    process = run_script(SCRIPT, "--base-dir", base, "--raw-root", raw, *options, exit_code=exit_code)
    with locate(base, "report").open(encoding="utf-8", newline="") as file:
        return process, dict(zip(paths, csv.DictReader(file)))


def feats(base: Path, study: int) -> np.ndarray:
    return read_mat(locate(base, "lead") / save_file_name(study))["feats"][0]


def make_raw(raw: Path) -> dict[str, str]:
    """Write a recording of each format that needs no sample; return the resampling expected of each."""
    raw.mkdir()
    watch = watch_signal()
    (raw / "watch.csv").write_text(apple_csv(watch, keys=GERMAN, rate="511,422 Hertz", decimal=","), encoding="utf-8")
    slow = np.rint(watch[::4][:1300]).astype(int)
    (raw / "slow.csv").write_text("I,II\n" + "".join(f"{a},{b}\n" for a, b in zip(slow, slow)))
    np.save(raw / "one.npy", slow)
    (raw / "kardia.json").write_bytes(kardia_json({"leadI": np.rint(watch[:9000]).astype(int)}, 300))
    write_record(raw, "wfdb", digital_ecg(1))
    return {
        "watch.csv": "linear",
        "slow.csv": "band-limited",
        "one.npy": "band-limited",
        "kardia.json": "linear",
        "wfdb": "none",
    }


def test_preprocess_takes_every_format(tmp_path, run_script):
    pytest.importorskip("ecgdatakit")
    expected = make_raw(tmp_path / "raw")
    base, options = tmp_path / "base", ("--rate", "128", "--unit", "uV", "--max-failed-fraction", "0")
    _, report = preprocess(base, tmp_path / "raw", list(expected), run_script, *options)
    assert {path: row["resampling"] for path, row in report.items()} == expected
    assert {row["status"] for row in report.values()} == {"ok"}
    assert report["slow.csv"]["std_mv"] == report["one.npy"]["std_mv"] and float(report["slow.csv"]["std_mv"]) < 1
    for study, path in enumerate(expected, start=1):
        signal = read_lead(str(tmp_path / "raw" / path), lead="I", rate=128, unit="uV")
        assert np.array_equal(feats(base, study), standardise(signal, *measure(signal)))
    again = run_script(SCRIPT, "--base-dir", base, "--raw-root", tmp_path / "raw", *options)
    assert "5 of them done before" in again.stdout
    refused = run_script(SCRIPT, "--base-dir", base, "--raw-root", tmp_path / "raw", *options[2:], exit_code=1)
    assert "--rate 128, this run has --rate None" in refused.stderr


def test_preprocess_of_genuine_recordings(test_data, tmp_path, run_script):
    pytest.importorskip("ecgdatakit")
    paths = [path.name for path in sorted((test_data / "recordings").iterdir()) if path.suffix not in (".hea", ".dat")]
    paths += ["100"]
    options = ("--rate", "400", "--max-failed-fraction", "1")
    _, report = preprocess(tmp_path, test_data / "recordings", paths, run_script, *options)
    excluded = {path: row["status"] for path, row in report.items() if row["status"] != "ok"}
    # CODE-15's has 7.3 s, MIT-BIH's the leads MLII and V5.
    assert excluded == {"100": "no_lead", "kardia_broken_checksum.atc": "bad_checksum", "code15.mat": "too_short"}
    shutil.rmtree(tmp_path / "preprocess")
    by_hand = ("--channel", "MLII", "--max-failed-fraction", "1")
    _, report = preprocess(tmp_path, test_data / "recordings", ["100"], run_script, *by_hand)
    assert report["100"]["status"] == "ok" and report["100"]["rate"] == "360"


def test_preprocess_of_handheld_and_other_wfdb_records(test_data, tmp_path, run_script):
    paths = [f"cinc2017/records/A0000{k}" for k in (4, 5, 9)] + ["ludb/data/1", "ludb/data/2"]
    paths += [
        str(path.relative_to(test_data).with_suffix("")) for path in sorted(test_data.glob("ptbxl/*/*/*.hea"))[:6]
    ]
    _, report = preprocess(tmp_path, test_data, paths, run_script, "--max-failed-fraction", "0")
    assert {row["status"] for row in report.values()} == {"ok"}
    for study, path in enumerate(paths[:3], start=1):  # against scipy and the definition of format 16 with an offset
        values = np.fromfile(test_data / f"{path}.mat", "<i2", offset=24) / 1000
        size = int(len(values) * 500 / 300)
        expected = np.interp(np.arange(5000) * (len(values) - 1) / (size - 1), np.arange(len(values)), values)
        assert np.abs(feats(tmp_path, study) - (expected - expected.mean()) / expected.std()).max() < 1e-5


def test_names_and_dates_of_birth_come_out_nowhere(tmp_path, run_script, capfd):
    """Neither of good files nor of damaged ones, in no output, error, report or page."""
    pytest.importorskip("ecgdatakit")
    raw, secrets = tmp_path / "raw", ("Zaphod", "Beeblebrox", "1911", "Feb 03")
    raw.mkdir()
    who = {"name": "Zaphod Beeblebrox", "birth": '"Feb 03, 1911"'}
    good = apple_csv(watch_signal(), **who)
    patient = "7 M 03-FEB-1911 Zaphod_Beeblebrox"
    numbers = np.rint(watch_signal(samples=2000)).astype(int)
    files = {
        "good.csv": good.encode(),
        "no_rate.csv": apple_csv(watch_signal(), rate="?", **who).encode(),
        "no_unit.csv": apple_csv(watch_signal(), unit="?", **who).encode(),
        "broken.csv": (good + "Zaphod Beeblebrox, Feb 03, 1911\n").encode(),
        "no_numbers.csv": "\n".join(good.splitlines()[:10]).encode(),
        "table.csv": b"Zaphod Beeblebrox,Feb 03 1911\nx,y\n",
        "good.edf": edf({"I": numbers}, 200, 10, patient=patient),
        "broken.edf": edf({"I": numbers}, 200, 10, patient=patient)[:300],
        "odd.edf": edf({"I": numbers}, 200, 10, patient=patient).replace(b"02.03.20", b"Zaphod  "),
        "good.ecg": ishne([numbers], 200, "Zaphod Beeblebrox"),
        "broken.ecg": ishne([numbers], 200, "Zaphod Beeblebrox")[:525],
        "good.json": kardia_json({"leadI": numbers}, 200, patientID="Zaphod", note="born 1911"),
        "odd.json": kardia_json({"leadI": numbers}, 200, nanovolts="Zaphod", recordedAt="1911 Zaphod"),
        "broken.json": b'{"recordedAt": "Zaphod", "patientID": "Beeblebrox 1911", ',
        "broken.xml": b"<RestingECG><PatientDemographics><PatientLastName>Beeblebrox</PatientLastName><DateofBirth>"
        b"1911</DateofBirth></PatientDemographics></RestingECG>",
        "odd.xml": b"<?xml version='1.0' encoding='Zaphod'?><restingecgdata><lastname>Beeblebrox</restingecgdata>",
    }
    for name, content in files.items():
        (raw / name).write_bytes(content)
    process, report = preprocess(tmp_path / "base", raw, list(files), run_script, "--max-failed-fraction", "1")
    good = ["good.csv", "good.edf", "odd.edf", "good.ecg", "good.json"]
    assert [name for name, row in report.items() if row["status"] == "ok"] == good
    written = [path.read_bytes() for path in (tmp_path / "base/preprocess").rglob("*") if path.is_file()]
    everything = b"".join(written).decode("latin-1") + process.stdout + process.stderr
    for name in files:
        try:
            everything += repr(read_recording(raw / name))
        except RecordError as error:
            everything += f"{error} {error.args} {error.__cause__} "
    everything += "".join(capfd.readouterr())
    assert not [secret for secret in secrets if secret in everything]


def test_options_of_reading_are_checked(tmp_path, run_script):
    for option, value in (("--rate", "5"), ("--rate", "x"), ("--unit", "mmHg"), ("--channel", "")):
        process = run_script(SCRIPT, "--base-dir", tmp_path, option, value, exit_code=2)
        assert option in process.stderr.splitlines()[-1]
