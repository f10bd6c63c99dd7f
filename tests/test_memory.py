"""Peak memory: a training step needs the gradient image and little else; inference needs nothing."""

from __future__ import annotations

import sys

import pytest
import torch

from fused_ssim import _operators, fused_ssim, l1_ssim_loss, ms_ssim
from measure import run_python

MIB = 2**20
SLACK = 32 * MIB
# Before torch 2.4 nobody can tell whether a graph is used once more, so its gradient stays beside the
# one that is handed out.
KEPT = int(not hasattr(torch._C._autograd, "_get_current_graph_task_keep_graph"))

# Run in a process of its own: the peak of a resident set never falls again.
PEAK_ON_CPU = """
import ctypes, resource, sys, torch
from fused_ssim import fused_ssim, l1_ssim_loss, ms_ssim, ssim, FusedSSIMMap

def peak():
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used

def lay_out(image):
    return {"contiguous": lambda: image,
            "channels_last": lambda: image.contiguous(memory_format=torch.channels_last),
            "hwc": lambda: image.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
            "half": lambda: image.half()}[layout]()

what, layout = sys.argv[1:]
shape = (1, 3, 2160, 3840)

# Threads, kernels and autograd set themselves up once.
small = torch.rand(1, 3, 300, 300)
a = lay_out(small).clone().requires_grad_()
fused_ssim(a, lay_out(small)).backward()
l1_ssim_loss(a, lay_out(small)).backward()
ssim(a, lay_out(small), reduction="none").sum().backward()
ms_ssim(a, lay_out(small)).backward()

x, y = lay_out(torch.rand(shape)), lay_out(torch.rand(shape))
# Memory that is resident and goes before the step begins would hide what the step takes.
if sys.platform.startswith("linux"):
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    before = 1024 * int(fields["VmRSS"].split()[0])
    def peak():
        with open("/proc/self/status") as file:
            fields = dict(line.split(":", 1) for line in file)
        return 1024 * int(fields["VmHWM"].split()[0])
else:
    before = peak()

x.requires_grad_(what != "inference" and what != "copy")
if what == "training":
    fused_ssim(x, y).backward()
elif what == "scaled training":
    (1 - 0.2 * fused_ssim(x, y)).backward()
elif what == "loss":
    l1_ssim_loss(x, y).backward()
elif what == "temporary image":
    fused_ssim(x * 0.7, y).backward()
elif what == "both images":
    y.requires_grad_()
    fused_ssim(x, y).backward()
elif what == "inference":
    fused_ssim(x, y, train=False)
    fused_ssim(x, y)
elif what == "copy":
    # Linux counts resident pages for each CPU and adds them up in batches: by one thread, little is left out.
    torch.set_num_threads(1)
    x.clone()
elif what == "scales":
    torch.set_num_threads(2)  # each has scratch memory
    ms_ssim(x, y).backward()
elif what == "map":
    FusedSSIMMap.apply(1e-4, 9e-4, x, y).mean().backward()
print(peak() - before, x.numel() * x.element_size())
"""


def peak_on_cpu(what, layout):
    return map(int, run_python(PEAK_ON_CPU, what, layout).split())


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "hwc", "half"])
@pytest.mark.parametrize("what", ["training", "loss", "inference"])
def test_cpu(what, layout):
    extra, image = peak_on_cpu(what, layout)
    gradient = 0 if what == "inference" else image
    assert extra <= (1 + KEPT) * gradient + SLACK, (
        f"{extra / MIB:.0f} MiB beside a gradient of {gradient / MIB:.0f}"
    )
    assert extra >= gradient - MIB, "the measurement must see the gradient"


def test_cpu_scaled_loss():
    extra, image = peak_on_cpu("scaled training", "contiguous")
    assert extra <= (1 + KEPT) * image + SLACK


def test_cpu_both_images():
    extra, image = peak_on_cpu("both images", "contiguous")
    assert extra <= 2 * (1 + KEPT) * image + SLACK


def test_cpu_temporary_image():
    # It is kept for derivatives of the gradient, but no longer than for a step's own backward pass:
    # beside it there is its gradient, and then beside that the gradient of what it was made of.
    extra, image = peak_on_cpu("temporary image", "contiguous")
    assert extra <= 2 * image + SLACK


def test_cpu_map():
    # The map and its gradient (an expanded number), and the image's gradient: no saved partials.
    extra, image = peak_on_cpu("map", "contiguous")
    assert extra <= 2 * image + SLACK


# Of a step of MS-SSIM: the gradients of all scales, 4/3, whose finest takes the place of the halved
# images, 2/3; in Python, for older torch, they lie beside each other.
SCALES = 2.0 if _operators.by_address else 1.4


def test_cpu_scales():
    extra, image = peak_on_cpu("scales", "contiguous")
    assert extra <= (SCALES + KEPT) * image
    assert extra >= 4 / 3 * image - MIB


def test_the_measurement_sees_a_copy():
    extra, image = peak_on_cpu("copy", "contiguous")
    assert extra >= image - 2 * MIB  # pages that were resident before
    assert sys.platform != "linux" or extra <= image + SLACK


@pytest.mark.gpu
def test_cuda_scales():
    x, y = (torch.rand(1, 3, 2160, 3840, device="cuda") for _ in range(2))
    x.requires_grad_()
    ms_ssim(x, y).backward()
    x.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ms_ssim(x, y).backward()
    image = x.numel() * x.element_size()
    assert 1.33 * image <= torch.cuda.max_memory_allocated() - before <= SCALES * image


@pytest.mark.gpu
@pytest.mark.parametrize("loss", [fused_ssim, l1_ssim_loss])
def test_cuda(loss):
    x, y = (torch.rand(1, 3, 2160, 3840, device="cuda") for _ in range(2))
    loss(x, y)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss(x, y)
    assert torch.cuda.max_memory_allocated() - before <= SLACK
    x.requires_grad_()
    torch.cuda.reset_peak_memory_stats()
    loss(x, y).backward()
    image = x.numel() * x.element_size()
    assert torch.cuda.max_memory_allocated() - before <= image + SLACK
