"""Where the tests run.

Every test that takes the `device` fixture runs on the CPU, and once more on the GPU where there is
one. `--device cpu`, `--device cuda` or FUSED_SSIM_TEST_DEVICE asks for one of them alone; asking for
a GPU that is not there is an error, not a row of skips. Tests that only make sense on a GPU carry
the mark `gpu` and are skipped for want of one; those of torch.compile carry `compiles` and are
skipped under a torch older than 2.4. Single tests name the torch that they need. This suite skips for
no other reason.

Every test that takes `way` runs as users have it ("default": kernels where there are some), and
once more with all sent to the composite of torch operations. FUSED_SSIM_COMPOSITE=1 sends the
whole suite there.
"""

from __future__ import annotations

import os
from pathlib import Path

# Idle OpenMP threads sleep instead of spinning: on a machine with other work beside it, the suite
# is several times faster. Read when torch loads its OpenMP, so it comes before that.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from hypothesis import HealthCheck, settings

from fused_ssim import _route

# Tests of folders that a copy for the tests of a wheel (tools/wheels/matrix.py) leaves out.
_NEEDS = {
    "test_conda.py": "conda",
    "test_examples.py": "examples",
    "test_index.py": "index",
    "test_release.py": "index",
}
_ROOT = Path(__file__).resolve().parent.parent
collect_ignore = [test for test, folder in _NEEDS.items() if not (_ROOT / folder).is_dir()]

# The gate sees the same examples every time; HYPOTHESIS_PROFILE=explore looks for new ones.
_COMMON = {
    "deadline": None,  # the first call of a kernel or an oracle may be slow
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}
settings.register_profile("gate", derandomize=True, max_examples=60, **_COMMON)
settings.register_profile("explore", max_examples=1000, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        choices=["all", "cpu", "cuda"],
        default=os.environ.get("FUSED_SSIM_TEST_DEVICE", "all"),
        help="where to run: all that is there (default), cpu, or cuda",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "gpu: needs a GPU, and is skipped only for want of one")
    config.addinivalue_line(
        "markers", "compiles: uses torch.compile(fullgraph=True), for which we need torch 2.4"
    )
    config.addinivalue_line(
        "markers", "reduced: a small set of numeric tests that reaches every kind of kernel"
    )
    if torch.__version__ < "2.10":  # parts of torch warn of each other
        config.addinivalue_line("filterwarnings", "ignore:::torch[._]")
    if config.getoption("--device") == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--device cuda: torch sees no GPU on this machine")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--device")
        devices = ["cpu", "cuda"] if chosen == "all" else [chosen]
        if not torch.cuda.is_available() and "cuda" in devices:
            devices.remove("cuda")
        metafunc.parametrize("device", devices)
    if "way" in metafunc.fixturenames:
        ways = ["composite"] if _route.composite_is_forced else ["default", "composite"]
        metafunc.parametrize("way", ways)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    # Not a fixture: Hypothesis refuses those that are set up once for many examples.
    way = item.callspec.params.get("way") if hasattr(item, "callspec") else None
    before = _route.composite_is_forced
    _route.composite_is_forced = before or way == "composite"
    try:
        return (yield)
    finally:
        _route.composite_is_forced = before


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.__version__ < "2.4":
        for item in items:
            if item.get_closest_marker("compiles"):
                item.add_marker(
                    pytest.mark.skip(reason="torch.compile traces Python's operators from 2.4 on")
                )
    if config.getoption("--device") == "cpu":
        unwanted = [item for item in items if item.get_closest_marker("gpu")]
        config.hook.pytest_deselected(items=unwanted)
        items[:] = [item for item in items if item not in unwanted]
    elif not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture
def restore_threads():
    """Lets a test change the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
