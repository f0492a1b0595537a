"""Files of `torch.save`, read as data: plain values, tensors and NumPy arrays.

Such a file is a zip archive of a pickle and of the bytes of each tensor. A pickle is a program. PyTorch's restricted
reader (`torch.load(weights_only=True)`) runs no foreign code, but a file of 2 kB can have it take all memory, keep it
busy for hours or crash Python. Here a file calls the functions in `GLOBALS` only, for no more than genuine files call
them for, and takes no more memory than it is large.
"""

import collections
import io
import math
import pickle
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

MOST_NESTED = 100
MOST_DIMENSIONS = 32  # the product of very many sizes takes hours


class RefusedGlobal(Exception):
    """A file asks for a class or function outside `GLOBALS`; the message is its name."""


def read_archive(path: Path) -> Any:
    """Return what a file of `torch.save` holds, its tensors on the CPU.

    Raises
    ------
    RefusedGlobal
        The file asks for more than values, tensors and arrays of numbers.
    OSError
        The file cannot be opened.
    Exception
        Of any kind: it is damaged, no such file, or holds more than its bytes.
    """
    with path.open("rb") as file:
        try:
            return _read_archive(file, path.stat().st_size)
        except OSError as error:  # a damaged table of entries sends the reader to a place before the file
            raise ValueError(f"its parts cannot be read: {error.strerror}") from None


def _read_archive(file: IO[bytes], size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("its entries are compressed, which PyTorch's are not")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("its entries are larger than the file")
        [root] = [match[1] for entry in entries if (match := re.fullmatch("([^/]+/)data.pkl", entry.filename))]
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != sys.byteorder.encode():
            raise ValueError("it was written on a machine with another byte order")
        pickled = archive.read(f"{root}data.pkl")
        content = _Unpickler(pickled, _storages(archive, f"{root}data/")).load()
    # Every value takes a byte of the pickle; a tensor that two layers share is listed twice.
    refuse_excess(content, most_values=len(pickled), most_bytes=2 * size)
    return content


def refuse_excess(content: Any, *, most_values: int, most_bytes: int) -> None:
    """Raise `ValueError` if values or arrays are more than that, or nested too deep.

    A value can be listed many times, or within itself: a file of a few bytes can describe more than any memory holds.
    """
    values, size, stack = 0, 0, [(content, 0)]
    while stack:
        value, depth = stack.pop()
        values += 1
        if isinstance(value, (Tensor, np.ndarray)):
            size += value.nbytes
        if values > most_values or size > most_bytes or depth > MOST_NESTED:
            raise ValueError("it lists a value within itself, or far more often than a checkpoint does")
        if isinstance(value, dict):
            stack += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, (list, tuple)):
            stack += [(item, depth + 1) for item in value]


