"""What `import fused_ssim` does: no torch, operators at once beside a torch that is there."""

from __future__ import annotations

import pytest
import torch

import fused_ssim
from installation import run_python


def test_import_brings_no_torch():
    done = run_python(
        "import sys, fused_ssim\n"
        "print(fused_ssim.__version__, 'fused_ssim' in dir(fused_ssim), 'torch' in sys.modules)"
    )
    assert done.stdout == f"{fused_ssim.__version__} True False\n"


def test_operators_are_there_at_once_beside_a_torch_that_is_imported():
    done = run_python(
        "import torch, fused_ssim\n"
        "print(torch.ops.fused_ssim.ssim.default._schema.name, 'fused_ssim.functional' in "
        "__import__('sys').modules)"
    )
    assert done.stdout == "fused_ssim::ssim False\n"


def test_the_first_use_brings_torch():
    done = run_python(
        "import fused_ssim\nmean = fused_ssim.fused_ssim\nimport torch\n"
        "x = torch.rand(1, 3, 16, 16)\nprint(mean(x, x).item())"
    )
    assert done.stdout == "1.0\n"


@pytest.mark.parametrize("name", ["functional", "modules"])
def test_modules_come_with_their_first_use(name):
    done = run_python(
        "import sys, fused_ssim\n"
        f"print({name!r} in dir(fused_ssim), 'torch' in sys.modules, fused_ssim.{name}.__name__)"
    )
    assert done.stdout == f"True False fused_ssim.{name}\n"


@pytest.mark.parametrize("name", fused_ssim.__all__)
def test_every_name_is_there(name):
    assert getattr(fused_ssim, name) is not None
    assert name in dir(fused_ssim)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="'fused_ssim' has no attribute 'sim'"):
        _ = fused_ssim.sim


@pytest.mark.skipif(
    torch.__version__ < (2, 4), reason="torch below 2.4 does not let go of these names"
)
def test_works_without_the_private_names_of_torch():
    # They are missing while the package looks for them; torch itself gets them back.
    done = run_python(
        "import operator, torch, torch.autograd.forward_ad\n"
        "names = ['_C._AutoDispatchBelowAutograd', '_C._functorch', '_C._len_torch_dispatch_stack',\n"
        "    '_C._autograd._get_current_graph_task_keep_graph', '_C._cuda_getCurrentRawStream',\n"
        "    '_C._autograd._top_saved_tensors_default_hooks', 'autograd.forward_ad._current_level']\n"
        "taken = []\n"
        "for name in names:\n"
        "    place, _, last = name.rpartition('.')\n"
        "    module = operator.attrgetter(place)(torch)\n"
        "    if hasattr(module, last):\n"
        "        taken.append((module, last, getattr(module, last)))\n"
        "        delattr(module, last)\n"
        "import fused_ssim._torch_private\n"
        "for module, last, value in taken:\n"
        "    setattr(module, last, value)\n"
        "x = torch.rand(1, 3, 16, 16, dtype=torch.float64, requires_grad=True)\n"
        "y = torch.rand(1, 3, 16, 16, dtype=torch.float64, requires_grad=True)\n"
        "print(torch.autograd.gradcheck(fused_ssim.fused_ssim, (x, y)))\n"
        "loss = fused_ssim.fused_ssim(x, y)\n"
        "loss.backward(retain_graph=True)\n"
        "first = x.grad.clone()\n"
        "loss.backward()\n"
        "print(torch.equal(x.grad, 2 * first))"
    )
    assert done.stdout == "True\nTrue\n"
