// Checks and times the CUDA kernels alone, without torch: every variant, data type, stride pattern
// and size against a plain float64 reference on the CPU.
//
//   nvcc -std=c++17 -O3 -arch=sm_90 -Iinclude -Isrc '-DFUSED_SSIM_CUDA_ARCHITECTURES="sm_90"'
//       -o harness tests/cuda_harness/harness.cu src/cuda/*.cu
//   ./harness test | small | huge | bench | quick | rows NAME... | choices | crossover | residents
//
// `small` reaches every kernel and loader with few pixels: for compute-sanitizer.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/taps.h"
#include "cuda/kernels.h"
#include "cuda/ssim_cuda.h"

namespace fs = fused_ssim;

namespace {

void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) {
    std::printf("CUDA error in %s: %s\n", what, cudaGetErrorString(error));
    std::exit(2);
  }
}

struct Shape {
  int64_t batch = 0, channels = 0, height = 0, width = 0;
  int64_t planes() const { return batch * channels; }
  int64_t pixels() const { return planes() * height * width; }
};

// Of data range 1. Windows live as long as the program.
fs::Problem make_problem(const Shape& s, const fs::Image& img1, const fs::Image& img2,
                         int window = 11, double sigma = 1.5) {
  static std::map<std::pair<int, double>, fs::WindowTaps<double>> windows;
  const auto& taps = windows.try_emplace({window, sigma}, fs::gaussian_taps(window, sigma));
  fs::Problem problem = fused_ssim_problem(s.batch, s.channels, s.height, s.width, img1, img2);
  for (const fs::SpatialAxis axis : {fs::kHeight, fs::kWidth}) {
    problem.windows[axis] = {taps.first->second.taps, window};
  }
  return problem;
}

int64_t workspace_bytes(const fs::Problem& problem, const fs::Request& request) {
  int64_t bytes = 0;
  check(fs::cuda::workspace_bytes(problem, request, &bytes), "the workspace's size");
  return bytes;
}

// ------------------------------------------------------------------------------------ reference

struct Reference {
  std::vector<double> map;           // [planes, height, width], 0 outside the value region
  std::vector<double> value;         // [planes]: sum of f
  std::vector<double> grad1, grad2;  // [planes, height, width]
};

void parallel(int64_t n, const std::function<void(int64_t)>& body) {
  const unsigned workers = std::max(1u, std::thread::hardware_concurrency());
  if (n <= 1 || workers == 1) {
    for (int64_t i = 0; i < n; ++i) body(i);
    return;
  }
  std::vector<std::thread> threads;
  for (unsigned w = 0; w < workers; ++w) {
    threads.emplace_back([&, w] {
      for (int64_t i = w; i < n; i += workers) body(i);
    });
  }
  for (auto& t : threads) t.join();
}

constexpr int64_t kLargePlane = 100000;  // pixels from which a plane is shared among threads

std::vector<double> filter(const std::vector<double>& in, int64_t h, int64_t w,
                           const std::vector<double>& taps) {
  const int r = static_cast<int>(taps.size()) / 2;
  std::vector<double> rows(in.size()), out(in.size());
  const auto over_rows = [&](const std::function<void(int64_t)>& body) {
    if (h * w >= kLargePlane) {
      parallel(h, body);
    } else {
      for (int64_t y = 0; y < h; ++y) body(y);
    }
  };
  over_rows([&](int64_t y) {
    for (int64_t x = 0; x < w; ++x) {
      double sum = 0;
      for (int k = -r; k <= r; ++k)
        if (x + k >= 0 && x + k < w) sum += taps[k + r] * in[y * w + x + k];
      rows[y * w + x] = sum;
    }
  });
  over_rows([&](int64_t y) {
    for (int64_t x = 0; x < w; ++x) {
      double sum = 0;
      for (int k = -r; k <= r; ++k)
        if (y + k >= 0 && y + k < h) sum += taps[k + r] * rows[(y + k) * w + x];
      out[y * w + x] = sum;
    }
  });
  return out;
}

Reference reference(const std::vector<double>& a, const std::vector<double>& b, int64_t planes,
                    int64_t h, int64_t w, int window, double sigma, double c1, double c2, int crop,
                    double ssim_weight, double l1_weight, const std::vector<double>* weights,
                    bool gradient) {
  std::vector<double> taps(window);
  double total = 0;
  for (int i = 0; i < window; ++i) {
    const double z = (i - window / 2) / sigma;
    taps[i] = std::exp(-0.5 * z * z);
    total += taps[i];
  }
  for (double& t : taps) t /= total;
  Reference ref;
  const int64_t n = h * w;
  ref.map.assign(planes * n, 0.0);
  ref.value.assign(planes, 0.0);
  ref.grad1.assign(planes * n, 0.0);
  ref.grad2.assign(planes * n, 0.0);
  const auto do_plane = [&](int64_t p) {
    const std::vector<double> x(a.begin() + p * n, a.begin() + (p + 1) * n);
    const std::vector<double> y(b.begin() + p * n, b.begin() + (p + 1) * n);
    std::vector<double> xx(n), yy(n), xy(n);
    for (int64_t i = 0; i < n; ++i) {
      xx[i] = x[i] * x[i], yy[i] = y[i] * y[i], xy[i] = x[i] * y[i];
    }
    const auto mx = filter(x, h, w, taps), my = filter(y, h, w, taps);
    const auto exx = filter(xx, h, w, taps), eyy = filter(yy, h, w, taps);
    const auto exy = filter(xy, h, w, taps);
    std::vector<double> px(n), py(n), pxx(n), pxy(n);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t row = i / w, column = i % w;
      if (row < crop || row >= h - crop || column < crop || column >= w - crop) continue;
      const double a1 = 2 * mx[i] * my[i] + c1, a2 = 2 * (exy[i] - mx[i] * my[i]) + c2;
      const double b1 = mx[i] * mx[i] + my[i] * my[i] + c1;
      const double b2 = (exx[i] - mx[i] * mx[i]) + (eyy[i] - my[i] * my[i]) + c2;
      const double s = a1 * a2 / (b1 * b2);
      ref.map[p * n + i] = s;
      ref.value[p] += ssim_weight * s + l1_weight * std::fabs(x[i] - y[i]);
      const double g = weights ? (*weights)[p * n + i] : 1.0;
      pxx[i] = -g * s / b2;
      pxy[i] = g * 2 * a1 / (b1 * b2);
      px[i] = g * (2 * my[i] * a2 / (b1 * b2) - 2 * mx[i] * s / b1 + 2 * mx[i] * s / b2 -
                   my[i] * 2 * a1 / (b1 * b2));
      py[i] = g * (2 * mx[i] * a2 / (b1 * b2) - 2 * my[i] * s / b1 + 2 * my[i] * s / b2 -
                   mx[i] * 2 * a1 / (b1 * b2));
    }
    if (!gradient) return;
    const auto fx = filter(px, h, w, taps), fy = filter(py, h, w, taps);
    const auto fxx = filter(pxx, h, w, taps), fxy = filter(pxy, h, w, taps);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t row = i / w, column = i % w;
      const bool has = row >= crop && row < h - crop && column >= crop && column < w - crop;
      const double g = weights ? (*weights)[p * n + i] : 1.0;
      const double sign = has ? (x[i] > y[i]) - (x[i] < y[i]) : 0.0;
      ref.grad1[p * n + i] =
          ssim_weight * (fx[i] + 2 * x[i] * fxx[i] + y[i] * fxy[i]) + l1_weight * g * sign;
      ref.grad2[p * n + i] =
          ssim_weight * (fy[i] + 2 * y[i] * fxx[i] + x[i] * fxy[i]) - l1_weight * g * sign;
    }
  };
  if (n < kLargePlane && planes > 1 && planes * n > 20000) {
    parallel(planes, do_plane);
  } else {
    for (int64_t p = 0; p < planes; ++p) do_plane(p);
  }
  return ref;
}

