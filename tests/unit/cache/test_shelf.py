"""What is kept on disk is there whole or not at all, once, and within its bounds."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from frostline.cache.shelf import Hurried, Shape, Shelf
from frostline.data.whole import NotWritten

FOUR = [Shape(sides=(2, 2), dtype=torch.float32)]

FILLING = """
import sys, time, torch
from pathlib import Path
from frostline.cache.shelf import Hurried, Shape, Shelf
def fill(tensors):
    Path(sys.argv[2]).open("a").write("filled ")
    tensors[0].fill_(1)
    time.sleep(float(sys.argv[3]))
    tensors[0].fill_(7)
tensors = Shelf(Path(sys.argv[1]), limit=10**6).entry("one", [Shape(sides=(2, 2), dtype=torch.float32)], fill)
print(tensors[0].sum().item())
"""


def filling(folder: Path, log: Path, seconds: float) -> "subprocess.Popen[str]":
    call = [sys.executable, "-c", FILLING, str(folder), str(log), str(seconds)]
    return subprocess.Popen(call, stdout=subprocess.PIPE, text=True)


def wait_for(file: Path) -> None:
    for _ in range(600):
        if file.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{file} did not come to be")


def of(value: float):
    return lambda tensors: tensors[0].fill_(value)


def never(_) -> None:
    raise AssertionError("made again")


def test_maps_come_back_with_their_channels_where_they_were(tmp_path) -> None:
    maps, shape = torch.randn(4, 3, 2, 5), Shape(sides=(4, 3, 2, 5), dtype=torch.float32, channels_last=True)
    Shelf(tmp_path, limit=1000).entry("maps", [shape], lambda tensors: tensors[0].copy_(maps))
    (kept,) = Shelf(tmp_path, limit=1000).entry("maps", [shape], never)
    assert torch.equal(kept, maps)
    assert kept[torch.tensor([2, 0])].is_contiguous(memory_format=torch.channels_last)


def test_what_was_kept_comes_back_without_being_made_again(tmp_path) -> None:
    shapes = [Shape(sides=(3, 2), dtype=torch.float32), Shape(sides=(3,), dtype=torch.int64)]
    numbers = torch.randn(3, 2)

    def fill(tensors) -> None:
        tensors[0].copy_(numbers)
        tensors[1].copy_(torch.arange(3))

    made = Shelf(tmp_path, limit=10**6).entry("one", shapes, fill)
    again = Shelf(tmp_path, limit=10**6).entry("one", shapes, never)
    for tensors in (made, again):
        torch.testing.assert_close(tensors, [numbers, torch.arange(3)], rtol=0, atol=0)
    again[0].zero_()  # what a reader writes is its own
    assert torch.equal(Shelf(tmp_path, limit=10**6).entry("one", shapes, never)[0], numbers)


def test_a_killed_process_leaves_nothing_that_is_read(tmp_path) -> None:
    process = filling(tmp_path / "shelf", tmp_path / "log", 60)
    wait_for(tmp_path / "log")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = Shelf(tmp_path / "shelf", limit=10**6).entry("one", FOUR, of(3))
    assert kept[0].tolist() == [[3, 3], [3, 3]]
    assert sorted(path.name for path in (tmp_path / "shelf").iterdir()) == ["locks", "one"]


def test_what_was_damaged_is_made_again(tmp_path) -> None:
    shelf = Shelf(tmp_path, limit=10**6)
    shelf.entry("one", FOUR, of(3))
    with (tmp_path / "one" / "0").open("rb+") as file:
        file.seek(12)
        file.write(b"\0\0\xc8\x42")
    assert shelf.entry("one", FOUR, of(4))[0].tolist() == [[4, 4], [4, 4]]


@pytest.mark.parametrize("sums", [b"", b"\xf6\xff\x00", b"00000000\n"])
def test_what_has_lost_its_checksums_is_made_again(sums: bytes, tmp_path) -> None:
    shelf = Shelf(tmp_path, limit=10**6)
    shelf.entry("one", FOUR, of(3))
    (tmp_path / "one" / "checksums").write_bytes(sums)
    assert shelf.entry("one", FOUR, of(4))[0].tolist() == [[4, 4], [4, 4]]
    assert shelf.entry("one", FOUR, of(5))[0].tolist() == [[4, 4], [4, 4]]


def test_who_is_asked_to_stop_does_not_wait_for_another_process(tmp_path) -> None:
    process = filling(tmp_path / "shelf", tmp_path / "log", 60)
    wait_for(tmp_path / "log")
    with pytest.raises(Hurried):
        Shelf(tmp_path / "shelf", limit=10**6).entry("one", FOUR, never, hurried=lambda: True)
    process.kill()
    process.communicate()


def test_the_second_of_two_processes_waits_for_the_first(tmp_path) -> None:
    processes = [filling(tmp_path / "shelf", tmp_path / "log", 1) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in processes] == ["28.0", "28.0"]
    assert (tmp_path / "log").read_text() == "filled "


def test_a_fill_that_fails_leaves_nothing(tmp_path) -> None:
    shelf = Shelf(tmp_path, limit=10**6)
    with pytest.raises(AssertionError, match="made again"):
        shelf.entry("one", FOUR, never)
    assert [path.name for path in tmp_path.iterdir()] == ["locks"]


def test_the_least_used_is_thrown_out_and_its_reader_keeps_it(tmp_path) -> None:
    shelf = Shelf(tmp_path, limit=2 * (FOUR[0].bytes + len("00000000\n")))
    first = shelf.entry("a", FOUR, of(1))
    shelf.entry("b", FOUR, of(2))
    for age, name in enumerate(("b", "a")):
        os.utime(tmp_path / name, (age, age))
    shelf.entry("c", FOUR, of(3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c", "locks"]
    shelf.entry("d", FOUR, of(4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "d", "locks"]
    assert first[0].tolist() == [[1, 1], [1, 1]]


def test_an_entry_by_half_or_a_wrong_one_is_made_anew(tmp_path) -> None:
    shelf = Shelf(tmp_path, limit=10**6)
    shelf.entry("one", FOUR, of(1))
    (tmp_path / "one" / "0").unlink()
    assert shelf.entry("one", FOUR, of(2))[0][0, 0] == 2
    (tmp_path / "one" / "0").write_bytes(b"short")
    assert shelf.entry("one", FOUR, of(3))[0][0, 0] == 3
    assert shelf.entry("one", FOUR, of(4), right=lambda tensors: tensors[0][0, 0] == 4)[0][0, 0] == 4
    (tmp_path / "two").write_text("a file in its place")
    assert shelf.entry("two", FOUR, of(5))[0][0, 0] == 5
    (tmp_path / ".DS_Store").write_text("a stray file")
    assert shelf.entry("three", FOUR, of(6))[0][0, 0] == 6


def test_what_another_process_is_making_is_not_thrown_out(tmp_path) -> None:
    process = filling(tmp_path / "shelf", tmp_path / "log", 3)
    wait_for(tmp_path / "log")
    Shelf(tmp_path / "shelf", limit=FOUR[0].bytes).entry("two", FOUR, of(1))
    assert process.communicate()[0].strip() == "28.0"


def test_where_nothing_can_be_written_a_sentence_says_what_to_do(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritten) as caught:
        Shelf(tmp_path / "file", limit=10**6).entry("one", FOUR, of(1))
    assert str(caught.value) == (
        f"{tmp_path}/file cannot be written to (Not a directory); set the environment variable XDG_CACHE_HOME to a "
        "folder that has room and is yours"
    )
