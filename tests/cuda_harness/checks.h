// The cases that are run, and what is no single case.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "bench.h"
#include "cases.h"
#include "cuda/ssim_cuda.h"

namespace harness {

void progress(const char* name) {
  static const auto start = std::chrono::steady_clock::now();
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
  std::printf("%s: %d cases, %d failures, %.0f s\n", name, cases_run, failures, passed.count());
  std::fflush(stdout);
}

void test_special();
void test_images();

const std::vector<Types> kEqualTypes(kTypes.begin(), kTypes.begin() + 4);
const std::vector<int32_t> kStatistics = {FUSED_SSIM_STATISTIC_SSIM, FUSED_SSIM_STATISTIC_CONTRAST,
                                          FUSED_SSIM_STATISTIC_LUMINANCE};

Choices small_choices() {
  Choices small;
  small.heights = {37};
  small.channels = {2};
  small.widths = {152};
  small.contents = {Content::kNoise};
  small.outputs = {Layout::kContiguous, Layout::kChannelsLast, Layout::kShifted};
  small.reductions = {FUSED_SSIM_MEAN, FUSED_SSIM_CHANNEL};
  return small;
}

void test_small_masks() {
  Choices small = small_choices();
  small.widths = {67};
  small.statistics = kStatistics;
  small.windows = {kStandard, {"5", gaussian(5, 1.5)}, {"13", gaussian(13, 2.0)}};
  small.masks = kMasks;
  small.run(1);
  progress("small masks");
}

void test_small() {
  progress("begin");
  Choices small = small_choices();
  small.run(1);
  small.windows.clear();
  for (const Window& window : kWindows) {
    for (const char* name :
         {"1", "5", "uniform 7", "given 5", "13", "33", "asymmetric 9", "3x13"}) {
      if (window.name == name) small.windows.push_back(window);
    }
  }
  small.statistics = kStatistics;
  small.widths = {67};
  small.run(1);
  test_small_masks();
  Case c;
  c.shape = {1, 1, 300, 520};
  for (const Kind& kind : kKinds) {
    c.kind = kind;
    run_case(c);
  }
  progress("small");
  test_special();
}

void test_all() {
  progress("begin");
  Choices tiny;
  for (int64_t side = 1; side <= 13; ++side) tiny.heights.push_back(side);
  tiny.widths = tiny.heights;
  tiny.types = kEqualTypes;
  tiny.run(3);
  progress("tiny");
  // Seams of strips, vectors, chunks and segments, and every alignment of rows.
  Choices seams;
  seams.widths = {8,   16,  31,  53,  117, 118, 119, 120, 121, 126, 127, 128,
                  129, 136, 232, 243, 244, 245, 246, 247, 251, 252, 253, 254,
                  255, 256, 257, 264, 376, 480, 481, 505, 517, 520};
  seams.types = {{}};
  seams.contents = {Content::kNoise};
  seams.run(2);
  seams.types = kEqualTypes;
  seams.contents = {Content::kNoise, Content::kPhoto};
  seams.run(2);
  progress("seams");
  Choices types;
  types.widths = {61, 128, 200, 256, 260, 512};
  types.heights = {67, 131};
  types.statistics = kStatistics;
  types.run(3);
  progress("types");
  Choices windows = types;
  windows.windows = kWindows;
  windows.heights = {1, 12, 49, 70};
  windows.widths = {5, 67, 130, 244, 256};
  windows.types = kEqualTypes;
  windows.run(2);
  windows.types = kTypes;
  windows.run(2);
  progress("windows");
  Choices masks = windows;
  masks.masks = kMasks;
  masks.masks.push_back({});
  masks.run(2);
  masks.windows = {kStandard, {"7", gaussian(7, 1.5)}};
  masks.widths = {8, 117, 128, 244, 245, 246, 251, 256, 257, 376, 505, 520};
  masks.heights = {12, 67, 131};
  masks.types = kEqualTypes;
  masks.run(2);
  for (const Shape& shape : {Shape{3, 3, 541, 963}, Shape{1, 3, 1080, 1920}}) {
    for (const Kind& kind : {kGradient, kBoth, kL1, kValue}) {
      for (const Mask& mask : kMasks) {
        Case c;
        c.shape = shape, c.kind = kind, c.mask = mask, c.content = Content::kPhoto;
        c.reduction = shape.batch > 1 ? FUSED_SSIM_IMAGE : FUSED_SSIM_MEAN;
        run_case(c);
      }
    }
  }
  progress("masks");
  test_images();
}

// Contents, and images as large as those of users.
void test_images() {
  // Numbers for the table.
  std::printf("%-14s %12s %12s %12s\n", "content", "map", "mean", "gradient");
  for (int content = 0; content < static_cast<int>(Content::kCount); ++content) {
    Case c;
    c.shape = {1, 3, 541, 963};
    c.content = static_cast<Content>(content);
    c.kind = "value map grad1 grad2";
    const Errors e = run_case(c);
    std::printf("%-14s %12.3g %12.3g %12.3g\n", name_of(c.content), e.map, e.mean, e.grad);
    c.kind = {"value", 0.8};
    run_case(c);
    c.kind = {"value map grad1", 0.8};
    for (const auto& window : {Window{"9", gaussian(9, 1.5)}, Window{"uniform 7", uniform(7)},
                               Window{"21", gaussian(21, 3.5)}}) {
      c.window = window;
      run_case(c);
    }
  }
  // Whole images, some of them above 3 Mpixel.
  for (const auto& shape : {Shape{1, 3, 1081, 1917}, Shape{1, 3, 1080, 1920}, Shape{3, 1, 512, 512},
                            Shape{1, 3, 256, 256}, Shape{1, 1, 2160, 3840}}) {
    Case c;
    c.shape = shape;
    for (const Types& images : std::vector<Types>{{}, {kUInt8, kUInt8}}) {
      c.types = images;
      for (const Content content : {Content::kPhoto, Content::kPhotos}) {
        c.content = content;
        c.kind = kMap;
        run_case(c);
      }
    }
    c.types = {kFloat16, kUInt8};
    c.kind = kL1;
    run_case(c);
    c.types = {kBFloat16, kBFloat16};
    c.kind = kBoth;
    c.window = {"7", gaussian(7, 1.5)};
    run_case(c);
    c.types = {};
    c.window = kStandard;
    c.padding = FUSED_SSIM_VALID;
    c.reduction = FUSED_SSIM_CHANNEL;
    run_case(c);
    c.layouts = {Layout::kChannelsLast, Layout::kChannelsLast};
    c.kind = kMse;
    run_case(c);
  }
  // Partial derivatives of more than 256 MB, in one plane and in several.
  for (const auto& shape : {Shape{1, 1, 4200, 4201}, Shape{3, 3, 1080, 1920}}) {
    Case c;
    c.shape = shape;
    c.window = {"9x11", kAsymmetric9, gaussian(11, 1.5)};
    c.kind = kBoth;
    run_case(c);
    c.types = {kFloat64, kUInt8};
    c.padding = FUSED_SSIM_VALID;
    c.kind = kWeighted;
    run_case(c);
  }
  progress("images");
  // Many planes.
  for (const int32_t reduction : {0, 1, 2, 3}) {
    for (const auto& window :
         {kStandard, Window{"5", gaussian(5, 1.5)}, Window{"asymmetric 9", kAsymmetric9}}) {
      Case c;
      c.reduction = reduction;
      c.window = window;
      c.kind = kGradient;
      c.shape = {70000, 1, 5, 3};
      run_case(c);
      c.shape = {90, 3, 33, 17};
      run_case(c);
      c.kind = kMse;
      run_case(c);
    }
  }
  progress("planes");
  test_special();
}

// The L1 term of images that leave the data range far behind, everywhere or in one corner, to both
// sides of what blocks add up in one word; up to infinite pixels.
void test_large_sums() {
  Case c;
  c.shape = {1, 2, 150, 300};
  const Shape& s = c.shape;
  DeviceImage img1(s, kFloat32), img2(s, kFloat32), grad(s, kFloat32);
  DeviceImage value({1, 1, 1, 1}, kFloat32);
  for (const double factor : {3.0, 40.0, 65535.0, 1e12, 1e30, HUGE_VAL}) {
    for (const int64_t rows : {int64_t{20}, s.height}) {
      std::vector<double> a, b;
      fill(Content::kNoise, s, 9, &a, &b);
      for (int64_t i = 0; i < rows * s.width; ++i) a[i] *= factor;
      img1.upload(a);
      img2.upload(b);
      double expected = 0;
      for (size_t i = 0; i < a.size(); ++i) expected += std::fabs(a[i] - b[i]);
      expected /= static_cast<double>(a.size());
      for (const bool strips : {false, true}) {
        for (const bool gradient : {true, false}) {
          fs::Request request = fused_ssim_request();
          request.value = value.first();
          request.statistic_weight = 0.0;
          request.l1_weight = 1.0;
          if (gradient) request.grad1 = grad.image();
          double first = 0;
          for (int i = 0; i < 4; ++i) {
            run(c.problem(img1.image(), img2.image()), request, strips);
            bool clean = true;
            const double v = value.download(&clean)[0];
            if (i == 0) first = v;
            const bool close = std::fabs(v - expected) <= 3e-7 * expected;
            // The SSIM of such images may be no number.
            expect(std::isfinite(expected) && factor < 1e15 ? close && v == first
                                                            : !std::isfinite(v) || close,
                   "large sums: " + std::to_string(v) + ", not " + std::to_string(expected) +
                       (strips ? " strips" : "") + (gradient ? " gradient" : ""));
          }
        }
      }
    }
  }
}

void test_nan_containment(const Window& window) {
  Case c;
  c.shape = {1, 1, 150, 300};
  c.window = window;
  const Shape& s = c.shape;
  std::vector<double> a, b;
  fill(Content::kNoise, s, 7, &a, &b);
  const int64_t bad_y = 70, bad_x = 243;
  a[bad_y * s.width + bad_x] = NAN;
  b[3 * s.width + 2] = INFINITY;
  DeviceImage img1(s, kFloat32), img2(s, kFloat32), map(s, kFloat32), grad(s, kFloat32);
  img1.upload(a);
  img2.upload(b);
  fs::Request request = fused_ssim_request();
  request.map = map.first();
  request.grad1 = grad.image();
  run(c.problem(img1.image(), img2.image()), request);
  bool clean = true;
  const auto values = map.download(&clean), gradient = grad.download(&clean);
  const auto radius = static_cast<int64_t>(window.rows.size() / 2);
  int64_t wrong = 0;
  for (int64_t i = 0; i < s.height * s.width; ++i) {
    const int64_t y = i / s.width, x = i % s.width;
    const int64_t far = std::min(std::max(std::llabs(y - bad_y), std::llabs(x - bad_x)),
                                 std::max(std::llabs(y - 3), std::llabs(x - 2)));
    wrong += std::isnan(values[i]) != (far <= radius);
    wrong += std::isnan(gradient[i]) != (far <= 2 * radius);
  }
  expect(wrong == 0, "NaN containment, window " + window.name + ": " + std::to_string(wrong));
}

// A NaN that no pixel with a weight sees changes nothing but its own gradient; also where filters,
// which have 11 taps, see it, and the window does not. Under a normalized mask it is enough that it is
// masked itself, and its gradient is 0.
void test_nan_under_mask(const Window& window, int32_t dtype, bool normalized) {
  Case c;
  c.shape = {1, 2, 90, 300};
  c.window = window;
  c.types = {dtype, dtype};
  const Shape& s = c.shape;
  const auto radius = static_cast<int64_t>(normalized ? 0 : window.rows.size() / 2);
  const int64_t bad_y = 40, bad_x = 243, pixels = s.height * s.width;
  std::vector<double> a, b, numbers(s.pixels());
  fill(Content::kNoise, s, 7, &a, &b);
  for (int64_t i = 0; i < s.pixels(); ++i) {
    const int64_t y = i % pixels / s.width, x = i % s.width;
    const bool sees = std::llabs(y - bad_y) <= radius && std::llabs(x - bad_x) <= radius;
    numbers[i] = sees ? 0.0 : random_number(i, 3);
  }
  DeviceImage img1(s, dtype), img2(s, dtype), mask(s, kFloat32), grad(s, dtype);
  DeviceImage value({1, 1, 1, 2}, c.accumulator());
  mask.upload(numbers);
  img2.upload(b);
  std::vector<double> clean_run[2], spoilt_run[2];
  for (auto* found : {clean_run, spoilt_run}) {
    img1.upload(a);
    for (int kind = 0; kind < 2; ++kind) {
      fs::Problem problem = c.problem(img1.image(), img2.image());
      problem.mask = mask.image();
      problem.mask_mode = normalized ? FUSED_SSIM_MASK_NORMALIZED : FUSED_SSIM_MASK_WEIGHTED;
      fs::Request request = fused_ssim_request();
      request.reduction = FUSED_SSIM_CHANNEL;
      request.l1_weight = 0.5;
      request.value = value.first();
      if (kind == 1) request.grad1 = grad.image();
      run(problem, request);
      bool clean = true;
      found[kind] = value.download(&clean);
      if (kind == 1) {
        const auto gradient = grad.download(&clean);
        found[kind].insert(found[kind].end(), gradient.begin(), gradient.end());
      }
    }
    a[bad_y * s.width + bad_x] = NAN;
    a[pixels + bad_y * s.width + bad_x] = HUGE_VAL;
  }
  double worst = 0;
  bool is_zero = true;  // at the masked pixel, where it is not seen
  for (int kind = 0; kind < 2; ++kind) {
    for (size_t i = 0; i < clean_run[kind].size(); ++i) {
      const auto pixel = static_cast<int64_t>(i) - 2;
      const bool is_bad = pixel >= 0 && pixel % pixels == bad_y * s.width + bad_x;
      if (is_bad && !normalized) continue;
      is_zero = is_zero && (!is_bad || (clean_run[kind][i] == 0 && spoilt_run[kind][i] == 0));
      const double scale = pixel >= 0 ? static_cast<double>(pixels) : 1.0;
      const double error = scale * std::fabs(clean_run[kind][i] - spoilt_run[kind][i]);
      if (!(error <= worst)) worst = error;
    }
  }
  expect(worst <= (dtype == kBFloat16 ? 0.3 : 1e-3) && is_zero,
         "NaN under a mask, window " + window.name + ": " + std::to_string(worst));
}

// The same bits from run to run, eagerly and out of a graph.
void test_determinism(const Window& window, const Types& types) {
  Case c;
  c.shape = {1, 1, 150, 300};
  c.window = window;
  c.types = types;
  std::vector<double> a, b;
  fill(Content::kNoise, c.shape, 8, &a, &b);
  DeviceImage img1(c.shape, types.img1), img2(c.shape, types.img2), grad(c.shape, types.img1);
  img1.upload(a);
  img2.upload(b);
  DeviceImage value({1, 1, 1, 1}, kFloat32);
  const fs::Problem problem = c.problem(img1.image(), img2.image());
  fs::Request request = fused_ssim_request();
  request.value = value.first();
  request.grad1 = grad.image();
  DeviceBytes workspace(workspace_bytes(problem, request));
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "stream");
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
  check(fs::cuda::run(problem, request, workspace.data, stream), "run, captured");
  check(cudaStreamEndCapture(stream, &graph), "capture");
  check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  std::vector<double> first;
  for (int i = 0; i < 20; ++i) {
    value.poison();
    grad.poison();
    check(cudaDeviceSynchronize(), "poison");
    check(i % 2 ? cudaGraphLaunch(exec, stream)
                : fs::cuda::run(problem, request, workspace.data, stream),
          "run");
    check(cudaStreamSynchronize(stream), "run");
    bool clean = true;
    std::vector<double> found = grad.download(&clean);
    found.push_back(value.download(&clean)[0]);
    if (i == 0) first = found;
    expect(found == first, "determinism, window " + window.name);
  }
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

// The backward multiply; images of which every other has its rows along the depth.
void test_scale() {
  const Shape s = {3, 2, 19, 23};
  Case c;
  c.shape = s;
  for (const int32_t dtype : {kFloat16, kBFloat16, kFloat32, kFloat64}) {
    for (int layout = 0; layout < static_cast<int>(Layout::kCount); ++layout) {
      if (static_cast<Layout>(layout) == Layout::kExpanded) continue;
      for (int reduction = 0; reduction < 4; ++reduction) {
        for (const bool in_place : {false, true}) {
          for (const bool one : {false, true}) {  // which returns at once in place
            std::vector<double> unit, other;
            fill(Content::kNoise, s, 5, &unit, &other);
            DeviceImage u(s, dtype, static_cast<Layout>(layout));
            DeviceImage o(s, dtype, reduction == 2 ? Layout::kPadded : static_cast<Layout>(layout));
            u.upload(unit);
            const fs::Problem like = c.problem(u.image(), u.image());
            const int64_t n = fs::value_count(reduction, like.sizes);
            std::vector<double> upstream(n);
            for (int64_t i = 0; i < n; ++i) upstream[i] = one ? 1.0 : 1.0 + 0.25 * i;
            DeviceImage up({1, 1, 1, n}, dtype == kFloat64 ? kFloat64 : kFloat32);
            up.upload(upstream);
            fs::ScaleRequest r = fused_ssim_scale_request(&like, u.image(), up.first());
            r.reduction = reduction;
            r.factor = one || reduction == FUSED_SSIM_MEAN ? 1.0 : 0.5;
            if (!in_place) r.out = o.image();
            if (layout % 2 == 1) {
              for (int64_t* of_axes : {r.sizes, r.unit.strides, r.out.strides}) {
                std::swap(of_axes[FUSED_SSIM_AXIS_DEPTH], of_axes[FUSED_SSIM_AXIS_ROW]);
              }
            }
            check(fs::cuda::scale(r, nullptr), "scale");
            check(cudaDeviceSynchronize(), "scale");
            bool clean = true;
            const auto out = (in_place ? u : o).download(&clean);
            double worst = 0;
            for (size_t i = 0; i < out.size(); ++i) {
              const int64_t of = static_cast<int64_t>(i) / (s.height * s.width) /
                                 fs::planes_per_value(reduction, r.sizes);
              const double expected = round_to(unit[i] * (r.factor * upstream[of]), dtype);
              const double error = std::fabs(out[i] - expected) / (std::fabs(expected) + 1e-6);
              if (!(error <= worst)) worst = error;
            }
            const double limit = one                 ? 0
                                 : dtype == kFloat64 ? 1e-14
                                 : dtype == kFloat32 ? 2e-7
                                                     : 8e-3;
            expect(worst <= limit && clean,
                   std::string("scale: ") + name_of_dtype(dtype) + " " +
                       name_of(static_cast<Layout>(layout)) + " reduction " +
                       std::to_string(reduction) + (in_place ? " in place" : "") +
                       (one ? " by 1" : "") + ": " + std::to_string(worst));
          }
        }
      }
    }
  }
}

void test_pyramid(const Shape& s, int32_t dtype, int32_t accumulation, Layout layout, int odd,
                  bool volume) {
  const auto lead = [&](int64_t size) { return odd == FUSED_SSIM_ODD_PAD ? size % 2 : 0; };
  const auto halved = [&](int64_t size) { return (size + lead(size)) / 2; };
  const Shape h = {s.batch, volume ? halved(s.channels) : s.channels, halved(s.height),
                   halved(s.width)};
  const double weight = volume ? 0.125 : 0.25;
  std::vector<double> a, b;
  fill(Content::kNoise, s, 7, &a, &b);
  DeviceImage image(s, dtype, layout), half1(h, accumulation), half2(h, accumulation);
  image.upload(a, 255, accumulation == kFloat64);
  // body(pixel, its cell, whether there is such a cell)
  const auto each = [&](const auto& body) {
    for (int64_t i = 0; i < s.pixels(); ++i) {
      const int64_t x = i % s.width, y = i / s.width % s.height;
      const int64_t plane = i / s.width / s.height;
      const int64_t cx = (x + lead(s.width)) / 2, cy = (y + lead(s.height)) / 2;
      int64_t cell_plane = plane;
      if (volume) {
        const int64_t z = (plane % s.channels + lead(s.channels)) / 2;
        cell_plane = z < h.channels ? plane / s.channels * h.channels + z : -1;
      }
      body(i, (cell_plane * h.height + cy) * h.width + cx,
           cell_plane >= 0 && cy < h.height && cx < h.width);
    }
  };
  const auto as_volume = [&](std::initializer_list<int64_t*> of_axes) {
    for (int64_t* axes : of_axes) {
      if (volume) std::swap(axes[FUSED_SSIM_AXIS_DEPTH], axes[FUSED_SSIM_AXIS_CHANNEL]);
    }
  };
  const std::string name = std::string("pyramid: ") + text_of(s) + " " + name_of_dtype(dtype) +
                           " " + name_of(layout) + (odd == FUSED_SSIM_ODD_PAD ? " pad" : " crop") +
                           (volume ? " volume" : "");
  const double limit = accumulation == kFloat64 ? 1e-14 : 4e-7;

  fs::HalveRequest r = {};
  r.sizes[0] = s.batch, r.sizes[1] = s.channels, r.sizes[2] = 1;
  r.sizes[3] = s.height, r.sizes[4] = s.width;
  r.spatial_dims = volume ? 3 : 2;
  r.odd_sizes = odd, r.uint8_divisor = 255, r.dtype = accumulation;
  r.images[0] = r.images[1] = image.image();
  r.halves[0] = half1.first(), r.halves[1] = half2.first();
  as_volume({r.sizes, r.images[0].strides, r.images[1].strides});
  check(fs::cuda::halve(&r, 1, nullptr), "halve");
  check(cudaDeviceSynchronize(), "halve");
  std::vector<double> expected(h.pixels());
  each([&](int64_t i, int64_t cell, bool there) {
    if (there) expected[cell] += weight * a[i];
  });
  bool clean = true;
  for (const DeviceImage* half : {&half1, &half2}) {
    const auto found = half->download(&clean);
    double worst = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      if (const double e = std::fabs(found[i] - expected[i]); !(e <= worst)) worst = e;
    }
    expect(worst <= limit && clean, name + ": " + std::to_string(worst));
  }

