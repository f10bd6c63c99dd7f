"""What only a GPU can get wrong: streams, graphs, several devices, and agreement with the CPU."""

from __future__ import annotations

import gc
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fused_ssim import fused_ssim, l1_ssim_loss, ssim
from images import PAIRS, noise_pair, pair
from measure import leaf, max_error, relative_error

pytestmark = pytest.mark.gpu

DIFFERENT = [p.name for p in PAIRS if not p.name.endswith(("identical", "_equal", "black"))]


def images(*shape, device="cuda"):
    return tuple(leaf(image.to(device)) for image in noise_pair(*(shape or (2, 3, 133, 147))))


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("name", [p.name for p in PAIRS])
def test_values_as_on_the_cpu(name, padding):
    x, y = pair(name)
    bound = 1e-4 if "photo" in name or name == "page" else 1e-5
    on_cpu = ssim(x, y, padding=padding, reduction="none")
    on_gpu = ssim(x.cuda(), y.cuda(), padding=padding, reduction="none")
    assert max_error(on_gpu, on_cpu) <= bound
    assert max_error(fused_ssim(x.cuda(), y.cuda(), padding), fused_ssim(x, y, padding)) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_gradients_as_on_the_cpu(dtype):
    bound = {torch.float16: 2**-10, torch.bfloat16: 2**-7, torch.float64: 1e-11}.get(dtype, 1e-5)
    results = []
    for device in ("cpu", "cuda"):
        x, y = (leaf(image.detach().to(dtype)) for image in images(device=device))
        for value in (ssim(x, y, reduction="sum"), l1_ssim_loss(x, y) * x.numel()):
            results.append(torch.autograd.grad(value, (x, y)))
    for on_cpu, on_gpu in zip(results[:2], results[2:], strict=True):
        for a, b in zip(on_cpu, on_gpu, strict=True):
            assert relative_error(b, a) <= bound


def test_images_on_cpu_and_gpu():
    x, y = images()
    for call in (fused_ssim, l1_ssim_loss, ssim):
        with pytest.raises(ValueError, match=r"cpu.*cuda|cuda.*cpu"):
            call(x, y.detach().cpu())
        with pytest.raises(ValueError, match=r"cpu.*cuda|cuda.*cpu"):
            call(x.detach().cpu(), y)


def test_images_on_different_gpus():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x, y = images()
    with pytest.raises(ValueError, match=r"cuda:0.*cuda:1"):
        fused_ssim(x, y.detach().to("cuda:1"))


def test_on_a_gpu_that_is_not_current():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    expected = torch.autograd.grad(fused_ssim(*(both := images())), both)
    both = images(device="cuda:1")
    assert torch.cuda.current_device() == 0
    value = fused_ssim(*both)
    assert value.device == torch.device("cuda:1")
    for found, reference in zip(torch.autograd.grad(value, both), expected, strict=True):
        assert torch.equal(found.cpu(), reference.cpu())
    assert torch.cuda.current_device() == 0


def step(x, y):
    loss = l1_ssim_loss(x, y) + (1 - ssim(x, y, reduction="none")).mean()
    return (loss.detach(), *torch.autograd.grad(loss, (x, y)))


def test_runs_on_the_current_stream():
    x, y = images(4, 3, 515, 517)
    expected = step(x, y)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # The inputs are ready only after a long wait on this stream: a kernel on another stream
        # would read the zeros.
        a, b = torch.zeros_like(x), torch.zeros_like(y)
        torch.cuda._sleep(200_000_000)
        with torch.no_grad():
            a.copy_(x)
            b.copy_(y)
        found = step(leaf(a), leaf(b))
    stream.synchronize()
    for ours, reference in zip(found, expected, strict=True):
        assert torch.equal(ours, reference)


def test_does_not_wait_for_the_gpu():
    x, y = images()
    step(x, y)
    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(x, y)
            ssim(x, y, reduction="channel", window_size=7)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # That mode knows torch's own calls only; a long kernel ahead shows the others.
    begin, end = torch.cuda.Event(), torch.cuda.Event()
    begin.record()
    torch.cuda._sleep(1_000_000_000)
    step(x, y)
    end.record()
    assert not end.query()
    torch.cuda.synchronize()


def test_cuda_graph():
    x, y = images()
    warm_up = torch.cuda.Stream()
    warm_up.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm_up):
        for _ in range(3):
            step(x, y)
    torch.cuda.current_stream().wait_stream(warm_up)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(x, y)
    for seed in range(3):
        a, b = noise_pair(*x.shape, seed=seed)
        with torch.no_grad():
            x.copy_(a.cuda())
            y.copy_(b.cuda())
        graph.replay()
        torch.cuda.synchronize()
        expected = step(leaf(a.cuda()), leaf(b.cuda()))
        for ours, reference in zip(captured, expected, strict=True):
            assert torch.equal(ours, reference)


