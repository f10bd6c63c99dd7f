// Times of the kernels.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cases.h"
#include "cuda/kernels.h"
#include "cuda/ssim_cuda.h"

namespace harness {

__global__ void fill_noise(void* out, int64_t n, int dtype, unsigned seed) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < n;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    unsigned h = static_cast<unsigned>(i) * 2654435761u + seed;
    h ^= h >> 16, h *= 0x7feb352du, h ^= h >> 15, h *= 0x846ca68bu, h ^= h >> 16;
    const float v = (h >> 8) * (1.0f / 16777216.0f);
    if (dtype == kUInt8) static_cast<unsigned char*>(out)[i] = static_cast<unsigned char>(h >> 8);
    if (dtype == kFloat16) static_cast<__half*>(out)[i] = __float2half(v);
    if (dtype == kBFloat16) static_cast<__nv_bfloat16*>(out)[i] = __float2bfloat16(v);
    if (dtype == kFloat32) static_cast<float*>(out)[i] = v;
    if (dtype == kFloat64) static_cast<double*>(out)[i] = v;
  }
}

// Median time of one launch in microseconds: a graph of launches over rotated buffers, so that the
// L2 cache holds none of a launch's inputs.
double time_launches(int sets, const std::function<void(int, cudaStream_t)>& launch) {
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "stream");
  launch(0, stream);
  check(cudaStreamSynchronize(stream), "warm-up");
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  const int rounds = std::max(1, 48 / sets);
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
  for (int r = 0; r < rounds; ++r)
    for (int i = 0; i < sets; ++i) launch(i, stream);
  check(cudaStreamEndCapture(stream, &graph), "capture");
  check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "event");
  check(cudaEventCreate(&end), "event");
  for (int i = 0; i < 3; ++i) check(cudaGraphLaunch(exec, stream), "replay");
  std::vector<float> times;
  for (int i = 0; i < 15; ++i) {
    check(cudaEventRecord(begin, stream), "record");
    check(cudaGraphLaunch(exec, stream), "replay");
    check(cudaEventRecord(end, stream), "record");
    check(cudaEventSynchronize(end), "replay");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, begin, end), "elapsed");
    times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  check(cudaGraphExecDestroy(exec), "destroy");
  check(cudaGraphDestroy(graph), "destroy");
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaStreamDestroy(stream);
  return times[times.size() / 2] * 1e3 / (rounds * sets);
}

constexpr Shape kOnePixel = {1, 1, 1, 1};

struct BenchSet {
  DeviceImage img1, img2, grad1, grad2, weights, mask;
  DeviceBytes workspace;
  BenchSet(const Case& c, int64_t extra)
      : img1(c.shape, c.types.img1, c.layouts.img1),
        img2(c.shape, c.types.img2, c.layouts.img2),
        // A map that is wanted lies there, too.
        grad1(c.shape, c.types.img1 == kUInt8 ? kFloat32 : c.types.img1, c.layouts.img1),
        grad2(c.kind.grad2 ? c.shape : kOnePixel, c.types.img2, c.layouts.img2),
        weights(c.kind.weighted ? c.shape : kOnePixel, kFloat32),
        mask(c.mask.exists ? mask_shape(c) : kOnePixel, c.mask.dtype),
        workspace(extra) {
    fill_noise<<<1024, 256>>>(img1.base, img1.storage, img1.dtype, 1);
    fill_noise<<<1024, 256>>>(img2.base, img2.storage, img2.dtype, 2);
    fill_noise<<<1024, 256>>>(weights.base, weights.storage, kFloat32, 3);
    fill_noise<<<1024, 256>>>(mask.base, mask.storage, mask.dtype, 4);
  }
  // Of all channels one, or each its own.
  static Shape mask_shape(const Case& c) {
    return {c.shape.batch, c.mask.sharing == Sharing::kNone ? c.shape.channels : 1, c.shape.height,
            c.shape.width};
  }
};

int bench_sets(int64_t bytes) {
  return static_cast<int>(std::min<int64_t>(96, std::max<int64_t>(3, 400000000 / bytes)));
}

// Swaps the two in sizes and strides.
void channels_as_depth(std::initializer_list<int64_t*> of_axes) {
  for (int64_t* axes : of_axes) {
    std::swap(axes[FUSED_SSIM_AXIS_DEPTH], axes[FUSED_SSIM_AXIS_CHANNEL]);
  }
}