// --------------------------------------------------------------------------------------- images

enum class Layout {
  kContiguous,
  kChannelsLast,
  kPadded,
  kTransposed,
  kExpanded,
  kShifted,
  kFlipped,  // rows from the bottom up
  kCount
};
const char* name_of(Layout layout) {
  const char* names[] = {"contiguous", "channels_last", "padded", "transposed",
                         "expanded",   "shifted",       "flipped"};
  return names[static_cast<int>(layout)];
}
constexpr int32_t kFloat16 = FUSED_SSIM_FLOAT16, kBFloat16 = FUSED_SSIM_BFLOAT16,
                  kFloat32 = FUSED_SSIM_FLOAT32, kFloat64 = FUSED_SSIM_FLOAT64;
constexpr int32_t kDTypes[] = {kFloat16, kBFloat16, kFloat32, kFloat64};
const char* name_of_dtype(int32_t dtype) {
  const char* names[] = {"uint8", "float16", "bfloat16", "float32", "float64"};
  return names[dtype];
}

double round_to(double v, int32_t dtype) {
  switch (dtype) {
    case kFloat16:
      return __half2float(__float2half_rn(static_cast<float>(v)));
    case kBFloat16:
      return __bfloat162float(__float2bfloat16_rn(static_cast<float>(v)));
    case kFloat32:
      return static_cast<float>(v);
    default:
      return v;
  }
}

struct DeviceImage {
  void* base = nullptr;
  int64_t storage = 0;  // elements
  int64_t offset = 0;   // elements to the first pixel
  int64_t sb = 0, sc = 0, sr = 0, sx = 0;
  Shape shape;
  int32_t dtype = kFloat32;

  DeviceImage(const Shape& s, int32_t t, Layout layout) : shape(s), dtype(t) {
    const int64_t n = s.batch, c = s.channels, h = s.height, w = s.width;
    switch (layout) {
      case Layout::kChannelsLast:
        sx = c, sr = w * c, sc = 1, sb = h * w * c;
        break;
      case Layout::kPadded:
        sx = 1, sr = (w + 7) / 4 * 4, sc = h * sr, sb = c * sc;
        break;
      case Layout::kTransposed:
        sr = 1, sx = h, sc = h * w, sb = c * h * w;
        break;
      case Layout::kExpanded:
        sx = 1, sr = w, sc = 0, sb = h * w;
        break;
      default:
        sx = 1, sr = w, sc = h * w, sb = c * h * w;
        break;
    }
    storage = (n - 1) * sb + (c - 1) * sc + (h - 1) * sr + (w - 1) * sx + 1;
    if (layout == Layout::kShifted) {
      offset = 1;
      ++storage;
    }
    if (layout == Layout::kFlipped) {
      offset = (h - 1) * sr;
      sr = -sr;
    }
    // Rounded up to words: 16-bit elements may be read by the aligned word that holds them.
    const int64_t bytes = (storage * fs::size_of(dtype) + 3) / 4 * 4;
    check(cudaMalloc(&base, bytes), "malloc");
    check(cudaMemset(base, 0xff, bytes), "poison");  // NaN in every type
  }
  DeviceImage(const DeviceImage&) = delete;
  ~DeviceImage() { cudaFree(base); }

  int64_t at(int64_t i) const {
    const int64_t x = i % shape.width, y = i / shape.width % shape.height;
    const int64_t plane = i / (shape.width * shape.height);
    return offset + plane / shape.channels * sb + plane % shape.channels * sc + y * sr + x * sx;
  }
  char* first() const { return static_cast<char*>(base) + offset * fs::size_of(dtype); }
  fs::Image image() const { return {first(), {sb, sc, 0, sr, sx}, dtype}; }

  void upload(std::vector<double>& logical) {  // rounds `logical` to what was stored
    const int64_t e = fs::size_of(dtype);
    std::vector<char> bytes(storage * e, static_cast<char>(0xff));
    for (size_t i = 0; i < logical.size(); ++i) {
      const double v = round_to(logical[i], dtype);
      char* to = bytes.data() + at(static_cast<int64_t>(i)) * e;
      if (dtype == kFloat16) {
        const __half h = __float2half_rn(static_cast<float>(v));
        std::memcpy(to, &h, 2);
      } else if (dtype == kBFloat16) {
        const __nv_bfloat16 h = __float2bfloat16_rn(static_cast<float>(v));
        std::memcpy(to, &h, 2);
      } else if (dtype == kFloat32) {
        const float f = static_cast<float>(v);
        std::memcpy(to, &f, 4);
      } else {
        std::memcpy(to, &v, 8);
      }
    }
    check(cudaMemcpy(base, bytes.data(), bytes.size(), cudaMemcpyHostToDevice), "upload");
    for (size_t i = 0; i < logical.size(); ++i) {  // expanded images share elements
      const char* from = bytes.data() + at(static_cast<int64_t>(i)) * e;
      if (dtype == kFloat16) {
        __half h;
        std::memcpy(&h, from, 2);
        logical[i] = __half2float(h);
      } else if (dtype == kBFloat16) {
        __nv_bfloat16 h;
        std::memcpy(&h, from, 2);
        logical[i] = __bfloat162float(h);
      } else if (dtype == kFloat32) {
        float f;
        std::memcpy(&f, from, 4);
        logical[i] = f;
      } else {
        std::memcpy(&logical[i], from, 8);
      }
    }
  }

  // The pixels; reports elements outside them that lost their poison.
  std::vector<double> download(bool* clean) const {
    const int64_t e = fs::size_of(dtype);
    std::vector<unsigned char> bytes(storage * e);
    check(cudaMemcpy(bytes.data(), base, bytes.size(), cudaMemcpyDeviceToHost), "download");
    const int64_t pixels = shape.pixels();
    std::vector<double> logical(pixels);
    std::vector<bool> is_pixel(storage, false);
    for (int64_t i = 0; i < pixels; ++i) {
      const unsigned char* from = bytes.data() + at(i) * e;
      is_pixel[at(i)] = true;
      if (dtype == kFloat16) {
        __half h;
        std::memcpy(&h, from, 2);
        logical[i] = __half2float(h);
      } else if (dtype == kBFloat16) {
        __nv_bfloat16 h;
        std::memcpy(&h, from, 2);
        logical[i] = __bfloat162float(h);
      } else if (dtype == kFloat32) {
        float f;
        std::memcpy(&f, from, 4);
        logical[i] = f;
      } else {
        std::memcpy(&logical[i], from, 8);
      }
    }
    *clean = true;
    for (int64_t i = 0; i < storage; ++i) {
      if (!is_pixel[i]) {
        for (int64_t b = 0; b < e; ++b) *clean = *clean && bytes[i * e + b] == 0xff;
      }
    }
    return logical;
  }
};

enum class Content {
  kNoise,
  kPhoto,
  kPhotos,
  kFlat,
  kTexture,
  kSaturated,
  kIdentical,
  kHalves,
  kDark,
  kCount
};
const char* name_of(Content content) {
  const char* names[] = {"noise",     "photo+noise", "two photos", "flat", "low texture",
                         "saturated", "identical",   "halves",     "dark"};
  return names[static_cast<int>(content)];
}
bool is_photo(Content c) { return c == Content::kPhoto || c == Content::kPhotos; }