  if (dtype == kUInt8) return;
  for (const bool in_place : {false, true}) {
    DeviceImage unit(s, dtype, layout), out(s, dtype, layout), up({1, 1, 1, 16}, accumulation);
    DeviceImage derivatives({1, 1, 1, 16}, kFloat64);
    unit.upload(a);
    std::vector<double> upstream(16), slopes(16);
    for (int i = 0; i < 16; ++i) upstream[i] = 1 + 0.25 * i, slopes[i] = 2 - 0.125 * i;
    up.upload(upstream), derivatives.upload(slopes);
    fs::AccumulateRequest g = {};
    std::copy_n(r.sizes, FUSED_SSIM_AXES, g.sizes);
    g.spatial_dims = r.spatial_dims, g.odd_sizes = odd, g.factor = 0.5;
    g.unit = unit.image(), g.out = in_place ? g.unit : out.image();
    as_volume({g.unit.strides, g.out.strides});
    g.upstream = up.first();
    g.derivatives = reinterpret_cast<const double*>(derivatives.first());
    g.coarser = half1.first();
    check(fs::cuda::accumulate(g, nullptr), "accumulate");
    check(cudaDeviceSynchronize(), "accumulate");
    const auto found = (in_place ? unit : out).download(&clean);
    double worst = 0;
    each([&](int64_t i, int64_t cell, bool there) {
      const int64_t plane = i / s.width / s.height / (volume ? s.channels : 1);
      const double want =
          0.5 * upstream[plane] * slopes[plane] * a[i] + (there ? weight * expected[cell] : 0.0);
      const double e = std::fabs(found[i] - want) / (std::fabs(want) + 1e-3);
      if (!(e <= worst)) worst = e;
    });
    const double bound = dtype == kFloat64 ? 1e-13 : dtype == kFloat32 ? 1e-6 : 8e-3;
    expect(worst <= bound && clean,
           name + " back" + (in_place ? " in place" : "") + ": " + std::to_string(worst));
  }
}