// NaN where the kernels do not serve it.
double bench(const Case& c, const fs::cuda::StripChoice* choice = nullptr) {
  DeviceImage value({1, 1, 1, 2}, c.accumulator());
  const auto ask = [&](const BenchSet& set) {
    fs::Request r = c.request();
    r.gradient_of_sum = 0;
    if (c.kind.value) r.value = value.first();
    if (c.kind.mse) r.mse = value.first() + fs::size_of(value.dtype);
    if (c.kind.grad1) r.grad1 = set.grad1.image();
    if (c.kind.grad2) r.grad2 = set.grad2.image();
    if (c.kind.map) r.map = set.grad1.first();
    if (c.kind.weighted) r.map_gradient = set.weights.image();
    if (c.volume) channels_as_depth({r.grad1.strides, r.grad2.strides});
    return r;
  };
  const auto pose = [&](const BenchSet& set) {
    fs::Problem problem = c.problem(set.img1.image(), set.img2.image());
    if (c.mask.exists) {
      problem.mask = set.mask.image();
      problem.mask_mode = c.mask.normalized ? FUSED_SSIM_MASK_NORMALIZED : FUSED_SSIM_MASK_WEIGHTED;
      if (c.mask.sharing != Sharing::kNone) problem.mask.strides[FUSED_SSIM_AXIS_CHANNEL] = 0;
    }
    if (c.volume) {
      problem.windows[fs::kDepth] = problem.windows[fs::kHeight];
      channels_as_depth(
          {problem.sizes, problem.img1.strides, problem.img2.strides, problem.mask.strides});
    }
    return problem;
  };
  int64_t extra = 0;
  {
    const BenchSet probe(c, 0);
    if (fs::cuda::not_served(pose(probe), ask(probe)) != nullptr) return NAN;
    extra = workspace_bytes(pose(probe), ask(probe));
  }
  const int64_t image = c.shape.pixels() * fs::size_of(c.types.img1);
  std::vector<std::unique_ptr<BenchSet>> sets;
  for (int i = 0; i < bench_sets(3 * image); ++i) {
    sets.push_back(std::make_unique<BenchSet>(c, extra));
  }
  return time_launches(static_cast<int>(sets.size()), [&](int i, cudaStream_t stream) {
    const BenchSet& set = *sets[i];
    check(fs::cuda::run(pose(set), ask(set), set.workspace.data, stream, choice), "bench");
  });
}

// In place by exactly 1, it returns at once.
double bench_scale(const Shape& s, bool by_one) {
  std::vector<std::unique_ptr<DeviceImage>> units, outs;
  for (int i = 0; i < bench_sets(2 * s.pixels() * 4); ++i) {
    units.push_back(std::make_unique<DeviceImage>(s, kFloat32));
    outs.push_back(std::make_unique<DeviceImage>(by_one ? kOnePixel : s, kFloat32));
    fill_noise<<<1024, 256>>>(units[i]->base, units[i]->storage, kFloat32, 1);
  }
  DeviceImage up(kOnePixel, kFloat32);
  std::vector<double> upstream = {by_one ? 1.0 : 0.7};
  up.upload(upstream);
  Case c;
  c.shape = s;
  const fs::Problem like = c.problem({}, {});
  return time_launches(static_cast<int>(units.size()), [&](int i, cudaStream_t stream) {
    fs::ScaleRequest r = fused_ssim_scale_request(&like, units[i]->image(), up.first());
    if (!by_one) {
      r.out = outs[i]->image();
      r.factor = 1e-6;
    }
    check(fs::cuda::scale(r, stream), "scale");
  });
}

const std::vector<Shape> kShapes = {{1, 3, 256, 256},   {1, 3, 512, 512},   {1, 3, 1080, 1920},
                                    {1, 3, 2160, 3840}, {5, 5, 1080, 1920}, {1, 3, 1081, 1917}};

using Row = std::pair<std::string, std::function<double(const Shape&)>>;

