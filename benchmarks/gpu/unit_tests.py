"""The project's tests with the GPU in use: STATESHAPE_TEST_DEVICE=cuda (CONTRIBUTING.md). Needs pytest and pytest-xdist.

First the families of models, which compare each pass with transformers' own code on the device, then all others. A row for
each test that fails, and the counts after every COUNTED tests and at the end of a part. What compares fp32 with numbers
worked out by hand may fail where `auto` means bf16: read what failed.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest

from benchmarks.common import DEVICE, ROOT
from benchmarks.gpu.record import Job

WORKERS = 6
COUNTED = 250
SAID = 400  # characters of a failure
# a package that only some tests need may be missing here
OPTIONS = ["-p", "no:cacheprovider", "--continue-on-collection-errors"]
TOY = ["tests/test_core_tensors.py"]
FAMILIES = ["tests/test_families.py"]
OTHERS = [
    "tests",
    "--ignore=tests/test_families.py",
    "--ignore=tests/test_gpu_stages.py",
    "--ignore=tests/test_fuzz.py",
    "--ignore=tests/test_hostile.py",
]


class Failures:
    """A pytest plugin that takes down what fails, as it happens."""

    def __init__(self, job: Job) -> None:
        self.job, self.counts = job, Counter[str]()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
            if self.counts.total() % COUNTED == 0:
                self.job.record.add({"check": "tests so far", "counts": dict(self.counts)})
        if report.failed:
            said = str(report.longrepr.reprcrash) if hasattr(report.longrepr, "reprcrash") else str(report.longrepr)
            self.job.record.add({"check": report.nodeid, "passed": False, "error": said[:SAID], "during": report.when})


def run(job: Job) -> None:
    os.environ["STATESHAPE_TEST_DEVICE"] = DEVICE.type
    for name, chosen in {"toy": TOY}.items() if job.is_toy else {"families": FAMILIES, "others": OTHERS}.items():
        failures = Failures(job)
        code = pytest.main(
            ["--rootdir", str(ROOT), *OPTIONS, "-n", "1" if job.is_toy else str(WORKERS), *chosen],
            plugins=[failures],
        )
        job.record.add(
            {"check": f"tests of {name}", "passed": code == 0, "exit_code": int(code), "counts": dict(failures.counts)}
        )
