"""Checks the shapes that public maths declares (jaxtyping + beartype), keeps to one thread, and hides GPUs.

Tests are for a CPU, on any machine. STATESHAPE_TEST_DEVICE=cuda shows them the GPU (CONTRIBUTING.md).
"""

import dataclasses
import os

import pytest
from jaxtyping import install_import_hook

from stateshape.study.threads import take_threads

# Before anything imports these packages: the hook rewrites modules as they are imported.
install_import_hook(
    [
        "stateshape.losses",
        "stateshape.core.tensors",
        "stateshape.signals",
        "stateshape.drift",
        "stateshape.analysis.statistics",
        "stateshape.locality.told_apart",
        "stateshape.locality.divergence",
        "stateshape.locality.geometry",
        "stateshape.locality.reachability",
    ],
    "beartype.beartype",
)
# Each of several workers, and the processes that its tests start. Also NumPy's and SciPy's libraries: their threads spin while
# they wait, which takes ten times the work where others use the cores.
take_threads(1)
if os.environ.get("STATESHAPE_TEST_DEVICE", "cpu") == "cpu":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when CUDA is first used; processes that tests start inherit it

# Studies here are made to be stopped, resumed, damaged or read, not to be looked at: drawing would take a third of their time.
# What is drawn, and that it is, is tested in test_report*.py and, by whole commands, in test_cli.py.
FEW_PLOTS = {
    "test_along",
    "test_audit",
    "test_docs",
    "test_manifest",
    "test_origin",
    "test_planned_claims",
    "test_record_reading",
    "test_report_costs",
    "test_run_data",
    "test_starts",
    "test_study",
}


@pytest.fixture(autouse=True, scope="module")
def draw_few_plots(request):
    """Reports of these tests have one plot."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ in FEW_PLOTS:
            patch.setattr("stateshape.report.write.all_plots", few_plots)
        yield


def few_plots(study):
    from stateshape.report.contents import Plots
    from stateshape.report.parts.scatter import gain_plot

    parts = {field.name: [] for field in dataclasses.fields(Plots)}
    gain = gain_plot(study.plan, study.comparison)
    return Plots(**parts | {"gain": [] if gain is None else [gain]})