// The names and the first rows stay as they are: results are compared with those of older builds.
std::vector<Row> bench_table() {
  constexpr Layouts kLast = {Layout::kChannelsLast, Layout::kChannelsLast};
  std::vector<Row> rows;
  const auto add = [&](std::string name, const Kind& kind, const Types& types = {},
                       const Layouts& layouts = {}, const Window& window = kStandard,
                       int32_t statistic = FUSED_SSIM_STATISTIC_SSIM) {
    Case c;
    c.kind = kind, c.types = types, c.layouts = layouts, c.window = window;
    c.statistic = statistic;
    rows.emplace_back(std::move(name), [c](const Shape& shape) {
      Case sized = c;
      sized.shape = shape;
      return bench(sized);
    });
  };
  add("value + gradient", kGradient);
  add("value", kValue);
  add("value + both gradients", kBoth);
  add("L1 + SSIM value + gradient", kL1);
  add("map gradient (one image)", kWeighted);
  add("map", "value map");
  add("value + gradient channels_last", kGradient, {}, kLast);
  add("value channels_last", kValue, {}, kLast);
  add("value + gradient float16", kGradient, {kFloat16, kFloat16});
  add("value + gradient bfloat16", kGradient, {kBFloat16, kBFloat16});
  add("value float16", kValue, {kFloat16, kFloat16});
  add("value bfloat16", kValue, {kBFloat16, kBFloat16});
  add("value + gradient fp16 ch_last", kGradient, {kFloat16, kFloat16}, kLast);
  add("value + gradient window 9", kGradient, {}, {}, {"9", gaussian(9, 1.5)});
  add("value + gradient float64", kGradient, {kFloat64, kFloat64});
  rows.emplace_back("backward multiply", [](const Shape& s) { return bench_scale(s, false); });
  rows.emplace_back("backward multiply by 1", [](const Shape& s) { return bench_scale(s, true); });
  for (const Window& window : std::vector<Window>{{"3", gaussian(3, 1.5)},
                                                  {"5", gaussian(5, 1.5)},
                                                  {"7", gaussian(7, 1.5)},
                                                  {"9", gaussian(9, 1.5)},
                                                  {"11 sigma 1.6", gaussian(11, 1.6)},
                                                  {"uniform 7", uniform(7)},
                                                  {"13", gaussian(13, 2.0)},
                                                  {"33", gaussian(33, 5.5)},
                                                  {"asymmetric 11", kAsymmetric11}}) {
    if (window.name != "9")
      add("value + gradient window " + window.name, kGradient, {}, {}, window);
    add("value window " + window.name, kValue, {}, {}, window);
  }
  add("value uint8", kValue, {kUInt8, kUInt8});
  add("value uint8 channels_last", kValue, {kUInt8, kUInt8}, kLast);
  add("value + gradient uint8 target", kGradient, {kFloat32, kUInt8});
  add("L1 + SSIM v + g uint8 target", kL1, {kFloat32, kUInt8});
  add("value + gradient fp16 + fp32", kGradient, {kFloat16, kFloat32});
  add("value contrast", kValue, {}, {}, kStandard, FUSED_SSIM_STATISTIC_CONTRAST);
  add("value + gradient contrast", kGradient, {}, {}, kStandard, FUSED_SSIM_STATISTIC_CONTRAST);
  add("value + mse", kMse);
  add("value float64", kValue, {kFloat64, kFloat64});
  for (const Mask& mask :
       {Mask{true, kUInt8, Sharing::kChannels}, Mask{true, kFloat32, Sharing::kNone},
        Mask{true, kUInt8, Sharing::kChannels, false, true},
        Mask{true, kFloat32, Sharing::kNone, false, true}}) {
    const std::string of = std::string(mask.normalized ? ", normalized mask of " : ", mask of ") +
                           (mask.dtype == kUInt8 ? "bools" : "float32");
    for (const auto& [name, kind] : {std::pair<const char*, Kind>{"value", kValue},
                                     {"value + gradient", kGradient},
                                     {"value + both gradients", kBoth},
                                     {"L1 + SSIM v + g", kL1}}) {
      Case c;
      c.kind = kind, c.mask = mask;
      rows.emplace_back(name + of, [c](const Shape& shape) {
        Case sized = c;
        sized.shape = shape;
        return bench(sized);
      });
    }
  }
  return rows;
}

const std::vector<Shape> kVolumes = {{1, 32, 64, 64}, {1, 64, 64, 64}, {1, 128, 256, 256}};

std::vector<Row> volume_table() {
  std::vector<Row> rows;
  const Mask weighted = {true, kUInt8, Sharing::kNone};
  const Mask normalized = {true, kUInt8, Sharing::kNone, false, true};
  for (const auto& [of, mask] : {std::pair<const char*, Mask>{"", {}},
                                 {", mask of bools", weighted},
                                 {", normalized mask of bools", normalized}}) {
    for (const auto& [name, kind] : {std::pair<const char*, Kind>{"volume value", kValue},
                                     {"volume value + gradient", kGradient},
                                     {"volume value + both gradients", kBoth}}) {
      Case c;
      c.kind = kind, c.mask = mask, c.volume = true;
      rows.emplace_back(std::string(name) + of, [c](const Shape& shape) {
        Case sized = c;
        sized.shape = shape;
        return bench(sized);
      });
    }
  }
  return rows;
}