// A stand-in for a photograph: gradients, edges and waves of many scales.
double scenery(double u, double v, double phase) {
  double sum = 0.5 + 0.2 * std::sin(3.1 * u + phase) * std::cos(2.3 * v - phase);
  double amplitude = 0.12, frequency = 9.0;
  for (int i = 0; i < 5; ++i) {
    sum += amplitude * std::sin(frequency * u + 1.7 * i + phase) *
           std::sin(frequency * v * 0.83 + 0.6 * i - phase);
    amplitude *= 0.6;
    frequency *= 2.3;
  }
  if (std::fmod(u * 3.7 + v * 1.3 + phase, 1.0) > 0.6) sum *= 0.45;
  return std::min(1.0, std::max(0.0, sum));
}

void fill(Content content, const Shape& s, unsigned seed, std::vector<double>* a,
          std::vector<double>* b) {
  std::mt19937 generator(seed);
  std::uniform_real_distribution<double> uniform(0.0, 1.0);
  const int64_t n = s.pixels();
  a->resize(n);
  b->resize(n);
  for (int64_t i = 0; i < n; ++i) {
    const double u = static_cast<double>(i % s.width) / 300.0;
    const double v = static_cast<double>(i / s.width % s.height) / 300.0;
    const double phase = static_cast<double>(i / (s.width * s.height));
    const double r1 = uniform(generator), r2 = uniform(generator);
    double x = 0, y = 0;
    switch (content) {
      case Content::kPhoto:
        x = scenery(u, v, phase);
        y = std::min(1.0, std::max(0.0, x + 0.05 * (r2 - 0.5)));
        break;
      case Content::kPhotos:
        x = scenery(u, v, phase);
        y = scenery(v + 0.4, u, phase + 2.0);
        break;
      case Content::kFlat:
        x = 0.6;
        y = 0.6 + 1e-7;
        break;
      case Content::kTexture:
        x = 0.9 + 2e-3 * (r1 - 0.5);
        y = 0.9 + 2e-3 * (r2 - 0.5);
        break;
      case Content::kSaturated:
        x = 1.0 - 1e-3 * r1;
        y = 1e-3 * r2;
        break;
      case Content::kIdentical:
        x = y = r1;
        break;
      case Content::kHalves:
        x = (u * 300 < s.width / 2 ? 0.1 : 0.9) + 2e-3 * (r1 - 0.5);
        y = (u * 300 < s.width / 2 ? 0.1 : 0.9) + 2e-3 * (r2 - 0.5);
        break;
      case Content::kDark:  // tiny differences, whose sign the L1 term must not lose
        x = i % 3 == 0 ? 1e-9 * r1 : 0.6 * r1;
        y = i % 3 == 0 ? (i % 2 ? x : 0.0) : 0.3 * r2;
        break;
      default:
        x = r1;
        y = r2;
        break;
    }
    (*a)[i] = x;
    (*b)[i] = y;
  }
}

// ----------------------------------------------------------------------------------------- cases

struct Case {
  Shape shape;
  int32_t dtype = kFloat32;
  Layout layout = Layout::kContiguous;
  Content content = Content::kNoise;
  int32_t padding = FUSED_SSIM_SAME;
  int window = 11;
  double sigma = 1.5;
  int32_t reduction = FUSED_SSIM_MEAN;
  bool value = true, map = false, grad1 = false, grad2 = false, weighted = false;
  double ssim_weight = 1.0, l1_weight = 0.0, offset = 0.0;
  Layout output_layout = Layout::kContiguous;
  bool tiles = true;  // as the tuning table says, or strips whatever the size
  bool gradient_of_sum = false;
};

const fs::cuda::StripChoice kStrips;

int failures = 0;
int cases_run = 0;

void report(const Case& c, const char* what, double error, double limit) {
  if (error <= limit) return;  // NaN fails
  ++failures;
  if (failures > 40) return;
  std::printf(
      "FAIL %s: %.3g > %.3g  [%lldx%lldx%lldx%lld %s %s->%s %s %s w%d r%d%s%s%s%s%s%s%s l1 %g]\n",
      what, error, limit, static_cast<long long>(c.shape.batch),
      static_cast<long long>(c.shape.channels), static_cast<long long>(c.shape.height),
      static_cast<long long>(c.shape.width), name_of_dtype(c.dtype), name_of(c.layout),
      name_of(c.output_layout), name_of(c.content), c.padding == FUSED_SSIM_SAME ? "same" : "valid",
      c.window, static_cast<int>(c.reduction), c.value ? " value" : "", c.map ? " map" : "",
      c.grad1 ? " grad1" : "", c.grad2 ? " grad2" : "", c.weighted ? " weighted" : "",
      c.tiles ? "" : " strips", c.gradient_of_sum ? " of sum" : "", c.l1_weight);
}

struct Errors {
  double map = 0, mean = 0, grad = 0;
};

double relative_norm(const std::vector<double>& out, const std::vector<double>& ref) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < ref.size(); ++i) {
    difference += (out[i] - ref[i]) * (out[i] - ref[i]);
    norm += ref[i] * ref[i];
  }
  if (norm == 0) return difference == 0 ? 0 : std::sqrt(difference) * 1e3;
  return std::sqrt(difference / norm);
}

