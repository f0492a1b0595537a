"""Damaged copies of valid files: flipped, cut, repeated and replaced bytes, and values that trip parsers."""

import contextlib
import signal

from hypothesis import strategies as st

# What breaks parsers: separators, quotes, signs, numbers beyond any range, special floats, odd Unicode, control bytes.
TOKENS = [
    *(b"", b",", b",,", b'"', b"'", b"\n", b"\r\n", b"\r", b"\t", b" ", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1a"),
    *(b"-1", b"0", b"1e309", b"nan", b"inf", b"1_000", b"9223372036854775808", b"9" * 40, b"0x10", b"1.0", b"\xd9\xa3"),
    *(b"{", b"}", b"[", b"]", b"null", b"true", b"../..", b"/", b"(0)", b"/mV", b"+24", b"x2", b":1", b"#", b"%n"),
]


@st.composite
def damaged(draw, valid: bytes) -> bytes:
    """Draw `valid` with one to four damages."""
    content = valid
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        length = draw(st.sampled_from([1, 2, 4, 16, 100]))
        match draw(st.sampled_from(["flip", "cut", "truncate", "repeat", "token", "bytes"])):
            case "flip" if start < len(content):
                flipped = content[start] ^ (1 << draw(st.integers(0, 7)))
                content = content[:start] + bytes([flipped]) + content[start + 1 :]
            case "cut":
                content = content[:start] + content[start + length :]
            case "truncate":
                content = content[:start]
            case "repeat":
                content = content[: start + length] + content[start:]
            case "token":
                content = content[:start] + draw(st.sampled_from(TOKENS)) + content[start + draw(st.integers(0, 4)) :]
            case "bytes":
                content = content[:start] + draw(st.binary(max_size=8)) + content[start + length :]
    return content


@contextlib.contextmanager
def no_hang(seconds: float = 20):
    """Fail when the block takes longer."""

    def fail(*_):
        raise AssertionError(f"no answer after {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