// Halving and the way back, of images and of volumes: the channels as the depth.
void test_pyramid() {
  for (const Shape& s : std::vector<Shape>{{2, 2, 19, 23}, {1, 4, 20, 24}, {1, 3, 2, 1300}}) {
    for (const int32_t dtype : {kUInt8, kFloat16, kBFloat16, kFloat32, kFloat64}) {
      const int32_t accumulation = dtype == kFloat64 ? kFloat64 : kFloat32;
      for (int layout = 0; layout < static_cast<int>(Layout::kCount); ++layout) {
        for (const int odd : {FUSED_SSIM_ODD_PAD, FUSED_SSIM_ODD_CROP}) {
          for (const bool volume : {false, true}) {
            if (static_cast<Layout>(layout) == Layout::kExpanded) continue;
            test_pyramid(s, dtype, accumulation, static_cast<Layout>(layout), odd, volume);
          }
        }
      }
    }
  }
}

// Halving several times in a row: the same bits as one request after the other.
void test_halvings(const Shape& s, int32_t dtype, Layout layout, int images) {
  std::vector<double> a;
  fill(Content::kNoise, s, 7, &a, &a);
  DeviceImage image(s, dtype, layout);
  image.upload(a, 255);
  const std::string name = std::string("halvings: ") + text_of(s) + " " + name_of_dtype(dtype) +
                           " " + name_of(layout) + " of " + std::to_string(images);
  std::vector<double> first;
  for (const bool together : {false, true}) {
    std::vector<std::unique_ptr<DeviceImage>> halves;
    std::vector<fs::HalveRequest> requests;
    Shape shape = s;
    for (int scale = 0; scale < 5; ++scale) {
      fs::HalveRequest r = {};
      r.sizes[0] = s.batch, r.sizes[1] = s.channels, r.sizes[2] = 1;
      r.sizes[3] = shape.height, r.sizes[4] = shape.width;
      r.spatial_dims = 2, r.uint8_divisor = 255, r.dtype = kFloat32;
      shape = {s.batch, s.channels, (shape.height + 1) / 2, (shape.width + 1) / 2};
      for (int i = 0; i < images; ++i) {
        r.images[i] = scale == 0 ? image.image() : halves[(scale - 1) * images + i]->image();
        r.images[i].strides[FUSED_SSIM_AXIS_DEPTH] = r.sizes[3] * r.sizes[4];
        halves.push_back(std::make_unique<DeviceImage>(shape, kFloat32));
      }
      for (int i = 0; i < images; ++i) r.halves[i] = halves[scale * images + i]->first();
      requests.push_back(r);
    }
    if (together) {
      check(fs::cuda::halve(requests.data(), 5, nullptr), "halve");
    } else {
      for (const fs::HalveRequest& r : requests) check(fs::cuda::halve(&r, 1, nullptr), "halve");
    }
    check(cudaDeviceSynchronize(), "halve");
    bool clean = true;
    std::vector<double> found;
    for (const auto& half : halves) {
      for (const double cell : half->download(&clean)) found.push_back(cell);
    }
    if (!together) first = found;
    expect(clean && std::memcmp(found.data(), first.data(), first.size() * sizeof(double)) == 0,
           name);
  }
}