Errors run_case(const Case& c, unsigned seed) {
  ++cases_run;
  const Shape& s = c.shape;
  Errors errors;
  const int crop = c.padding == FUSED_SSIM_VALID ? c.window / 2 : 0;
  Shape map_shape = s;
  map_shape.height -= 2 * crop;
  map_shape.width -= 2 * crop;
  if (map_shape.height < 1 || map_shape.width < 1) return errors;
  const bool is_double = c.dtype == kFloat64;
  const int32_t accumulator = is_double ? kFloat64 : kFloat32;

  std::vector<double> a, b, weights;
  fill(c.content, s, seed, &a, &b);
  DeviceImage img1(s, c.dtype, c.layout), img2(s, c.dtype, c.layout);
  img1.upload(a);
  img2.upload(b);
  fs::Problem problem = make_problem(s, img1.image(), img2.image(), c.window, c.sigma);
  problem.padding = c.padding;

  fs::Request request = fused_ssim_request();
  request.reduction = c.reduction;
  // The mean's gradient is below the smallest float16 numbers.
  request.gradient_of_sum = c.gradient_of_sum || c.dtype == kFloat16;
  request.statistic_weight = c.ssim_weight;
  request.l1_weight = c.l1_weight;
  request.offset = c.offset;
  const int64_t values = fs::value_count(c.reduction, problem.sizes);
  DeviceImage value({1, 1, 1, values}, accumulator, Layout::kContiguous);
  if (c.value) request.value = value.first();
  DeviceImage map(map_shape, accumulator, Layout::kContiguous);
  if (c.map) request.map = map.first();
  DeviceImage grad1(s, c.dtype, c.output_layout), grad2(s, c.dtype, c.output_layout);
  if (c.grad1) request.grad1 = grad1.image();
  if (c.grad2) request.grad2 = grad2.image();
  DeviceImage weight_image(map_shape, accumulator, c.layout);
  if (c.weighted) {
    std::mt19937 generator(seed + 1);
    std::uniform_real_distribution<double> uniform(-1.0, 1.0);
    std::vector<double> cropped(map_shape.pixels());
    for (double& w : cropped) w = uniform(generator);
    weight_image.upload(cropped);
    weights.assign(a.size(), 0.0);
    for (size_t i = 0; i < cropped.size(); ++i) {
      const int64_t x = i % map_shape.width, y = i / map_shape.width % map_shape.height;
      const int64_t p = i / (map_shape.width * map_shape.height);
      weights[(p * s.height + y + crop) * s.width + x + crop] = cropped[i];
    }
    request.map_gradient = weight_image.image();
  }

  const int64_t bytes = workspace_bytes(problem, request);
  void* workspace = nullptr;
  check(cudaMalloc(&workspace, std::max<int64_t>(bytes, 256)), "workspace");
  check(cudaMemset(workspace, 0xff, std::max<int64_t>(bytes, 256)), "poison");
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  check(cudaDeviceSynchronize(), "before");
  check(fs::cuda::run(problem, request, workspace, stream, c.tiles ? nullptr : &kStrips), "run");
  check(cudaStreamSynchronize(stream), "run, executed");

  const bool gradient = c.grad1 || c.grad2;
  const Reference ref =
      reference(a, b, s.planes(), s.height, s.width, c.window, c.sigma, problem.c1, problem.c2,
                crop, c.ssim_weight, c.l1_weight, c.weighted ? &weights : nullptr, gradient);
  bool clean = true;
  const double map_limit = is_double ? 1e-11 : is_photo(c.content) ? 1e-4 : 5e-6;
  if (c.value) {
    const std::vector<double> out = value.download(&clean);
    const int64_t per_value = fs::planes_per_value(c.reduction, problem.sizes);
    for (int64_t v = 0; v < values; ++v) {
      double sum = 0;
      for (int64_t p = v * per_value; p < (v + 1) * per_value; ++p) sum += ref.value[p];
      const double divisor = static_cast<double>(fs::reduction_divisor(problem, request));
      const double expected = c.offset + sum / divisor;
      const double scale =
          c.reduction == FUSED_SSIM_SUM ? static_cast<double>(map_shape.pixels()) : 1.0;
      const double error = std::fabs(out[v] - expected) / scale;
      errors.mean = std::max(errors.mean, error);
      if (std::isnan(error)) errors.mean = error;
      report(c, "value", error, is_double ? 1e-11 : 1e-6);
      if (c.content == Content::kIdentical && c.l1_weight == 0 && c.ssim_weight == 1 &&
          c.offset == 0 && c.reduction != FUSED_SSIM_SUM) {
        report(c, "identical is 1", std::fabs(out[v] - 1.0), 0.0);
      }
    }
  }
  if (c.map) {
    const std::vector<double> out = map.download(&clean);
    double worst = 0;
    for (size_t i = 0; i < out.size(); ++i) {
      const int64_t x = i % map_shape.width, y = i / map_shape.width % map_shape.height;
      const int64_t p = i / (map_shape.width * map_shape.height);
      const double error =
          std::fabs(out[i] - ref.map[(p * s.height + y + crop) * s.width + x + crop]);
      if (!(error <= worst)) worst = error;
    }
    errors.map = worst;
    report(c, "map", worst, map_limit);
  }
  const double limit = c.dtype == kFloat16    ? 2e-3
                       : c.dtype == kBFloat16 ? 1e-2
                       : is_double            ? 1e-9
                                              : 1e-4;
  // Gradients that vanish up to rounding have no relative error to speak of.
  const bool vanishing =
      c.content == Content::kIdentical || (c.l1_weight == 0 && c.content == Content::kFlat);
  for (int i = 0; i < 2; ++i) {
    if (!(i == 0 ? c.grad1 : c.grad2)) continue;
    std::vector<double> out = (i == 0 ? grad1 : grad2).download(&clean);
    for (double& g : out) g *= fs::gradient_divisor(problem, request);
    const std::vector<double>& expected = i == 0 ? ref.grad1 : ref.grad2;
    double error = relative_norm(out, expected);
    if (vanishing) {
      error = 0;
      for (size_t k = 0; k < out.size(); ++k) {
        if (!(std::fabs(out[k] - expected[k]) <= error)) error = std::fabs(out[k] - expected[k]);
      }
    }
    if (!(error <= errors.grad)) errors.grad = error;
    report(c, i == 0 ? "grad1" : "grad2", error,
           vanishing ? (is_double             ? 1e-9
                        : c.dtype == kFloat32 ? 1e-3
                                              : 1.0)
                     : limit);
  }
  report(c, "wrote outside the output", clean ? 0 : 1, 0);
  cudaStreamDestroy(stream);
  cudaFree(workspace);
  return errors;
}

void with_outputs(Case c, unsigned* seed, bool few) {
  struct Outputs {
    bool value, map, grad1, grad2, weighted;
    double l1;
  };
  const Outputs all[] = {
      {true, false, false, false, false, 0},   {true, false, true, false, false, 0},
      {false, true, false, false, false, 0},   {true, false, true, true, false, 0},
      {false, false, true, true, true, 0},     {true, false, true, false, false, 0.8},
      {true, false, false, true, false, 0},    {true, true, true, true, false, 0.3},
      {false, false, true, false, true, 0.5},  {false, false, false, true, true, 0},
      {true, false, false, false, false, 0.7}, {true, true, false, false, false, 0},
      {true, false, false, true, false, 0.25},
  };
  const int count = few ? 5 : static_cast<int>(sizeof(all) / sizeof(all[0]));
  for (int i = 0; i < count; ++i) {
    c.value = all[i].value, c.map = all[i].map, c.grad1 = all[i].grad1, c.grad2 = all[i].grad2;
    c.weighted = all[i].weighted, c.l1_weight = all[i].l1;
    c.ssim_weight = all[i].l1 != 0 ? -0.2 : 1.0;
    c.offset = all[i].l1 != 0 ? 0.2 : 0.0;
    c.gradient_of_sum = *seed / 2 % 2 == 0;
    run_case(c, (*seed)++);
    if (c.window == 11 && c.sigma == 1.5 && c.dtype != kFloat64) {
      Case strips = c;
      strips.tiles = false;
      run_case(strips, (*seed)++);
    }
  }
}

void test_special();

void test_small() {
  unsigned seed = 1;
  for (const int32_t dtype : {kFloat32, kFloat16, kBFloat16, kFloat64}) {
    for (int layout = 0; layout < static_cast<int>(Layout::kCount); ++layout) {
      Case c;
      c.shape = {1, 2, 37, 152};
      c.dtype = dtype;
      c.layout = static_cast<Layout>(layout);
      c.output_layout = c.layout == Layout::kExpanded ? Layout::kContiguous : c.layout;
      c.padding = layout % 2 ? FUSED_SSIM_VALID : FUSED_SSIM_SAME;
      c.reduction = layout % 2 ? FUSED_SSIM_CHANNEL : FUSED_SSIM_MEAN;
      with_outputs(c, &seed, dtype != kFloat32);
    }
  }
  Case c;
  c.shape = {1, 1, 40, 40};
  c.window = 7;
  with_outputs(c, &seed, true);
  c.window = 11;
  c.shape = {1, 1, 300, 520};
  with_outputs(c, &seed, true);
  test_special();
}

