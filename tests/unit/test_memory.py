"""Memory that is freed is there for the next step, and for the system; what was loaded is looked through no more."""

import os
import platform
import subprocess
import sys

import pytest

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep freed memory")

STEPS = """
from pathlib import Path
from frostline.memory import give_back_freed_memory, keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

def step():
    return [b"x" * (31 * 2**20 - 4096) for _ in range(4)]

before = resident()
{first}
held = step()
most = resident()
del held
{then}
print((resident() - before) / (most - before))
"""
KEEP, GIVE_BACK = "keep_freed_memory()", "give_back_freed_memory()"


@GLIBC
@pytest.mark.parametrize(
    ("first", "then", "kept"),
    [("", "", False), (KEEP, "", True), (KEEP, GIVE_BACK, False)],
    ids=["by default", "told to", "given back"],
)
def test_what_is_freed_stays_with_the_process_until_it_is_given_back(first: str, then: str, kept: bool) -> None:
    untold = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "LD_"))}
    program = STEPS.format(first=first, then=then)
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=untold)
    share = float(said.stdout)
    assert share > 0.9 if kept else share < 0.4


LOOPS = """
import atexit, gc, weakref
from frostline.memory import give_back_freed_memory, look_past_what_is_loaded

class Loop:
    def __init__(self):
        self.itself = self

atexit.register(lambda: print("at the end", gc.get_freeze_count()))
look_past_what_is_loaded()
print("loaded", gc.get_freeze_count() > 1000, len(gc.get_objects()) < 1000)
loop = weakref.ref(Loop())
give_back_freed_memory()
print("later", loop())
"""


def test_the_collector_looks_past_what_is_loaded_but_not_past_what_comes_later_or_at_the_end() -> None:
    said = subprocess.run([sys.executable, "-c", LOOPS], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines() == ["loaded True True", "later None", "at the end 0"]