void test_halvings() {
  // Three, two and one together, whole segments and parts of them.
  for (const Shape& s : std::vector<Shape>{
           {2, 2, 40, 136}, {1, 3, 24, 264}, {1, 1, 12, 20}, {2, 1, 6, 8}, {1, 2, 16, 12}}) {
    for (const int32_t dtype : {kUInt8, kFloat16, kBFloat16, kFloat32}) {
      for (const Layout layout : {Layout::kContiguous, Layout::kPadded, Layout::kFlipped,
                                  Layout::kChannelsLast, Layout::kShifted}) {
        for (const int images : {1, 2}) test_halvings(s, dtype, layout, images);
      }
    }
  }
}

void test_special() {
  const Window seven = {"7", gaussian(7, 1.5)}, thirteen = {"13", gaussian(13, 2.0)};
  test_large_sums();
  for (const Window& window : {kStandard, seven, thirteen}) {
    test_nan_containment(window);
    for (const int32_t dtype : {kFloat32, kBFloat16, kFloat64}) {
      for (const bool normalized : {false, true}) test_nan_under_mask(window, dtype, normalized);
    }
    test_determinism(window, {});
    test_determinism(window, {kBFloat16, kUInt8});
  }
  test_scale();
  test_pyramid();
  test_halvings();
  progress("special");
}