void test_all() {
  unsigned seed = 1;
  // Tiny images, "same".
  for (int h = 1; h <= 13; ++h) {
    for (int w = 1; w <= 13; ++w) {
      Case c;
      c.shape = {1, 2, h, w};
      c.padding = h >= 11 && w >= 11 && (h + w) % 2 ? FUSED_SSIM_VALID : FUSED_SSIM_SAME;
      c.reduction = (h + w) % 4;
      c.dtype = kDTypes[(h * 13 + w) % 4];
      with_outputs(c, &seed, (h + 3 * w) % 4 != 0);
    }
  }
  std::printf("tiny: %d cases, %d failures\n", cases_run, failures);
  // Seams of strips, quads, chunks and segments.
  const int widths[] = {31,  53,  117, 118, 119, 120, 121, 126, 127, 128, 129, 232, 243, 244,
                        245, 246, 247, 251, 252, 253, 254, 255, 256, 257, 480, 481, 505, 517};
  int turn = 0;
  for (const int w : widths) {
    for (const int h : {23, 64, 131}) {
      Case c;
      c.shape = {1, 1 + turn % 3, h, w};
      c.layout = static_cast<Layout>(turn % static_cast<int>(Layout::kCount));
      c.output_layout = c.layout == Layout::kExpanded ? Layout::kPadded : c.layout;
      c.padding = turn % 2 ? FUSED_SSIM_VALID : FUSED_SSIM_SAME;
      c.reduction = turn / 2 % 4;
      c.dtype = turn % 5 == 4 ? kDTypes[turn / 5 % 4] : kFloat32;
      with_outputs(c, &seed, turn % 3 != 0);
      ++turn;
    }
  }
  std::printf("seams: %d cases, %d failures\n", cases_run, failures);
  // Every data type and layout.
  for (const int32_t dtype : kDTypes) {
    for (int layout = 0; layout < static_cast<int>(Layout::kCount); ++layout) {
      for (const int32_t padding : {FUSED_SSIM_SAME, FUSED_SSIM_VALID}) {
        Case c;
        c.shape = {2, 3, 67, 260};
        c.dtype = dtype;
        c.layout = static_cast<Layout>(layout);
        c.output_layout = c.layout == Layout::kExpanded ? Layout::kTransposed : c.layout;
        c.padding = padding;
        c.reduction = layout % 4;
        c.content = dtype == kBFloat16 || dtype == kFloat64 ? Content::kNoise : Content::kPhoto;
        with_outputs(c, &seed, false);
      }
    }
  }
  // Rows of 16-bit types that are aligned for boxes, in one strip or several.
  for (const int32_t dtype : {kFloat16, kBFloat16}) {
    for (const int w : {8, 16, 120, 128, 136, 256, 264, 376, 520}) {
      Case c;
      c.shape = {1, 2, 41 + w % 5, w};
      c.dtype = dtype;
      c.padding = w < 11 || w % 3 == 0 ? FUSED_SSIM_SAME : FUSED_SSIM_VALID;
      c.reduction = w / 8 % 4;
      c.content = Content::kPhoto;
      with_outputs(c, &seed, false);
    }
    Case c;
    c.shape = {1, 3, 1080, 1920};
    c.dtype = dtype;
    c.content = Content::kPhoto;
    run_case(c, seed++);
    c.l1_weight = 0.8;
    c.padding = FUSED_SSIM_VALID;
    run_case(c, seed++);
  }
  std::printf("types and layouts: %d cases, %d failures\n", cases_run, failures);
  // Windows.
  for (const int window : {3, 5, 7, 9, 11, 13, 21, 33}) {
    for (const int32_t dtype : {kFloat32, kFloat64, kFloat16}) {
      Case c;
      c.shape = {1, 2, 49, 71};
      c.window = window;
      c.sigma = window == 11 ? 2.5 : window / 6.0;
      c.dtype = dtype;
      c.padding = window % 4 == 1 ? FUSED_SSIM_VALID : FUSED_SSIM_SAME;
      c.layout = static_cast<Layout>(window % 3);
      with_outputs(c, &seed, false);
    }
  }
  std::printf("windows: %d cases, %d failures\n", cases_run, failures);
  // Contents: numbers for the table.
  std::printf("%-14s %12s %12s %12s\n", "content", "map", "mean", "gradient");
  for (int content = 0; content < static_cast<int>(Content::kCount); ++content) {
    Case c;
    c.shape = {1, 3, 541, 963};
    c.content = static_cast<Content>(content);
    c.map = c.grad1 = c.grad2 = true;
    const Errors e = run_case(c, seed++);
    std::printf("%-14s %12.3g %12.3g %12.3g\n", name_of(c.content), e.map, e.mean, e.grad);
    c.map = c.grad2 = false;
    c.l1_weight = 0.8;
    run_case(c, seed++);
    c.window = 9;
    c.map = true;
    run_case(c, seed++);
  }
  // Whole images.
  for (const auto& shape : {Shape{1, 3, 1081, 1917}, Shape{1, 3, 1080, 1920}, Shape{3, 1, 512, 512},
                            Shape{1, 3, 256, 256}}) {
    Case c;
    c.shape = shape;
    c.map = c.grad1 = true;
    c.content = Content::kPhoto;
    run_case(c, seed++);
    c.grad2 = true;
    c.padding = FUSED_SSIM_VALID;
    c.reduction = FUSED_SSIM_CHANNEL;
    run_case(c, seed++);
    c.map = c.grad2 = false;
    c.layout = c.output_layout = Layout::kChannelsLast;
    run_case(c, seed++);
  }
  // Many planes.
  for (const int reduction : {0, 1, 2, 3}) {
    Case c;
    c.shape = {70000, 1, 5, 3};
    c.reduction = reduction;
    c.grad1 = true;
    run_case(c, seed++);
    c.shape = {90, 3, 33, 17};
    run_case(c, seed++);
    c.grad1 = false;
    run_case(c, seed++);
  }
  std::printf("images: %d cases, %d failures\n", cases_run, failures);
  test_special();
}

// The L1 term of images that leave the data range far behind, everywhere or in one corner, to both
// sides of what blocks add up in one word; up to infinite pixels.
void test_large_sums() {
  const Shape s{1, 2, 150, 300};
  DeviceImage img1(s, kFloat32, Layout::kContiguous);
  DeviceImage img2(s, kFloat32, Layout::kContiguous);
  DeviceImage grad(s, kFloat32, Layout::kContiguous);
  DeviceImage value({1, 1, 1, 1}, kFloat32, Layout::kContiguous);
  const fs::Problem problem = make_problem(s, img1.image(), img2.image());
  void* workspace = nullptr;
  check(cudaMalloc(&workspace, 1 << 20), "workspace");
  for (const double factor : {3.0, 40.0, 65535.0, 1e12, 1e30, HUGE_VAL}) {
    for (const int64_t rows : {int64_t{20}, s.height}) {
      for (const bool tiles : {true, false}) {
        for (const bool gradient : {true, false}) {
          std::vector<double> a, b;
          fill(Content::kNoise, s, 9, &a, &b);
          for (int64_t i = 0; i < rows * s.width; ++i) a[i] *= factor;
          img1.upload(a);
          img2.upload(b);
          double expected = 0;
          for (size_t i = 0; i < a.size(); ++i) expected += std::fabs(a[i] - b[i]);
          expected /= static_cast<double>(a.size());
          fs::Request request = fused_ssim_request();
          request.value = value.first();
          request.statistic_weight = 0.0;
          request.l1_weight = 1.0;
          if (gradient) request.grad1 = grad.image();
          double first = 0;
          for (int i = 0; i < 4; ++i) {
            check(cudaMemset(workspace, 0xff, 1 << 20), "poison");
            check(fs::cuda::run(problem, request, workspace, nullptr, tiles ? nullptr : &kStrips),
                  "run");
            check(cudaDeviceSynchronize(), "run");
            bool clean = true;
            const double v = value.download(&clean)[0];
            if (i == 0) first = v;
            ++cases_run;
            // The SSIM of such images may be no number.
            const bool right =
                std::isfinite(expected) && factor < 1e15
                    ? std::fabs(v - expected) <= 3e-7 * expected && v == first
                    : !std::isfinite(v) || std::fabs(v - expected) <= 3e-7 * expected;
            if (!right) {
              ++failures;
              std::printf("FAIL large sums: %.9g, not %.9g, first %.9g [%g, %lld rows%s%s]\n", v,
                          expected, first, factor, static_cast<long long>(rows),
                          tiles ? "" : " strips", gradient ? " gradient" : "");
            }
          }
        }
      }
    }
  }
  cudaFree(workspace);
}

