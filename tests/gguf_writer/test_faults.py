"""What can go wrong while a GGUF is written: each time one error and no file, or the same file in the end."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gwen25.errors import BadInput
from gwen25.gguf_writer import file as writing
from gwen25.gguf_writer import write
from tests.conftest import REPOSITORY

UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A tiny checkpoint that the test may spoil."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "m.gguf"


def child(code: str, *arguments: Path, wrap: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run `code` in a process of its own, which has `write`, and `model` and `out` from its arguments."""
    start = "import os, resource, shutil, sys\nfrom pathlib import Path\nfrom gwen25.errors import BadInput\n"
    start += "from gwen25.gguf_writer import write\nmodel, out = map(Path, sys.argv[1:])\n"
    command = [*wrap, sys.executable, "-c", start + code, *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)


def sha(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("tensor", [1, 11, 26])  # of 26
def test_killed_while_it_writes(tensor: int, tiny_model: Path, out: Path, tmp_path: Path) -> None:
    done = child(f"write(model, out, 'q8_0', progress=lambda done, total: done == {tensor} and os.kill(os.getpid(), 9))", tiny_model, out)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    write(tiny_model, out, "q8_0")
    assert [file.name for file in out.parent.iterdir()] == [out.name], "what was half-written is gone"
    write(tiny_model, tmp_path / "other.gguf", "q8_0")
    assert sha(out) == sha(tmp_path / "other.gguf")


@pytest.mark.slow  # ten processes, killed at ten moments: half a minute
def test_killed_at_any_moment(tiny_model: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tiny_model, out, "f16")
    whole = sha(out)
    ended = []
    for moment in range(10):
        out.unlink()
        code = "import threading, time\nthreading.Timer(float(os.environ['MOMENT']), lambda: os.kill(os.getpid(), 9)).start()\n"
        # 30 ms a tensor, so that every moment falls into the writing; what is done early waits for its death
        code += "import numpy, gguf\nwrite(model, out, 'f16', progress=lambda done, total: time.sleep(0.03))\ntime.sleep(9)"
        monkeypatch.setenv("MOMENT", str(0.3 + moment * 0.15))
        done = child(code, tiny_model, out)
        assert done.returncode == -signal.SIGKILL
        ended.append(out.exists())
        assert not out.exists() or sha(out) == whole
        write(tiny_model, out, "f16")
        assert sha(out) == whole
    assert not all(ended), "every one was killed too late: nothing was tried"


FULL = """
try:
    write(model, out, "f16")
except BadInput as error:
    print(error)
    sys.exit(2)
"""


def test_a_file_that_may_not_grow(tiny_model: Path, out: Path) -> None:
    """The kernel refuses more bytes in the middle of the data, as a quota does."""
    done = child("resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))" + FULL, tiny_model, out)
    assert (done.returncode, done.stderr) == (2, "")
    assert "m.gguf was not written: [Errno 27] File too large" in done.stdout
    assert list(out.parent.iterdir()) == []


def test_a_disk_that_fills_meanwhile(tiny_model: Path, out: Path) -> None:
    """A file system of 150 kB, real where this user may mount one; it had room when the writing began."""
    mount = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=150k none "$0" && exec "$@"', str(out.parent))
    if shutil.which("unshare") is None or subprocess.run([*mount, "true"], capture_output=True).returncode != 0:
        pytest.skip("no right to mount a small file system")
    code = "from collections import namedtuple\nshutil.disk_usage = lambda _: namedtuple('U', 'free')(10**12)"
    done = child(code + FULL + "\nfinally:\n    print(os.listdir(out.parent))", tiny_model, out, wrap=mount)
    assert (done.returncode, done.stderr) == (2, "")
    assert "m.gguf was not written: [Errno 28] No space left on device" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_a_disk_without_room_is_seen_before_a_byte_is_written(tiny_model: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(out.parent)._replace(free=100_000)
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(BadInput, match=r"has 0\.0 GB free; the file takes"):
        write(tiny_model, out, "f16")
    assert list(out.parent.iterdir()) == []


def test_a_quantizer_that_may_not_write_on(tiny_model: Path, out: Path) -> None:
    pytest.importorskip("cyllama")
    plain = out.parent.with_name("plain.gguf")
    write(tiny_model, plain, "f32")
    code = """
from gwen25 import gguf_writer, llamacpp
from gwen25.errors import Gwen25Error
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with gguf_writer.whole(out) as part:
        llamacpp.quantize(model, part, "q4_k_m")
except Gwen25Error as error:
    print(error)
"""
    assert "quantize failed" in child(code, plain, out).stdout
    assert list(out.parent.iterdir()) == []


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def overwrite(file: Path) -> None:
    with file.open("r+b") as data:
        data.seek(-64, os.SEEK_END)
        data.write(bytes(64))


def replace(file: Path) -> None:
    other = file.with_name("other")
    shutil.copy2(file, other)  # the same size and time: only the inode tells
    other.replace(file)


@pytest.mark.parametrize(("change", "message"), [(cut, "ended while"), (overwrite, "changed while"), (replace, "changed while")])
def test_weights_that_change_under_the_read(change: Callable[[Path], None], message: str, copy: Path, out: Path) -> None:
    def progress(done: int, total: int) -> None:
        if done == 1:
            change(copy / "model.safetensors")

    with pytest.raises(BadInput, match=message):
        write(copy, out, "q8_0", progress=progress)
    assert list(out.parent.iterdir()) == []


def shards(folder: Path) -> dict[str, str]:
    """Two files and their index's map, which is not written yet."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {}
    for number, names in enumerate((sorted(weights)[:9], sorted(weights)[9:]), 1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: weights[name] for name in names}, folder / file)
        places |= dict.fromkeys(names, file)
    return places


def index(folder: Path, places: dict[str, str]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}), encoding="utf-8")


def test_an_index_that_names_the_other_shard(copy: Path, out: Path) -> None:
    places = shards(copy)
    index(copy, {**places, UP: min(places.values()) if places[UP] == max(places.values()) else max(places.values())})
    with pytest.raises(BadInput, match=f"disagree on 1 tensors, such as {UP}"):
        write(copy, out, "f16")


@pytest.mark.parametrize("spoil", [lambda file: cut(file), lambda file: file.unlink()])
def test_a_shard_that_is_cut_off_or_gone(spoil: Callable[[Path], None], copy: Path, out: Path) -> None:
    places = shards(copy)
    index(copy, places)
    spoil(copy / max(places.values()))
    with pytest.raises(BadInput, match=r"is not a whole safetensors file|no such file: .*model-00002"):
        write(copy, out, "f16")
    assert list(out.parent.iterdir()) == []


def test_a_kept_head_is_left_out_where_it_is_the_embedding_and_refused_where_it_is_not(copy: Path, tiny_model: Path, out: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].copy()
    save_file(weights, copy / "model.safetensors")
    write(copy, out, "q8_0")
    write(tiny_model, out.with_name("tied.gguf"), "q8_0")
    assert sha(out) == sha(out.with_name("tied.gguf"))
    weights["lm_head.weight"][-1, -1] = np.float32(0.123)
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(BadInput, match=r"says tie_word_embeddings, and lm_head\.weight differs"):
        write(copy, out, "q8_0")
