"""Memory that is freed is there for the next step, and for the system when that is asked for."""

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep freed memory")

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