// NaN containment, determinism, graph replay, the backward multiply.
void test_special() {
  test_large_sums();
  const Shape s{1, 1, 150, 300};
  std::vector<double> a, b;
  fill(Content::kNoise, s, 7, &a, &b);
  const int64_t bad_y = 70, bad_x = 243;
  a[bad_y * s.width + bad_x] = NAN;
  b[3 * s.width + 2] = INFINITY;
  DeviceImage img1(s, kFloat32, Layout::kContiguous);
  DeviceImage img2(s, kFloat32, Layout::kContiguous);
  img1.upload(a);
  img2.upload(b);
  const fs::Problem problem = make_problem(s, img1.image(), img2.image());
  DeviceImage map(s, kFloat32, Layout::kContiguous);
  DeviceImage grad(s, kFloat32, Layout::kContiguous);
  fs::Request request = fused_ssim_request();
  request.map = map.first();
  request.grad1 = grad.image();
  void* workspace = nullptr;
  check(cudaMalloc(&workspace, 1 << 20), "workspace");
  check(fs::cuda::run(problem, request, workspace, nullptr), "run");
  check(cudaDeviceSynchronize(), "run");
  bool clean = true;
  const auto values = map.download(&clean), gradient = grad.download(&clean);
  int64_t wrong = 0;
  for (int64_t i = 0; i < s.height * s.width; ++i) {
    const int64_t y = i / s.width, x = i % s.width;
    const int64_t far = std::min(std::max(std::llabs(y - bad_y), std::llabs(x - bad_x)),
                                 std::max(std::llabs(y - 3), std::llabs(x - 2)));
    wrong += std::isnan(values[i]) != (far <= 5);
    wrong += std::isnan(gradient[i]) != (far <= 10);
  }
  ++cases_run;
  if (wrong != 0) {
    ++failures;
    std::printf("FAIL NaN containment: %lld pixels\n", static_cast<long long>(wrong));
  }

  // The same bits from run to run, eagerly and out of a graph, also on two streams at once.
  fill(Content::kNoise, s, 8, &a, &b);
  img1.upload(a);
  img2.upload(b);
  DeviceImage value({1, 1, 1, 1}, kFloat32, Layout::kContiguous);
  request = fused_ssim_request();
  request.value = value.first();
  request.grad1 = grad.image();
  std::vector<double> first_grad;
  double first = 0;
  cudaStream_t stream;
  check(cudaStreamCreate(&stream), "stream");
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
  check(fs::cuda::run(problem, request, workspace, stream), "run, captured");
  check(cudaStreamEndCapture(stream, &graph), "capture");
  check(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  for (int i = 0; i < 20; ++i) {
    check(cudaMemset(value.base, 0xff, 4), "poison");
    check(cudaMemset(grad.base, 0xff, grad.storage * 4), "poison");
    check(cudaDeviceSynchronize(), "poison");
    check(
        i % 2 ? cudaGraphLaunch(exec, stream) : fs::cuda::run(problem, request, workspace, stream),
        "run");
    check(cudaStreamSynchronize(stream), "run");
    const double v = value.download(&clean)[0];
    const auto g = grad.download(&clean);
    if (i == 0) {
      first = v;
      first_grad = g;
    }
    ++cases_run;
    if (v != first || g != first_grad) {
      ++failures;
      std::printf("FAIL determinism: %.9g and %.9g\n", first, v);
    }
  }
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  cudaFree(workspace);

  // The backward multiply; images of which every other has its rows along the depth.
  const Shape unit_shape = {3, 2, 19, 23};
  for (const int32_t dtype : kDTypes) {
    for (int layout = 0; layout < static_cast<int>(Layout::kCount); ++layout) {
      if (static_cast<Layout>(layout) == Layout::kExpanded) continue;
      for (int reduction = 0; reduction < 4; ++reduction) {
        for (const bool in_place : {false, true}) {
          std::vector<double> unit, other;
          fill(Content::kNoise, unit_shape, 5, &unit, &other);
          DeviceImage u(unit_shape, dtype, static_cast<Layout>(layout));
          DeviceImage o(unit_shape, dtype,
                        reduction == 2 ? Layout::kPadded : static_cast<Layout>(layout));
          u.upload(unit);
          const fs::Problem like = make_problem(unit_shape, u.image(), u.image());
          const int64_t n = fs::value_count(reduction, like.sizes);
          std::vector<double> upstream(n);
          for (int64_t i = 0; i < n; ++i) upstream[i] = 1.0 + 0.25 * static_cast<double>(i);
          DeviceImage up({1, 1, 1, n}, dtype == kFloat64 ? kFloat64 : kFloat32,
                         Layout::kContiguous);
          up.upload(upstream);
          fs::ScaleRequest r = fused_ssim_scale_request(&like, u.image(), up.first());
          r.reduction = reduction;
          r.factor = reduction == FUSED_SSIM_MEAN ? 1.0 : 0.5;  // 1: returns at once in place
          if (!in_place) r.out = o.image();
          if (layout % 2 == 1) {
            for (int64_t* of_axes : {r.sizes, r.unit.strides, r.out.strides}) {
              std::swap(of_axes[FUSED_SSIM_AXIS_DEPTH], of_axes[FUSED_SSIM_AXIS_ROW]);
            }
          }
          check(fs::cuda::scale(r, nullptr), "scale");
          check(cudaDeviceSynchronize(), "scale");
          const auto out = (in_place ? u : o).download(&clean);
          double worst = 0;
          for (size_t i = 0; i < out.size(); ++i) {
            const int64_t value =
                static_cast<int64_t>(i) / (19 * 23) / fs::planes_per_value(reduction, r.sizes);
            const double expected = round_to(unit[i] * (r.factor * upstream[value]), dtype);
            const double error = std::fabs(out[i] - expected) / (std::fabs(expected) + 1e-6);
            if (!(error <= worst)) worst = error;
          }
          ++cases_run;
          const double limit = dtype == kFloat64 ? 1e-14 : dtype == kFloat32 ? 2e-7 : 8e-3;
          if (!(worst <= limit) || !clean) {
            ++failures;
            std::printf("FAIL scale: %s layout %d reduction %d in place %d: %.3g\n",
                        name_of_dtype(dtype), layout, reduction, in_place, worst);
          }
        }
      }
    }
  }
  std::printf("special: %d cases, %d failures\n", cases_run, failures);
}

// -------------------------------------------------------------------------------------- benchmark

__global__ void fill_noise(void* out, int64_t n, int dtype, unsigned seed) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < n;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    unsigned h = static_cast<unsigned>(i) * 2654435761u + seed;
    h ^= h >> 16, h *= 0x7feb352du, h ^= h >> 15, h *= 0x846ca68bu, h ^= h >> 16;
    const float v = (h >> 8) * (1.0f / 16777216.0f);
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

struct BenchSet {
  DeviceImage img1, img2, grad1, grad2, weights;
  void* workspace = nullptr;
  BenchSet(const Shape& s, int32_t t, Layout layout, Layout out, bool second, bool weight,
           int64_t extra)
      : img1(s, t, layout),
        img2(s, t, layout),
        grad1(s, t, out),
        grad2(second ? s : Shape{1, 1, 1, 1}, t, out),
        weights(weight ? s : Shape{1, 1, 1, 1}, kFloat32, Layout::kContiguous) {
    fill_noise<<<1024, 256>>>(img1.base, img1.storage, t, 1);
    fill_noise<<<1024, 256>>>(img2.base, img2.storage, t, 2);
    fill_noise<<<1024, 256>>>(weights.base, weights.storage, kFloat32, 3);
    check(cudaMalloc(&workspace, extra + 256), "workspace");
  }
  ~BenchSet() { cudaFree(workspace); }
};

struct Bench {
  const char* name;
  bool grad1, grad2, map, weighted, l1;
  int32_t dtype = kFloat32;
  Layout layout = Layout::kContiguous;
  int window = 11;
};

double bench(const Shape& s, const Bench& b, const fs::cuda::StripChoice* choice = nullptr) {
  const fs::Image no_image = {nullptr, {}, b.dtype};
  fs::Request request = fused_ssim_request();
  request.statistic_weight = b.l1 ? -0.2 : 1.0;
  request.l1_weight = b.l1 ? 0.8 : 0.0;
  const int64_t image = s.pixels() * fs::size_of(b.dtype);
  const int sets =
      static_cast<int>(std::min<int64_t>(96, std::max<int64_t>(3, 400000000 / (3 * image))));
  request.value = reinterpret_cast<void*>(1);
  request.grad1.data = b.grad1 ? reinterpret_cast<void*>(1) : nullptr;
  request.grad2.data = b.grad2 ? reinterpret_cast<void*>(1) : nullptr;
  const int64_t extra = workspace_bytes(make_problem(s, no_image, no_image, b.window), request);
  std::vector<BenchSet*> buffers;
  for (int i = 0; i < sets; ++i) {
    buffers.push_back(new BenchSet(s, b.dtype, b.layout, b.layout, b.grad2, b.weighted, extra));
  }
  float* value = nullptr;
  check(cudaMalloc(&value, 8), "value");
  const double us = time_launches(sets, [&](int i, cudaStream_t stream) {
    BenchSet& set = *buffers[i];
    const fs::Problem p = make_problem(s, set.img1.image(), set.img2.image(), b.window);
    fs::Request r = fused_ssim_request();
    r.statistic_weight = request.statistic_weight;
    r.l1_weight = request.l1_weight;
    if (!b.weighted) r.value = value;
    if (b.grad1) r.grad1 = set.grad1.image();
    if (b.grad2) r.grad2 = set.grad2.image();
    if (b.map) r.map = set.grad1.first();
    if (b.weighted) r.map_gradient = set.weights.image();
    check(fs::cuda::run(p, r, set.workspace, stream, choice), "bench");
  });
  for (BenchSet* set : buffers) delete set;
  cudaFree(value);
  return us;
}

const Shape kShapes[] = {{1, 3, 256, 256},   {1, 3, 512, 512},   {1, 3, 1080, 1920},
                         {1, 3, 2160, 3840}, {5, 5, 1080, 1920}, {1, 3, 1081, 1917}};
constexpr int kShapeCount = 6;

void print_header() {
  std::printf("%-34s", "us");
  for (int i = 0; i < kShapeCount; ++i) {
    char name[64];
    std::snprintf(
        name, sizeof name, "%lldx%lldx%lldx%lld", static_cast<long long>(kShapes[i].batch),
        static_cast<long long>(kShapes[i].channels), static_cast<long long>(kShapes[i].height),
        static_cast<long long>(kShapes[i].width));
    std::printf("%16s", name);
  }
  std::printf("\n");
}

// All rows, or those of these names.
void bench_rows(const std::vector<std::string>& names) {
  const Bench table[] = {
      {"value + gradient", true, false, false, false, false},
      {"value", false, false, false, false, false},
      {"value + both gradients", true, true, false, false, false},
      {"L1 + SSIM value + gradient", true, false, false, false, true},
      {"map gradient (one image)", true, false, false, true, false},
      {"map", false, false, true, false, false},
      {"value + gradient channels_last", true, false, false, false, false, kFloat32,
       Layout::kChannelsLast},
      {"value channels_last", false, false, false, false, false, kFloat32, Layout::kChannelsLast},
      {"value + gradient float16", true, false, false, false, false, kFloat16},
      {"value + gradient bfloat16", true, false, false, false, false, kBFloat16},
      {"value float16", false, false, false, false, false, kFloat16},
      {"value bfloat16", false, false, false, false, false, kBFloat16},
      {"value + gradient fp16 ch_last", true, false, false, false, false, kFloat16,
       Layout::kChannelsLast},
      {"value + gradient window 9", true, false, false, false, false, kFloat32, Layout::kContiguous,
       9},
      {"value + gradient float64", true, false, false, false, false, kFloat64},
  };
  print_header();
  for (int i = 0; i < static_cast<int>(sizeof(table) / sizeof(table[0])); ++i) {
    if (!names.empty() && std::find(names.begin(), names.end(), table[i].name) == names.end()) {
      continue;
    }
    std::printf("%-34s", table[i].name);
    for (int k = 0; k < kShapeCount; ++k) {
      const bool slow = table[i].window != 11 || table[i].dtype == kFloat64;
      if (k >= 3 && k <= 4 && slow) {
        std::printf("%16s", "-");
        continue;
      }
      std::printf("%16.2f", bench(kShapes[k], table[i]));
      std::fflush(stdout);
    }
    std::printf("\n");
  }
}

void bench_choices() {
  print_header();
  for (const bool gradient : {true, false}) {
    const Bench b = {"", gradient, false, false, false, false};
    std::printf("%-34s", gradient ? "v+g strips" : "v   strips");
    for (int k = 0; k < kShapeCount; ++k) {
      const fs::cuda::StripChoice choice;
      std::printf("%16.2f", bench(kShapes[k], b, &choice));
    }
    std::printf("\n");
    for (const int rows : {8, 12, 16, 20, 22, 24, 26, 30, 32, 38, 40, 46, 47, 48}) {
      std::printf("%s tiles of %-24d", gradient ? "v+g" : "v  ", rows);
      for (int k = 0; k < 2; ++k) {
        fs::cuda::StripChoice choice;
        choice.tile_rows = rows;
        std::printf("%16.2f", bench(kShapes[k], b, &choice));
      }
      std::printf("\n");
    }
  }
}

// Squares around the size from which strips take over from tiles.
// One block of the pipeline kernel a multiprocessor, or as many as fit: values.
void bench_residents() {
  std::printf("us, one block a multiprocessor and all\n");
  for (const auto& shape :
       {Shape{1, 3, 384, 384}, Shape{1, 3, 512, 512}, Shape{1, 3, 640, 640}, Shape{1, 3, 768, 768},
        Shape{1, 3, 720, 1280}, Shape{1, 3, 1024, 1024}, Shape{1, 3, 1080, 1920},
        Shape{8, 3, 256, 256}, Shape{4, 3, 512, 512}}) {
    std::printf("%ldx%ldx%ldx%ld", shape.batch, shape.channels, shape.height, shape.width);
    for (const int resident : {1, 3, 0}) {
      fs::cuda::StripChoice choice;
      choice.resident = resident;
      std::printf("%16.2f", bench(shape, {"", false, false, false, false, false}, &choice));
    }
    std::printf("\n");
  }
}
void bench_crossover() {
  fs::cuda::DeviceFacts device;
  check(fs::cuda::current_device(&device), "device");
  std::printf("us, tiles and strips%14s%16s%16s%16s\n", "value", "", "value+gradient", "");
  for (const int side : {192, 256, 320, 352, 384, 416, 448, 512}) {
    const Shape shape = {1, 3, side, side};
    std::printf("1x3x%dx%d %10s", side, side, "");
    for (const bool gradient : {false, true}) {
      const auto kind = gradient ? fs::cuda::StripKind::kOneGradient : fs::cuda::StripKind::kValue;
      fs::cuda::StripChoice choice =
          fs::cuda::choose_strips(device, kind, make_problem(shape, {}, {}).sizes);
      for (const int rows : {choice.tile_rows, 0}) {
        choice.tile_rows = rows;
        std::printf("%16.2f", bench(shape, {"", gradient, false, false, false, false}, &choice));
      }
    }
    std::printf("\n");
  }
}

void bench_scale() {
  std::printf("%-34s", "backward multiply");
  for (int k = 0; k < kShapeCount; ++k) {
    const Shape& s = kShapes[k];
    const int64_t image = s.pixels() * 4;
    const int sets =
        static_cast<int>(std::min<int64_t>(96, std::max<int64_t>(3, 400000000 / (2 * image))));
    std::vector<DeviceImage*> units, outs;
    for (int i = 0; i < sets; ++i) {
      units.push_back(new DeviceImage(s, kFloat32, Layout::kContiguous));
      outs.push_back(new DeviceImage(s, kFloat32, Layout::kContiguous));
      fill_noise<<<1024, 256>>>(units[i]->base, units[i]->storage, kFloat32, 1);
    }
    DeviceImage up({1, 1, 1, 1}, kFloat32, Layout::kContiguous);
    fill_noise<<<1, 32>>>(up.base, 1, kFloat32, 1);
    std::printf("%16.2f", time_launches(sets, [&](int i, cudaStream_t stream) {
                  const fs::Problem like = make_problem(s, {}, {});
                  fs::ScaleRequest r =
                      fused_ssim_scale_request(&like, units[i]->image(), up.first());
                  r.out = outs[i]->image();
                  r.factor = 1e-6;
                  check(fs::cuda::scale(r, stream), "scale");
                }));
    for (int i = 0; i < sets; ++i) delete units[i], delete outs[i];
  }
  std::printf("\n");
}

// More than 2^31 elements, and an image whose last rows lie beyond 2^32 bytes: the corner against
// the reference on a crop.
void test_huge() {
  const int64_t h = 46344, w = 46344, crop = 96;
  const Shape s{1, 1, h, w};
  DeviceImage a(s, kFloat16, Layout::kContiguous);
  DeviceImage b(s, kFloat16, Layout::kContiguous);
  DeviceImage g(s, kFloat16, Layout::kContiguous);
  fill_noise<<<4096, 256>>>(a.base, a.storage, kFloat16, 1);
  fill_noise<<<4096, 256>>>(b.base, b.storage, kFloat16, 2);
  DeviceImage value({1, 1, 1, 1}, kFloat32, Layout::kContiguous);
  const fs::Problem problem = make_problem(s, a.image(), b.image());
  fs::Request request = fused_ssim_request();
  request.gradient_of_sum = 1;
  request.value = value.first();
  request.grad1 = g.image();
  void* workspace = nullptr;
  check(cudaMalloc(&workspace, workspace_bytes(problem, request) + 256), "workspace");
  check(fs::cuda::run(problem, request, workspace, nullptr), "run");
  check(cudaDeviceSynchronize(), "run");
  const auto corner = [&](const DeviceImage& image) {
    std::vector<__half> raw(crop * crop);
    const char* from = image.first() + 2 * ((h - crop) * w + (w - crop));
    check(cudaMemcpy2D(raw.data(), 2 * crop, from, 2 * w, 2 * crop, crop, cudaMemcpyDeviceToHost),
          "corner");
    std::vector<double> out(crop * crop);
    for (size_t i = 0; i < out.size(); ++i) out[i] = __half2float(raw[i]);
    return out;
  };
  const Reference ref = reference(corner(a), corner(b), 1, crop, crop, 11, 1.5, 1e-4, 9e-4, 0, 1.0,
                                  0.0, nullptr, true);
  const auto out = corner(g);
  double worst = 0;
  for (int64_t y = 10; y < crop; ++y) {
    for (int64_t x = 10; x < crop; ++x) {
      const double error = std::fabs(out[y * crop + x] - ref.grad1[y * crop + x]);
      if (!(error <= worst)) worst = error;
    }
  }
  bool clean = true;
  const double mean = value.download(&clean)[0];
  ++cases_run;
  // Noise of 2^31 pixels: the mean is that of any large sample of this noise without a border,
  // 0.00579 (CPU, float32).
  if (!(worst <= 2e-3) || !(std::fabs(mean - 0.0058) < 2e-4)) ++failures;
  std::printf("huge: gradient at the corner off by %.3g, mean %.6f\n", worst, mean);
  cudaFree(workspace);
}

void copy_bandwidth() {
  const size_t bytes = size_t{1} << 30;
  void *a, *b;
  check(cudaMalloc(&a, bytes), "malloc");
  check(cudaMalloc(&b, bytes), "malloc");
  const double us = time_launches(1, [&](int, cudaStream_t stream) {
    check(cudaMemcpyAsync(b, a, bytes, cudaMemcpyDeviceToDevice, stream), "copy");
  });
  std::printf("copy bandwidth: %.0f GB/s (read + written)\n", 2e-3 * bytes / us);
  cudaFree(a);
  cudaFree(b);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "test";
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "device");
  std::printf("%s, %d multiprocessors, built for %s\n", properties.name,
              properties.multiProcessorCount, fs::cuda::architectures());
  if (mode == "test") {
    test_all();
  } else if (mode == "small") {
    test_small();
  } else if (mode == "huge") {
    test_huge();
  } else if (mode == "bench") {
    copy_bandwidth();
    bench_rows({});
    bench_scale();
  } else if (mode == "quick") {
    bench_rows({"value + gradient", "value"});
  } else if (mode == "rows") {  // of `bench`, by their names
    bench_rows({argv + 2, argv + argc});
  } else if (mode == "choices") {
    bench_choices();
  } else if (mode == "crossover") {
    bench_crossover();
  } else if (mode == "residents") {
    bench_residents();
  } else if (mode.rfind("profile", 0) == 0) {  // for a profiler: one row of `bench` at one size
    const struct {
      const char* mode;
      int shape;
      Bench bench;
    } profiles[] = {{"profile", 2, {"", true, false, false, false, false}},
                    {"profile_tiles", 0, {"", true, false, false, false, false}},
                    {"profile_value", 2, {"", false, false, false, false, false}},
                    {"profile_value_4k", 3, {"", false, false, false, false, false}},
                    {"profile_512", 1, {"", true, false, false, false, false}},
                    {"profile_l1", 2, {"", true, false, false, false, true}},
                    {"profile_map_gradient", 2, {"", true, false, false, true, false}},
                    {"profile_unaligned", 5, {"", true, false, false, false, false}},
                    {"profile_channels_last",
                     2,
                     {"", true, false, false, false, false, kFloat32, Layout::kChannelsLast}}};
    for (const auto& profile : profiles) {
      if (mode == profile.mode) {
        std::printf("%.2f us\n", bench(kShapes[profile.shape], profile.bench));
      }
    }
  }
  if (mode == "test" || mode == "small" || mode == "huge") {
    std::printf("%s: %d cases, %d failures\n", failures ? "FAILED" : "passed", cases_run, failures);
  }
  return failures ? 1 : 0;
}
