"""Coverage-guided fuzzing of the two binary readers, with atheris (`pip install atheris`; it has no wheels for every
Python, so it is not among the requirements).

    python tests/faults/fuzz_binary.py record 60      # WFDB header and signal file, against wfdb
    python tests/faults/fuzz_binary.py mat 60         # MATLAB-5 files, against scipy

Runs for so many seconds, in an empty folder; exit code 0 if every input was read right or refused. An input that was
not is left in the folder as crash-*, and `python tests/faults/fuzz_binary.py mat crash-...` reads it again.
"""

import io
import struct
import sys
import warnings
import zlib
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(
    include=[
        "ecg_finetune.wfdb_records",
        "ecg_finetune.matfile",
        "wfdb.io._header",
        "wfdb.io._signal",
        "wfdb.io.record",
    ]
):
    import scipy.io
    import wfdb

    from ecg_finetune.files import UserError
    from ecg_finetune.matfile import encode_mat, read_mat
    from ecg_finetune.waveform import RecordError
    from ecg_finetune.wfdb_records import read_record_lead

FOLDER = Path.cwd()
MAT_START = b"MATLAB".ljust(124) + b"\0\1IM"
MATRIX, COMPRESSED = 14, 15
SIGNAL = np.arange(-300, 300, dtype="<i2").tobytes()  # 3 leads of 200 samples
BETWEEN = b"\xff\xfe\xff"  # header and signal file in one input
HEADERS = [
    b"r 3 100 200\nr.dat 16 200/mV 16 0 -300 0 0 I\nr.dat 16 200 16 0 -299 0 0 II\nr.dat 16 200 16 0 -298 0 0 III\n",
    b"r 1 100 200 10:00:00 01/02/2020\nr.dat 16x3+24 1000.5(-5)/uV 12 0 0 0 0 i\n# <age>: 50\n",
    b"r 2 50/1(0) 200\nr.dat 212 200 12 0 0 0 0 V1\nr.dat 212 200 12 0 0 0 0 I\n",
    b"r/2 1 100 200\na 100\nb 100\n",
]


def read_record(data: bytes) -> None:
    """Read Lead I of a record and compare it with wfdb."""
    header, found, signal = data.partition(BETWEEN)
    (FOLDER / "r.hea").write_bytes(header)
    (FOLDER / "r.dat").write_bytes(signal if found else SIGNAL)
    stem = str(FOLDER / "r")
    try:
        lead = read_record_lead(stem, "I", 1)
    except RecordError as error:
        assert error.status
        return
    names = [(name or "").strip().lower() for name in wfdb.rdheader(stem, rd_segments=True).sig_name]
    reference = wfdb.rdrecord(stem, channels=[names.index("i")])
    np.testing.assert_array_equal(lead.values, reference.p_signal[: len(lead.values), 0])
    assert lead.samples == reference.sig_len and lead.rate == reference.fs


def read_mat_file(data: bytes) -> None:
    """Read the variables of a .mat file, of which the input is all, or what follows the header, compressed or not."""
    if data[:1] == b"c":
        packed = zlib.compress(data[1:], 1)
        data = MAT_START + struct.pack("<2I", COMPRESSED, len(packed)) + packed
    elif data[:1] == b"u":
        data = MAT_START + data[1:]
    path = FOLDER / "x.mat"
    path.write_bytes(data)
    try:
        variables = read_mat(path)
    except UserError as error:
        assert "x.mat" in str(error)
        return
    # Those variables only: others, left out by our reader, can crash scipy.
    expected = scipy.io.loadmat(io.BytesIO(MAT_START + data[128:]), variable_names=list(variables))
    for name, value in variables.items():
        if name and not name.startswith("__"):  # names that scipy keeps for itself
            np.testing.assert_array_equal(value, expected[name])


def seeds(target: str) -> list[bytes]:
    """Return valid inputs to begin with."""
    if target == "record":
        return [*HEADERS, *(header + BETWEEN + SIGNAL for header in HEADERS)]
    arrays = [{"feats": np.ones((12, 30), np.float32), "idx": 7}, {"a": np.arange(3, dtype=np.int16)}, {"b": 0.5}]
    files = [encode_mat(variables) for variables in arrays]
    for variables in [*arrays, {"s": {"x": 1}}, {"c": np.array(["x", 2], dtype=object)}, {"t": "text"}]:
        file = io.BytesIO()
        scipy.io.savemat(file, variables)
        files.append(file.getvalue())
    return [*files, *(b"u" + file[128:] for file in files), *(b"c" + file[128:] for file in files[1:3])]


def main() -> None:
    """Fuzz one reader, or read one input again."""
    target, what = sys.argv[1:3]
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    read = {"record": read_record, "mat": read_mat_file}[target]
    arguments = [
        sys.argv[0],
        "-timeout=20",
        "-rss_limit_mb=4096",
        "-max_len=4096",
        "-verbosity=0",
        "-print_final_stats=1",
    ]
    if what.isdigit():
        corpus = FOLDER / "corpus"
        corpus.mkdir(exist_ok=True)
        for number, seed in enumerate(seeds(target)):
            read(seed)
            (corpus / str(number)).write_bytes(seed)
        arguments += [f"-max_total_time={what}", str(corpus)]
    else:
        arguments += [what]
    atheris.Setup(arguments, read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
