"""Damaged copies of valid files: bytes flipped, cut, moved and replaced; cells and values that trip parsers."""

import contextlib
import copy
import csv
import io
import json
import re
import signal

from hypothesis import strategies as st

# What breaks parsers: separators, quotes, signs, numbers beyond any range, special floats, odd Unicode, control bytes.
TOKENS = [
    *(b"", b",", b",,", b'"', b"'", b"\n", b"\r\n", b"\r", b"\t", b" ", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1a"),
    *(b"-1", b"0", b"1e309", b"nan", b"inf", b"1_000", b"9223372036854775808", b"9" * 40, b"0x10", b"1.0", b"\xd9\xa3"),
    *(b"{", b"}", b"[", b"]", b"null", b"true", b"../..", b"/", b"(0)", b"/mV", b"+24", b"x2", b":1", b"#", b"%n"),
    *(b"\x0b", b"\x0c", b"\x1c", b"\xc2\x85", b"\xe2\x80\xa8", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f", b"PK\x03\x04"),
]
CELLS = [
    *("", " ", "nan", "NaN", "None", "NA", "1e5", "1.0", "0.5", "-1", "+1", " 1", "1 ", "1_0", "0x1", "001", "1e-400"),
    *(
        "9" * 18,
        "9" * 19,
        "9" * 30,
        "9223372036854775808",
        "-9223372036854775809",
        "\u0663",
        "\uff11",
        "\u00bd",
        "True",
    ),
    *(
        "a,b",
        'a"b',
        "a\nb",
        "a\r\nb",
        "\ufeff1",
        "\x00",
        "inf",
        "-0",
        "1,5",
        "x" * 140_000,
        "\u2028",
        "train",
        "../../x",
    ),
]
VALUES = [
    *(
        None,
        True,
        False,
        0,
        -1,
        0.5,
        1e400,
        10**30,
        "",
        " ",
        "x",
        "\ud800",
        "\U000f0001",
        "{",
        "{0}",
        "{lead}",
        "(",
        "\\",
    ),
    *([], [[]], {}, {"tem": None}, ["x"], [0], {"x": "x"}, [["x", "x"]], [None]),
]


@st.composite
def bytes_damaged(draw, valid: bytes) -> bytes:
    """Draw `valid` with one to four damages."""
    content = valid
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        length = draw(st.sampled_from([1, 2, 4, 16, 100]))
        match draw(st.sampled_from(["flip", "cut", "truncate", "repeat", "move", "zeros", "token", "bytes"])):
            case "flip" if start < len(content):
                flipped = content[start] ^ (1 << draw(st.integers(0, 7)))
                content = content[:start] + bytes([flipped]) + content[start + 1 :]
            case "cut":
                content = content[:start] + content[start + length :]
            case "truncate":
                content = content[:start]
            case "repeat":
                content = content[: start + length] + content[start:]
            case "move":
                piece, rest = content[start : start + length], content[:start] + content[start + length :]
                there = draw(st.integers(0, len(rest)))
                content = rest[:there] + piece + rest[there:]
            case "zeros":  # what a power failure leaves
                content = content[:start] + bytes(len(content[start : start + length])) + content[start + length :]
            case "token":
                content = content[:start] + draw(st.sampled_from(TOKENS)) + content[start + draw(st.integers(0, 4)) :]
            case "bytes":
                content = content[:start] + draw(st.binary(max_size=8)) + content[start + length :]
    return content


@st.composite
def table_damaged(draw, valid: bytes) -> bytes:
    """Draw a CSV file with one to three of its cells, rows or columns damaged, in some encoding."""
    rows = list(csv.reader(io.StringIO(valid.decode(), newline="")))
    for _ in range(draw(st.integers(1, 3))):
        row = rows[draw(st.integers(0, len(rows) - 1))]
        place = draw(st.integers(0, max(len(row) - 1, 0)))
        other = draw(st.integers(0, max(len(row) - 1, 0)))
        match draw(st.sampled_from(["cell", "drop", "insert", "swap", "copy", "again", "blank", "columns", "float"])):
            case "cell" if row:
                row[place] = draw(st.sampled_from(CELLS))
            case "drop":
                del row[place : place + 1]
            case "insert":
                row.insert(place, draw(st.sampled_from(CELLS)))
            case "swap" if row:
                row[place], row[other] = row[other], row[place]
            case "copy" if row:  # in the header: a column that is a duplicate
                row[place] = row[other]
            case "again":
                rows.insert(draw(st.integers(0, len(rows))), list(row))
            case "blank":
                rows.insert(draw(st.integers(0, len(rows))), [])
            case "columns":  # swapped whole, which changes nothing
                for one in rows:
                    if max(place, other) < len(one):
                        one[place], one[other] = one[other], one[place]
            case "float":  # as pandas writes a column of numbers with a gap
                for one in rows[1:]:
                    if place < len(one) and one[place].isdigit():
                        one[place] += ".0"
    text = io.StringIO(newline="")
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    csv.writer(text, lineterminator=draw(st.sampled_from(["\n", "\n", "\r\n", "\r"])), quoting=quoting).writerows(rows)
    return text.getvalue().encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16"])))


@st.composite
def json_damaged(draw, valid: bytes) -> bytes:
    """Draw a JSON file with its values damaged, and sometimes a key that an object has twice."""
    content = draw(values_damaged(json.loads(valid)))
    text = json.dumps(content, indent=draw(st.sampled_from([None, 1])), ensure_ascii=draw(st.booleans()))
    keys = list(re.finditer(r'"([^"\\]*)": ', text))
    if keys and draw(st.integers(0, 5)) == 0:
        key = draw(st.sampled_from(keys))
        text = text[: key.start()] + f'"{key[1]}": {json.dumps(draw(st.sampled_from(VALUES)))}, ' + text[key.start() :]
    return text.encode("utf-8", "surrogatepass")


@st.composite
def values_damaged(draw, valid, odd=tuple(VALUES)):
    """Draw nested dicts and lists with one to three of their values replaced, removed, repeated or renamed."""
    content = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        holder, key, node = None, None, content
        while isinstance(node, (dict, list)) and node and (holder is None or draw(st.integers(0, 3))):
            holder, key = node, draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
            node = holder[key]
        if holder is None:
            content = copy.deepcopy(draw(st.sampled_from(odd)))
            continue
        match draw(st.sampled_from(["value", "value", "remove", "repeat", "rename", "string"])):
            case "value":
                holder[key] = copy.deepcopy(draw(st.sampled_from(odd)))
            case "remove":
                del holder[key]
            case "repeat" if isinstance(holder, list):
                holder.insert(draw(st.integers(0, len(holder))), copy.deepcopy(node))
            case "rename" if isinstance(key, str):
                place = draw(st.integers(0, len(key)))
                del holder[key]
                holder[key[:place] + draw(st.sampled_from(["", "x", "_"])) + key[place + 1 :]] = node
            case "string" if not isinstance(node, (dict, list)):
                holder[key] = str(node)
    return content


def damaged(name: str, valid: bytes):
    """Return the strategy of damaged copies of a file: of its bytes, and by its form where its name tells that."""
    form = {"csv": table_damaged, "json": json_damaged}.get(name.rpartition(".")[2])
    return st.one_of(bytes_damaged(valid), form(valid)) if form else bytes_damaged(valid)


class Hang(BaseException):
    """No answer in time; not an `Exception`, which a reader may take for a damaged file."""


@contextlib.contextmanager
def no_hang(seconds: float = 20):
    """Fail when the block takes longer."""

    def fail(*_):
        raise Hang(f"no answer after {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