def _storages(archive: zipfile.ZipFile, folder: str) -> Callable[[str, torch.dtype, int], Tensor]:
    """Return a function that reads the numbers of a tensor, each once: its entry, dtype and size to Tensor (size,)."""
    read: dict[str, Tensor] = {}

    def storage(key: str, dtype: torch.dtype, size: int) -> Tensor:
        if not isinstance(key, str):  # see _is_key
            raise ValueError("the name of an entry is no text")
        if key not in read:
            content = archive.read(f"{folder}{key}")  # which compares its checksum
            # Not in place on the bytes: PyTorch's memory is aligned, on which the last bit of a sum can depend.
            read[key] = torch.empty(len(content), dtype=torch.uint8)
            read[key].numpy()[:] = np.frombuffer(content, np.uint8)
        if len(read[key]) != size * dtype.itemsize:
            raise ValueError(f"a tensor of {size} numbers has {len(read[key])} bytes")
        return read[key].view(dtype)

    return storage


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler, not the one in C, which makes room for any number of values that a file names.

    It knows the instructions that `torch.save` writes; those that could do more than make plain values are replaced.
    """

    def __init__(self, pickled: bytes, storage: Callable[[str, torch.dtype, int], Tensor]):
        super().__init__(io.BytesIO(pickled))
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in GLOBALS:
            raise RefusedGlobal(f"{module}.{name}")
        return GLOBALS[module, name]

    def persistent_load(self, pid: tuple) -> Tensor:
        _, dtype, key, _, size = pid
        return self.storage(key, dtype, size)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set({key: value} if _is_key(key) else None)

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._set(dict(zip(items[::2], items[1::2])) if all(map(_is_key, items[::2])) else None)

    def _set(self, items: dict) -> None:
        if not isinstance(self.stack[-1], dict) or items is None:
            raise ValueError("a key is neither text nor an integer")
        self.stack[-1].update(items)

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, np.dtype):
            if state[1] not in "<|=":
                raise ValueError("an array in another byte order")
        elif isinstance(target, np.ndarray):
            _, shape, dtype, _, content = state
            fits = isinstance(dtype, np.dtype) and isinstance(content, bytes) and len(shape) <= MOST_DIMENSIONS
            if not fits or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(content):
                raise ValueError("an array with other bytes than its numbers")
            target.__setstate__(state)
        elif isinstance(target, collections.OrderedDict) and isinstance(state, dict) and list(state) == ["_metadata"]:
            target._metadata = state["_metadata"]
        else:
            raise ValueError(f"a state for a {type(target).__name__}")

    def load_long1(self) -> None:
        if (size := self.read(1)[0]) > 9:  # 64 bits and a sign
            raise ValueError("an integer of more than 64 bits")
        self.append(pickle.decode_long(self.read(size)))

    dispatch = {
        code[0]: pickle._Unpickler.dispatch[code[0]]
        for code in (
            *(pickle.PROTO, pickle.STOP, pickle.MARK, pickle.GLOBAL, pickle.BINPERSID, pickle.REDUCE),
            *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET),
            *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE),
            *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.BINFLOAT, pickle.BINUNICODE),
            *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
            *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT),
        )
    } | {
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.BUILD[0]: load_build,
        pickle.LONG1[0]: load_long1,
    }


def _is_key(value: Any) -> bool:
    # Python hashes a key: that of a tuple nested deep enough crashes it.
    return type(value) in (str, int)


# What genuine files call. The arguments are the file's: none may decide how much memory is taken, or what is run.


def _ordered_dict() -> collections.OrderedDict:
    return collections.OrderedDict()


def _empty_bytes() -> bytes:
    return b""


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # other codecs take a time that is quadratic in the length
        raise ValueError(f"bytes as {encoding:.80}")
    return text.encode("latin1")


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_) -> Tensor:
    if len(size) > MOST_DIMENSIONS or math.prod(size) > len(storage):  # a stride of 0 makes many numbers out of one
        raise ValueError(f"a tensor of more than the {len(storage)} numbers that it has")
    return torch.as_strided(storage, size, stride, offset)


def _parameter(data: Tensor, *_) -> Tensor:
    return data


def _dtype(name: str, *_) -> np.dtype:
    if not re.fullmatch("[biuf][1248]", name):
        raise RefusedGlobal(f"numpy.dtype({name[:80]!r})")
    return np.dtype(name)


def _array(*_) -> np.ndarray:
    return np.empty(0)  # `load_build` gives it its shape and content


def _scalar(dtype: np.dtype, content: bytes) -> np.generic:
    if not isinstance(dtype, np.dtype):
        raise ValueError("a number without a dtype")
    [value] = np.frombuffer(content, dtype)
    return value


GLOBALS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _ordered_dict,
    ("__builtin__", "bytes"): _empty_bytes,
    ("_codecs", "encode"): _encode,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "DoubleStorage"): torch.float64,
    ("torch", "FloatStorage"): torch.float32,
    ("torch", "HalfStorage"): torch.float16,
    ("torch", "BFloat16Storage"): torch.bfloat16,
    ("torch", "LongStorage"): torch.int64,
    ("torch", "IntStorage"): torch.int32,
    ("torch", "ShortStorage"): torch.int16,
    ("torch", "CharStorage"): torch.int8,
    ("torch", "ByteStorage"): torch.uint8,
    ("torch", "BoolStorage"): torch.bool,
    ("torch", "ComplexDoubleStorage"): torch.complex128,
    ("torch", "ComplexFloatStorage"): torch.complex64,
    ("numpy", "dtype"): _dtype,
    ("numpy", "ndarray"): None,  # an argument of _array only
    # The validation scores and meters; under the module name of numpy 1 or 2.
    ("numpy.core.multiarray", "_reconstruct"): _array,
    ("numpy._core.multiarray", "_reconstruct"): _array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
}