// More than 2^31 elements, and an image whose last rows lie beyond 2^32 bytes: the corner against
// the reference on a crop.
void test_huge() {
  const int64_t h = 46344, w = 46344, crop = 96;
  Case c;
  c.shape = {1, 1, h, w};
  c.gradient_of_sum = true;
  DeviceImage a(c.shape, kFloat16), b(c.shape, kFloat16), g(c.shape, kFloat16);
  fill_noise<<<4096, 256>>>(a.base, a.storage, kFloat16, 1);
  fill_noise<<<4096, 256>>>(b.base, b.storage, kFloat16, 2);
  DeviceImage value(kOnePixel, kFloat32);
  const fs::Problem problem = c.problem(a.image(), b.image());
  fs::Request request = c.request();
  request.value = value.first();
  request.grad1 = g.image();
  run(problem, request);
  const auto corner = [&](const DeviceImage& image) {
    std::vector<__half> raw(crop * crop);
    const char* from = image.first() + 2 * ((h - crop) * w + (w - crop));
    check(cudaMemcpy2D(raw.data(), 2 * crop, from, 2 * w, 2 * crop, crop, cudaMemcpyDeviceToHost),
          "corner");
    std::vector<double> out(crop * crop);
    for (size_t i = 0; i < out.size(); ++i) out[i] = __half2float(raw[i]);
    return out;
  };
  Definition definition;
  definition.c1 = problem.c1, definition.c2 = problem.c2;
  const Reference ref =
      reference<double>(definition, corner(a), corner(b), {1, 1, crop, crop}, nullptr, true);
  const auto out = corner(g);
  double worst = 0;
  for (int64_t y = 10; y < crop; ++y) {
    for (int64_t x = 10; x < crop; ++x) {
      const double error = std::fabs(out[y * crop + x] - ref.grads[0][y * crop + x]);
      if (!(error <= worst)) worst = error;
    }
  }
  bool clean = true;
  const double mean = value.download(&clean)[0];
  // Noise of 2^31 pixels: the mean is that of any large sample of this noise without a border,
  // 0.00579 (CPU, float32).
  expect(worst <= 2e-3 && std::fabs(mean - 0.0058) < 2e-4, "huge");
  std::printf("huge: gradient at the corner off by %.3g, mean %.6f\n", worst, mean);
}

}  // namespace harness
