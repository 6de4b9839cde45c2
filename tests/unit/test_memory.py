"""Memory that is freed is there for the next step."""

import platform
import subprocess
import sys

import pytest

TAKEN_AGAIN = """
import resource
{before}
size = 31 * 2**20 - 4096
for _ in range(3):
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    small, large = bytes(2**10), b"x" * size
    larger = [b"x" * size for _ in range(3)]
    del small, large, larger
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep freed memory")
@pytest.mark.parametrize(
    ("before", "kept"), [("from frostline.memory import keep_freed_memory as keep; keep(); keep()", True), ("", False)]
)
def test_what_is_freed_is_not_asked_of_the_system_again(before: str, kept: bool) -> None:
    program = TAKEN_AGAIN.format(before=before)
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    pages = int(said.stdout)
    assert pages < 500 if kept else pages > 5000