void print_header(const std::vector<Shape>& shapes = kShapes) {
  std::printf("%-34s", "us");
  for (const Shape& shape : shapes) std::printf("%16s", text_of(shape).c_str());
  std::printf("\n");
}

// All rows, or those of these names.
void bench_rows(const std::vector<std::string>& names,
                const std::vector<Row>& table = bench_table(),
                const std::vector<Shape>& shapes = kShapes) {
  print_header(shapes);
  for (const Row& row : table) {
    if (!names.empty() && std::find(names.begin(), names.end(), row.first) == names.end()) continue;
    std::printf("%-34s", row.first.c_str());
    for (const Shape& shape : shapes) {
      std::printf("%16.2f", row.second(shape));
      std::fflush(stdout);
    }
    std::printf("\n");
  }
}

double bench_choice(const Shape& shape, bool gradient, const fs::cuda::StripChoice& choice) {
  Case c;
  c.shape = shape;
  c.kind = gradient ? kGradient : kValue;
  return bench(c, &choice);
}

void bench_choices() {
  print_header();
  for (const bool gradient : {true, false}) {
    std::printf("%-34s", gradient ? "v+g strips" : "v   strips");
    for (const Shape& shape : kShapes)
      std::printf("%16.2f", bench_choice(shape, gradient, kStrips));
    std::printf("\n");
    for (const int rows : {8, 12, 16, 20, 22, 24, 26, 30, 32, 38, 40, 46, 47, 48}) {
      std::printf("%s tiles of %-24d", gradient ? "v+g" : "v  ", rows);
      for (int k = 0; k < 2; ++k) {
        fs::cuda::StripChoice choice;
        choice.tile_rows = rows;
        std::printf("%16.2f", bench_choice(kShapes[k], gradient, choice));
      }
      std::printf("\n");
    }
  }
}

// One block of the marching kernel a multiprocessor, or as many as fit: values.
void bench_residents() {
  std::printf("us, one block a multiprocessor and all\n");
  for (const auto& shape :
       {Shape{1, 3, 384, 384}, Shape{1, 3, 512, 512}, Shape{1, 3, 640, 640}, Shape{1, 3, 768, 768},
        Shape{1, 3, 720, 1280}, Shape{1, 3, 1024, 1024}, Shape{1, 3, 1080, 1920},
        Shape{8, 3, 256, 256}, Shape{4, 3, 512, 512}}) {
    std::printf("%-16s", text_of(shape).c_str());
    for (const int resident : {1, 3, 0}) {
      fs::cuda::StripChoice choice;
      choice.resident = resident;
      std::printf("%16.2f", bench_choice(shape, false, choice));
    }
    std::printf("\n");
  }
}

// Squares around the size from which strips take over from tiles.
void bench_crossover() {
  fs::cuda::DeviceFacts device;
  check(fs::cuda::current_device(&device), "device");
  std::printf("us, tiles and strips%14s%16s%16s%16s\n", "value", "", "value+gradient", "");
  for (const int side : {192, 256, 320, 352, 384, 416, 448, 512}) {
    Case c;
    c.shape = {1, 3, side, side};
    std::printf("%-22s", text_of(c.shape).c_str());
    for (const bool gradient : {false, true}) {
      const auto kind = gradient ? fs::cuda::StripKind::kOneGradient : fs::cuda::StripKind::kValue;
      fs::cuda::StripChoice choice = fs::cuda::choose_strips(device, kind, c.problem({}, {}));
      for (const int rows : {choice.tile_rows, 0}) {
        choice.tile_rows = rows;
        std::printf("%16.2f", bench_choice(c.shape, gradient, choice));
      }
    }
    std::printf("\n");
  }
}

void copy_bandwidth() {
  DeviceBytes a(1 << 30), b(1 << 30);
  const double us = time_launches(1, [&](int, cudaStream_t stream) {
    check(cudaMemcpyAsync(b.data, a.data, a.bytes, cudaMemcpyDeviceToDevice, stream), "copy");
  });
  std::printf("copy bandwidth: %.0f GB/s (read + written)\n", 2e-3 * a.bytes / us);
}

}  // namespace harness
