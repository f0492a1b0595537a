"""What is missing on macOS or Windows is done without: tried by taking it away here."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from synthetic_records import make_base
from test_batch import SLEEPER, children, die, double, refuse

from ecg_finetune import operating_system
from ecg_finetune.batch import chunked, run_batch
from ecg_finetune.documents import SCRIPTS
from ecg_finetune.files import UserError
from ecg_finetune.paths import locate

REPOSITORY = Path(__file__).resolve().parent.parent

SPAWNING = """
    from ecg_finetune import operating_system
    operating_system.START_METHOD = "spawn"
"""


def run_after(preparation: str, script: str, *arguments) -> subprocess.CompletedProcess:
    """Run a script of the repository in a process that has run `preparation` before."""
    program = textwrap.dedent(preparation) + "import runpy, sys; runpy.run_path(sys.argv[0], run_name='__main__')"
    start = f"import sys; program = sys.argv.pop(1); del sys.argv[0]; exec({program!r})"
    command = [sys.executable, "-c", start, "", str(REPOSITORY / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_help_needs_nothing_that_windows_lacks():
    program = f"""
        import contextlib, io, os, runpy, signal, sys
        sys.modules["fcntl"] = None
        del os.sched_getaffinity, signal.pthread_sigmask
        for script in {list(SCRIPTS)}:
            sys.argv = [script, "--help"]
            with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.suppress(SystemExit):
                runpy.run_path(script, run_name="__main__")
            assert "--base-dir" in output.getvalue(), script
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr


@pytest.fixture
def spawning(monkeypatch):
    monkeypatch.setattr(operating_system, "START_METHOD", "spawn")


@pytest.mark.usefixtures("spawning")
def test_spawned_workers_give_the_same_in_the_same_order():
    chunks = chunked(range(20), 3)
    assert list(run_batch(double, chunks, workers=2, total=20)) == [double(chunk) for chunk in chunks]


@pytest.mark.usefixtures("spawning")
def test_errors_and_deaths_of_spawned_workers_are_told():
    with pytest.raises(UserError, match="not wanted"):
        list(run_batch(refuse, [[1], [2]], workers=2, total=2))
    with pytest.raises(UserError, match="worker process was killed"):
        list(run_batch(die, [[i] for i in range(20)], workers=2, total=20))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_no_spawned_worker_outlives_its_parent(tmp_path, number, code):
    script = tmp_path / "sleeper.py"
    script.write_text(textwrap.dedent(SPAWNING) + textwrap.dedent(SLEEPER))
    command = [sys.executable, script, tmp_path]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    limit = time.monotonic() + 60
    while len(list(tmp_path.glob("working*"))) < 2 and time.monotonic() < limit:
        time.sleep(0.02)
    workers = children(process.pid)
    assert len(workers) >= 2  # and the resource tracker
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    sent = time.monotonic()
    assert process.wait(60) == code
    while any(worker.exists() for worker in workers) and time.monotonic() < sent + 20:
        time.sleep(0.02)
    assert not any(worker.exists() for worker in workers)
    assert process.stderr.read() == ""


def test_scripts_with_spawned_workers_write_the_same_files(tmp_path):
    base, raw = make_base(tmp_path, 8)
    found = []
    for preparation in ("", SPAWNING):
        for script, more in {
            "preprocess/scripts/preprocess_ecgfm.py": ("--raw-root", raw),
            "build/scripts/build_test_and_finetune_data.py": (),
        }.items():
            process = run_after(preparation, script, "--base-dir", base, "--overwrite", "--workers", 2, *more)
            assert process.returncode == 0, process.stderr
        folders = [locate(base, "lead"), locate(base, "segments")]
        found.append([{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders])
    assert found[0] == found[1]
    assert [len(files) for files in found[0]] == [8, 16]


@pytest.mark.parametrize("masks", [True, False])
def test_ctrl_c_waits_for_the_end_of_the_block(monkeypatch, masks):
    """The process has threads of numpy, to which the system may give the signal as well."""
    if not masks:
        monkeypatch.delattr(signal, "pthread_sigmask")
    before, done = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt), operating_system.ctrl_c_waits():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        done.append("block")
    assert done and signal.getsignal(signal.SIGINT) == before


def test_cores_are_counted_without_affinity(monkeypatch):
    assert 1 <= operating_system.usable_cores() <= os.cpu_count()
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert operating_system.usable_cores() == os.cpu_count()


def test_memory_is_kept_only_where_the_c_library_can(monkeypatch):
    operating_system.keep_freed_memory()
    monkeypatch.setattr(operating_system, "_mallopt", None)
    operating_system.keep_freed_memory()
    assert operating_system._from_libc("no_such_function") is None


def test_a_process_is_there_or_not(monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert operating_system.process_exists(os.getpid()) and operating_system.process_exists(1)
    assert not operating_system.process_exists(ended.pid) and not operating_system.process_exists(10**30)
    monkeypatch.setattr(os, "name", "nt")
    assert operating_system.process_exists(ended.pid)  # not known, and asking would end it


def test_macos_is_asked_to_write_the_disk_s_own_memory_too(tmp_path, monkeypatch):
    class Fcntl:
        F_FULLFSYNC = 51
        calls: list = []
        error: OSError | None = None

        def fcntl(self, _, operation):
            self.calls.append(operation)
            if self.error:
                raise self.error

    there, synced = Fcntl(), []
    monkeypatch.setattr(operating_system, "fcntl", there)
    monkeypatch.setattr(os, "fsync", synced.append)
    with (tmp_path / "file").open("w") as file:
        operating_system.sync_file(file.fileno())
        assert there.calls == [51] and not synced
        there.error = OSError(errno.ENOTSUP, "on a network disk")
        operating_system.sync_file(file.fileno())
        assert synced == [file.fileno()]


def test_only_regular_files_are_opened(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        descriptor, size = operating_system.open_regular(tmp_path / name)
        assert (os.read(descriptor, 10), size) == (b"12345", 5)
        os.close(descriptor)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    before = len(list(Path("/dev/fd").iterdir()))
    for name in ("pipe", "zero", "folder"):
        with pytest.raises(OSError, match=f"not a regular file: .*{name}"):
            operating_system.open_regular(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        operating_system.open_regular(tmp_path / "other")
    assert len(list(Path("/dev/fd").iterdir())) == before


@pytest.mark.skipif(not hasattr(operating_system.fcntl, "F_SETLEASE"), reason="needs Linux's leases")
def test_a_file_that_a_file_server_has_leased_is_waited_for(tmp_path):
    import fcntl

    path = tmp_path / "file"
    path.write_bytes(b"12345")
    holder = path.open("r+b")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        try:
            fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as error:
            pytest.skip(f"no leases on this file system: {error}")
        threading.Timer(0.1, lambda: fcntl.fcntl(holder, fcntl.F_SETLEASE, fcntl.F_UNLCK)).start()
        descriptor, size = operating_system.open_regular(path)
        assert size == 5
        os.close(descriptor)
    finally:
        signal.signal(signal.SIGIO, before)
        holder.close()