@pytest.mark.filterwarnings(
    "ignore:.*lru_cache", "ignore:.*graph_pool", "ignore:The AccumulateGrad node's stream"
)
def test_graphed_callables():
    x, y = images()
    graphed = torch.cuda.make_graphed_callables(lambda a, b: l1_ssim_loss(a, b), (x, y))
    for seed in range(3):
        a, b = (leaf(image.cuda()) for image in noise_pair(*x.shape, seed=seed))
        found, expected = graphed(a, b), l1_ssim_loss(a, b)
        assert torch.equal(found, expected)
        expected = torch.autograd.grad(expected, (a, b))
        for ours, reference in zip(torch.autograd.grad(found, (a, b)), expected, strict=True):
            assert torch.equal(ours, reference)


def test_more_launches_in_graphs_than_counters():
    # Each captured launch holds a counter of a pool (kCounterSlots in src/cuda/params.h).
    x, y = (image.detach() for image in images(1, 1, 16, 16))
    expected = ssim(x, y)
    gc.collect()  # an earlier graph that ended within a capture would spoil it

    def captured(launches):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            values = torch.stack([ssim(x, y) for _ in range(launches)])
        return graph, values

    def check(graphs):
        streams = [torch.cuda.Stream() for _ in graphs]
        torch.cuda.synchronize()
        for (graph, values), stream in zip(graphs, streams, strict=True):
            values.zero_()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                graph.replay()
        torch.cuda.synchronize()
        for _, values in graphs:
            assert torch.equal(values, expected.expand_as(values))

    for _ in range(5):  # 50,000 in all, whose graphs are gone when the next one comes
        check([captured(10_000)])
        gc.collect()
        torch.cuda.synchronize()
        time.sleep(0.2)  # CUDA tells of a graph's end on a thread of its own
    alive = []

    def fill():
        while len(alive) < 4:
            alive.append(captured(10_000))

    with pytest.raises(RuntimeError, match="CUDA graphs that are alive hold as many launches"):
        fill()
    assert len(alive) == 3
    check(alive)
    assert torch.equal(ssim(x, y), expected)


def test_allocates_by_torch_alone():
    x, y = images(2, 3, 515, 517)

    def others():
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        return total - free - torch.cuda.memory_reserved()

    step(x, y)
    ssim(x, y, window_size=31).backward()
    before = others()
    for _ in range(3):
        step(x, y)
        ssim(x, y, window_size=31).backward()
    assert others() <= before


def test_threads_with_streams_of_their_own():
    pairs = [noise_pair(2, 3, 133 + i, 147, seed=i) for i in range(4)]
    pairs = [tuple(image.cuda() for image in pair) for pair in pairs]
    expected = [step(leaf(x), leaf(y)) for x, y in pairs]
    torch.cuda.synchronize()

    def work(pair):
        with torch.cuda.stream(torch.cuda.Stream()):
            results = [step(leaf(pair[0]), leaf(pair[1])) for _ in range(20)]
            torch.cuda.current_stream().synchronize()
        return results

    with ThreadPoolExecutor(4) as pool:
        for results, reference in zip(pool.map(work, pairs), expected, strict=True):
            for found in results:
                assert all(torch.equal(a, b) for a, b in zip(found, reference, strict=True))


@pytest.mark.parametrize("size", [(61, 75), (256, 256), (700, 520), (1081, 1917)])
def test_launches_see_what_the_ones_before_wrote(size):
    # Launches overlap (src/cuda/launches.h): each here reads what the one before it writes.
    x, y = (image.detach() for image in images(1, 3, *size))

    def chain(wait):
        results = []
        image = x
        for _ in range(6):
            image = leaf(image)
            value = ssim(image, y, reduction="sum")
            wait()
            (image,) = torch.autograd.grad(value, image)
            wait()
            results += [value.detach(), image]
        return results

    for fast, slow in zip(chain(lambda: None), chain(torch.cuda.synchronize), strict=True):
        assert torch.equal(fast, slow)


# torch's own: it begins with a graph of nothing.
@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning")
def test_compiled_with_cuda_graphs():
    torch._dynamo.reset()
    compiled = torch.compile(l1_ssim_loss, fullgraph=True, mode="reduce-overhead")
    x, y = images()
    for _ in range(3):
        torch.compiler.cudagraph_mark_step_begin()
        loss = compiled(x, y)
        found = [gradient.clone() for gradient in torch.autograd.grad(loss, (x, y))]
    expected = torch.autograd.grad(l1_ssim_loss(x, y), (x, y))
    for ours, reference in zip(found, expected, strict=True):
        assert relative_error(ours, reference) <= 1e-6
    torch._dynamo.reset()


def test_error_leaves_the_gpu_usable():
    x, y = images()
    with pytest.raises(ValueError, match="window"):
        ssim(x[..., :8, :8], y[..., :8, :8], padding="valid")
    torch.cuda.synchronize()
    assert fused_ssim(x, y).isfinite()
