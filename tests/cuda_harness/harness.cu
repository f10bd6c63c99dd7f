// Checks and times the CUDA kernels alone, without torch: windows, data types, statistics, strides
// and sizes against a plain float64 reference on the CPU.
//
//   nvcc -std=c++17 -O3 -arch=sm_90 -Iinclude -Isrc '-DFUSED_SSIM_CUDA_ARCHITECTURES="sm_90"'
//       -o harness tests/cuda_harness/harness.cu src/cuda/*.cu
//   ./harness test | images | small | masks | huge | bench | quick | rows NAME... | volumes NAME...
//   ./harness choices | crossover | residents
//   ./harness profile NAME [SIZE]
//
// `images` is the last part of `test`. `small` reaches every kernel and loader with few pixels: for
// compute-sanitizer; `masks` is its part with masks. `profile` runs a
// row of `bench` at one of its sizes, of which the first is 0: for a profiler.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "core/problem.h"
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
std::string text_of(const Shape& s) {
  return std::to_string(s.batch) + "x" + std::to_string(s.channels) + "x" +
         std::to_string(s.height) + "x" + std::to_string(s.width);
}

constexpr int32_t kUInt8 = FUSED_SSIM_UINT8, kFloat16 = FUSED_SSIM_FLOAT16,
                  kBFloat16 = FUSED_SSIM_BFLOAT16, kFloat32 = FUSED_SSIM_FLOAT32,
                  kFloat64 = FUSED_SSIM_FLOAT64;
const char* name_of_dtype(int32_t dtype) {
  const char* names[] = {"uint8", "float16", "bfloat16", "float32", "float64"};
  return names[dtype];
}

// --------------------------------------------------------------------------------------- windows

using Taps = std::vector<double>;

Taps gaussian(int size, double sigma) {
  Taps taps(size);
  double total = 0;
  for (int i = 0; i < size; ++i) {
    const double z = (i - size / 2) / sigma;
    total += taps[i] = std::exp(-0.5 * z * z);
  }
  for (double& tap : taps) tap /= total;
  return taps;
}
Taps uniform(int size) { return Taps(size, 1.0 / size); }

// Of height and width.
struct Window {
  std::string name;
  Taps rows, columns;
  Window(std::string n, const Taps& both) : name(std::move(n)), rows(both), columns(both) {}
  Window(std::string n, Taps down, Taps along)
      : name(std::move(n)), rows(std::move(down)), columns(std::move(along)) {}
};
const Taps kAsymmetric5 = {0.1, 0.25, 0.4, 0.15, 0.1};
const Taps kAsymmetric9 = {0.02, 0.05, 0.1, 0.2, 0.25, 0.18, 0.12, 0.05, 0.03};
const Taps kAsymmetric11 = {0.01, 0.03, 0.06, 0.1, 0.14, 0.2, 0.22, 0.12, 0.07, 0.04, 0.01};
const Window kStandard = {"11", gaussian(11, 1.5)};
const std::vector<Window> kWindows = {
    kStandard,
    {"1", {1.0}},
    {"3", gaussian(3, 1.5)},
    {"5", gaussian(5, 1.5)},
    {"5 sigma 0.8", gaussian(5, 0.8)},
    {"7", gaussian(7, 1.5)},
    {"9", gaussian(9, 1.5)},
    {"11 sigma 1.0", gaussian(11, 1.0)},
    {"11 sigma 1.6", gaussian(11, 1.6)},
    {"uniform 3", uniform(3)},
    {"uniform 7", uniform(7)},
    {"uniform 11", uniform(11)},
    {"given 5", {0.05, 0.25, 0.4, 0.25, 0.05}},
    {"7x3", gaussian(7, 1.5), uniform(3)},
    {"13", gaussian(13, 2.0)},
    {"21", gaussian(21, 3.5)},
    {"33", gaussian(33, 5.5)},
    {"41", gaussian(41, 7.0)},
    {"asymmetric 5", kAsymmetric5},
    {"asymmetric 9", kAsymmetric9},
    {"3x13", gaussian(3, 1.0), gaussian(13, 2.0)},
    {"13x3", gaussian(13, 2.0), gaussian(3, 1.0)},
    {"1x5", {1.0}, kAsymmetric5},
    {"9x11", kAsymmetric9, gaussian(11, 1.5)},
};

// ------------------------------------------------------------------------------------ reference

// What is asked of the reference; gradients are those of the sum of f, or of weights * map.
struct Definition {
  const Window* window = &kStandard;
  int32_t padding = FUSED_SSIM_SAME;
  int32_t statistic = FUSED_SSIM_STATISTIC_SSIM;
  double c1 = 0, c2 = 0;
  double statistic_weight = 1, l1_weight = 0, l2_weight = 0;
  const std::vector<double>* mask = nullptr;         // [planes, height, width]
  const std::vector<double>* stabilizers = nullptr;  // [batch, 2]
  bool normalized = false;                           // the mask
};

struct Reference {
  std::vector<double> map;                           // [planes, map height, map width]
  std::vector<double> statistic, absolute, squares;  // [planes]: sums, weighted by the mask
  std::vector<double> weights;                       // [planes]: the mask's sums
  std::vector<double> grads[2];                      // [planes, height, width]
};

void parallel(int64_t n, const std::function<void(int64_t)>& body) {
  const auto available = static_cast<int64_t>(std::thread::hardware_concurrency());
  const int64_t workers = std::max<int64_t>(1, std::min(n, available));
  std::vector<std::thread> threads;
  for (int64_t w = 0; w < workers; ++w) {
    threads.emplace_back([&, w] {
      for (int64_t i = w; i < n; i += workers) body(i);
    });
  }
  for (auto& t : threads) t.join();
}
void for_each(int64_t n, bool in_parallel, const std::function<void(int64_t)>& body) {
  if (in_parallel && n > 1) return parallel(n, body);
  for (int64_t i = 0; i < n; ++i) body(i);
}

constexpr int64_t kLargePlane = 100000;  // pixels from which a plane is shared among threads

// Correlation with `rows` down and `columns` along, zeros beyond the border.
template <class T>
std::vector<T> filter(const std::vector<T>& in, int64_t h, int64_t w, const Taps& rows,
                      const Taps& columns) {
  const auto ry = static_cast<int64_t>(rows.size() / 2);
  const auto rx = static_cast<int64_t>(columns.size() / 2);
  std::vector<T> along(in.size()), out(in.size(), T(0));
  for_each(h, h * w >= kLargePlane, [&](int64_t y) {
    for (int64_t x = 0; x < w; ++x) {
      T sum = 0;
      for (int64_t k = std::max<int64_t>(0, x - rx); k <= std::min(w - 1, x + rx); ++k) {
        sum += T(columns[k - x + rx]) * in[y * w + k];
      }
      along[y * w + x] = sum;
    }
  });
  for_each(h, h * w >= kLargePlane, [&](int64_t y) {
    for (int64_t k = std::max<int64_t>(0, y - ry); k <= std::min(h - 1, y + ry); ++k) {
      const T tap = T(rows[k - y + ry]);
      for (int64_t x = 0; x < w; ++x) out[y * w + x] += tap * along[k * w + x];
    }
  });
  return out;
}

// The textbook's five moments: in float64 the truth, in float32 what everybody writes.
template <class T>
Reference reference(const Definition& d, const std::vector<double>& a, const std::vector<double>& b,
                    const Shape& s, const std::vector<double>* weights, bool gradient) {
  const int64_t h = s.height, w = s.width, n = h * w, planes = s.planes();
  const Taps &rows = d.window->rows, &columns = d.window->columns;
  const Taps mirrored_rows(rows.rbegin(), rows.rend());
  const Taps mirrored_columns(columns.rbegin(), columns.rend());
  const bool valid = d.padding == FUSED_SSIM_VALID;
  const auto top = static_cast<int64_t>(valid ? rows.size() / 2 : 0);
  const auto left = static_cast<int64_t>(valid ? columns.size() / 2 : 0);
  Reference ref;
  for (auto* sums : {&ref.statistic, &ref.absolute, &ref.squares, &ref.weights}) {
    sums->assign(planes, 0.0);
  }
  ref.map.assign(planes * (h - 2 * top) * (w - 2 * left), 0.0);
  for (auto& gradient_of : ref.grads) gradient_of.assign(planes * n, 0.0);
  for_each(planes, n < kLargePlane && planes * n > 20000, [&](int64_t p) {
    const double* own = d.stabilizers ? &(*d.stabilizers)[2 * (p / s.channels)] : nullptr;
    const T c1 = T(own ? own[0] : d.c1), c2 = T(own ? own[1] : d.c2);
    const std::vector<T> x(a.begin() + p * n, a.begin() + (p + 1) * n);
    const std::vector<T> y(b.begin() + p * n, b.begin() + (p + 1) * n);
    std::vector<T> seen(n, T(1));  // what windows see of the mask, which is 1 outside the image
    if (d.normalized) {
      for (int64_t i = 0; i < n; ++i) seen[i] = T((*d.mask)[p * n + i]) - T(1);
      seen = filter(seen, h, w, rows, columns);
      for (T& number : seen) number += T(1);
    }
    const auto means = [&](const std::vector<T>& u, const std::vector<T>* v) {
      std::vector<T> of(n);
      for (int64_t i = 0; i < n; ++i) {
        const T m = T(d.normalized ? (*d.mask)[p * n + i] : 1.0);
        of[i] = m > 0 ? m * (u[i] * (v ? (*v)[i] : T(1))) : T(0);
      }
      of = filter(of, h, w, rows, columns);
      for (int64_t i = 0; i < n; ++i) of[i] = seen[i] > T(1e-14) ? of[i] / seen[i] : T(0);
      return of;
    };
    const auto mx = means(x, nullptr), my = means(y, nullptr);
    const auto exx = means(x, &x), eyy = means(y, &y), exy = means(x, &y);
    std::vector<T> px(n), py(n), pxx(n), pxy(n);  // derivatives by the moments
    std::vector<T> of_difference(n);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t row = i / w, column = i % w;
      if (row < top || row >= h - top || column < left || column >= w - left) continue;
      const T b1 = mx[i] * mx[i] + my[i] * my[i] + c1;
      const T b2 = (exx[i] - mx[i] * mx[i]) + (eyy[i] - my[i] * my[i]) + c2;
      const T luminance = (2 * mx[i] * my[i] + c1) / b1;
      const T contrast = (2 * (exy[i] - mx[i] * my[i]) + c2) / b2;
      // The statistic's derivatives by its two factors.
      T by_luminance = contrast, by_contrast = luminance, value = luminance * contrast;
      if (d.statistic == FUSED_SSIM_STATISTIC_CONTRAST) {
        by_luminance = 0, by_contrast = 1, value = contrast;
      } else if (d.statistic == FUSED_SSIM_STATISTIC_LUMINANCE) {
        by_luminance = 1, by_contrast = 0, value = luminance;
      }
      const T difference = x[i] - y[i];
      const int64_t in_map = (p * (h - 2 * top) + row - top) * (w - 2 * left) + column - left;
      double m = d.mask ? (*d.mask)[p * n + i] : 1.0;
      if (d.normalized && !(seen[i] > T(1e-14))) {
        // Of no pixel: counts as one of equal images.
        ref.map[in_map] = 1, ref.statistic[p] += m, ref.weights[p] += m;
        ref.absolute[p] += m * std::fabs(x[i] - y[i]);
        ref.squares[p] += m * (x[i] - y[i]) * (x[i] - y[i]);
        m = 0;
      }
      ref.map[in_map] = m > 0 ? value : T(1);
      if (!(m > 0)) continue;
      ref.statistic[p] += m * value;
      ref.absolute[p] += m * std::fabs(difference);
      ref.squares[p] += m * difference * difference;
      ref.weights[p] += m;
      T g = T(weights ? (*weights)[in_map] : m);
      of_difference[i] = g * (T(d.l1_weight) * T((difference > 0) - (difference < 0)) +
                              T(d.l2_weight) * 2 * difference);
      g /= seen[i];
      px[i] = g * (by_luminance * 2 * (my[i] - mx[i] * luminance) / b1 +
                   by_contrast * 2 * (mx[i] * contrast - my[i]) / b2);
      py[i] = g * (by_luminance * 2 * (mx[i] - my[i] * luminance) / b1 +
                   by_contrast * 2 * (my[i] * contrast - mx[i]) / b2);
      pxx[i] = -g * by_contrast * contrast / b2;
      pxy[i] = g * by_contrast * 2 / b2;
    }
    if (!gradient) return;
    const auto back = [&](const std::vector<T>& by_moment) {
      return filter(by_moment, h, w, mirrored_rows, mirrored_columns);
    };
    const auto fx = back(px), fy = back(py), fxx = back(pxx), fxy = back(pxy);
    for (int64_t i = 0; i < n; ++i) {
      const double m = d.normalized ? (*d.mask)[p * n + i] : 1.0;
      const double weight = m * d.statistic_weight;
      const auto by_statistic = [&](T u, T v, T mean_partial) {
        return m > 0 ? weight * (mean_partial + 2 * u * fxx[i] + v * fxy[i]) : 0.0;
      };
      ref.grads[0][p * n + i] = by_statistic(x[i], y[i], fx[i]) + of_difference[i];
      ref.grads[1][p * n + i] = by_statistic(y[i], x[i], fy[i]) - of_difference[i];
    }
  });
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

// An element in memory; a byte u stands for u / divisor, rounded as the accumulation type does.
template <class T>
void put(char* to, T element) {
  std::memcpy(to, &element, sizeof element);
}
template <class T>
T get(const char* from) {
  T element;
  std::memcpy(&element, from, sizeof element);
  return element;
}
void store(char* to, double v, int32_t dtype, int divisor) {
  const auto f = static_cast<float>(v);
  if (dtype == kUInt8) put(to, static_cast<unsigned char>(std::min(255.0, v * divisor + 0.5)));
  if (dtype == kFloat16) put(to, __float2half_rn(f));
  if (dtype == kBFloat16) put(to, __float2bfloat16_rn(f));
  if (dtype == kFloat32) put(to, f);
  if (dtype == kFloat64) put(to, v);
}
double load(const char* from, int32_t dtype, int divisor, bool in_double) {
  if (dtype == kFloat16) return __half2float(get<__half>(from));
  if (dtype == kBFloat16) return __bfloat162float(get<__nv_bfloat16>(from));
  if (dtype == kFloat32) return get<float>(from);
  if (dtype == kFloat64) return get<double>(from);
  const auto byte = get<unsigned char>(from);
  return in_double ? static_cast<double>(byte) / divisor
                   : static_cast<float>(byte) / static_cast<float>(divisor);
}
double round_to(double v, int32_t dtype) {
  char element[8];
  store(element, v, dtype, 1);
  return load(element, dtype, 1, true);
}

struct DeviceImage {
  char* base = nullptr;
  int64_t storage = 0;  // elements
  int64_t bytes = 0;
  int64_t offset = 0;  // elements to the first pixel
  int64_t sb = 0, sc = 0, sr = 0, sx = 0;
  Shape shape;
  int32_t dtype = kFloat32;

  DeviceImage(const Shape& s, int32_t t, Layout layout = Layout::kContiguous) : shape(s), dtype(t) {
    const int64_t n = s.batch, c = s.channels, h = s.height, w = s.width;
    sx = 1, sr = w, sc = h * w, sb = c * h * w;
    if (layout == Layout::kChannelsLast) sx = c, sr = w * c, sc = 1;
    if (layout == Layout::kPadded) sr = (w + 7) / 4 * 4, sc = h * sr, sb = c * sc;
    if (layout == Layout::kTransposed) sr = 1, sx = h;
    if (layout == Layout::kExpanded) sc = 0, sb = h * w;
    storage = (n - 1) * sb + (c - 1) * sc + (h - 1) * sr + (w - 1) * sx + 1;
    if (layout == Layout::kShifted) {
      offset = 1;
      ++storage;
    }
    if (layout == Layout::kFlipped) {
      offset = (h - 1) * sr;
      sr = -sr;
    }
    // Rounded up to words: smaller elements may be read by the aligned word that holds them.
    bytes = (storage * fs::size_of(dtype) + 3) / 4 * 4;
    check(cudaMalloc(reinterpret_cast<void**>(&base), bytes), "malloc");
    poison();
  }
  DeviceImage(const DeviceImage&) = delete;
  ~DeviceImage() { cudaFree(base); }

  void poison() { check(cudaMemset(base, 0xff, bytes), "poison"); }  // NaN in floating point
  // body(pixel, its element) for each pixel; rows are shared among threads.
  template <class Body>
  void each_pixel(const Body& body) const {
    const int64_t h = shape.height, w = shape.width;
    for_each(h, shape.pixels() >= kLargePlane, [&](int64_t y) {
      for (int64_t p = 0; p < shape.planes(); ++p) {
        const int64_t row = offset + p / shape.channels * sb + p % shape.channels * sc + y * sr;
        for (int64_t x = 0; x < w; ++x) body((p * h + y) * w + x, row + x * sx);
      }
    });
  }
  char* first() const { return base + offset * fs::size_of(dtype); }
  fs::Image image() const { return {first(), {sb, sc, 0, sr, sx}, dtype}; }

  // Rounds `logical` to what was stored, which is one element for several pixels if expanded.
  void upload(std::vector<double>& logical, int divisor = 255, bool in_double = false) {
    const int64_t e = fs::size_of(dtype);
    std::vector<char> host(bytes, static_cast<char>(0xff));
    each_pixel([&](int64_t i, int64_t at) { store(&host[at * e], logical[i], dtype, divisor); });
    check(cudaMemcpy(base, host.data(), bytes, cudaMemcpyHostToDevice), "upload");
    each_pixel([&](int64_t i, int64_t at) {
      logical[i] = load(&host[at * e], dtype, divisor, in_double);
    });
  }

  // The pixels; reports elements outside them that lost their poison.
  std::vector<double> download(bool* clean) const {
    const int64_t e = fs::size_of(dtype);
    std::vector<char> host(bytes);
    check(cudaMemcpy(host.data(), base, bytes, cudaMemcpyDeviceToHost), "download");
    std::vector<double> logical(shape.pixels());
    each_pixel([&](int64_t i, int64_t at) {
      logical[i] = load(&host[at * e], dtype, 255, true);
      std::memset(&host[at * e], 0xff, e);
    });
    *clean = *clean && std::count(host.begin(), host.end(), static_cast<char>(0xff)) == bytes;
    return logical;
  }
};

struct DeviceBytes {
  void* data = nullptr;
  int64_t bytes;
  explicit DeviceBytes(int64_t b) : bytes(std::max<int64_t>(b, 256)) {
    check(cudaMalloc(&data, bytes), "malloc");
    check(cudaMemset(data, 0xff, bytes), "poison");
  }
  DeviceBytes(const DeviceBytes&) = delete;
  ~DeviceBytes() { cudaFree(data); }
};

int64_t workspace_bytes(const fs::Problem& problem, const fs::Request& request) {
  int64_t bytes = 0;
  check(fs::cuda::workspace_bytes(problem, request, &bytes), "the workspace's size");
  return bytes;
}

const fs::cuda::StripChoice kStrips;  // whatever the size

// Runs the request with scratch memory that nobody has cleared, on a stream of its own.
void run(const fs::Problem& problem, const fs::Request& request, bool strips = false) {
  DeviceBytes workspace(workspace_bytes(problem, request));
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  check(cudaDeviceSynchronize(), "before");
  check(fs::cuda::run(problem, request, workspace.data, stream, strips ? &kStrips : nullptr),
        "run");
  check(cudaStreamSynchronize(stream), "run, executed");
  check(cudaStreamDestroy(stream), "stream");
}

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

// In [0, 1), of a pixel's number and a seed.
double random_number(uint64_t i, uint64_t seed) {
  uint64_t z = i * 0x9e3779b97f4a7c15u + seed * 0xd1b54a32d192ed03u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

void fill(Content content, const Shape& s, unsigned seed, std::vector<double>* a,
          std::vector<double>* b) {
  a->resize(s.pixels());
  b->resize(s.pixels());
  const auto pixel = [&](int64_t i) {
    const double u = static_cast<double>(i % s.width) / 300.0;
    const double v = static_cast<double>(i / s.width % s.height) / 300.0;
    const double phase = static_cast<double>(i / (s.width * s.height));
    const double r1 = random_number(2 * i, seed), r2 = random_number(2 * i + 1, seed);
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
  };
  for_each(s.pixels() / s.width, s.pixels() >= kLargePlane, [&](int64_t row) {
    for (int64_t i = row * s.width; i < (row + 1) * s.width; ++i) pixel(i);
  });
}

// ----------------------------------------------------------------------------------------- cases

// What a request asks for, in words; "weighted" are gradients of a weighted map.
struct Kind {
  std::string words;
  double l1, l2;
  bool value = has("value"), map = has("map"), grad1 = has("grad1"), grad2 = has("grad2");
  bool weighted = has("weighted"), mse = has("mse");

  Kind(const char* w, double l1_weight = 0, double l2_weight = 0)
      : words(w), l1(l1_weight), l2(l2_weight) {}
  bool has(const char* word) const { return words.find(word) != std::string::npos; }
};
const Kind kValue = "value";
const Kind kGradient = "value grad1";
const Kind kBoth = "value grad1 grad2";
const Kind kL1 = {"value grad1", 0.8};
const Kind kWeighted = "weighted grad1";
const Kind kMap = "map";
const Kind kMse = "value mse";
const std::vector<Kind> kKinds = {kValue,
                                  kGradient,
                                  kMap,
                                  kBoth,
                                  kL1,
                                  kWeighted,
                                  kMse,
                                  {"value grad2"},
                                  {"value map"},
                                  {"weighted grad2"},
                                  {"weighted grad1 grad2"},
                                  {"value", 0.7},
                                  {"value grad2", 0.25},
                                  {"value map grad1 grad2", 0.3},
                                  {"weighted grad1", 0.5},
                                  {"mse"},
                                  {"value map mse"},
                                  {"value grad1 grad2 mse", 0.6},
                                  {"value grad1 grad2", 0, 0.4},
                                  {"weighted grad1", 0.3, 0.5}};

struct Types {
  int32_t img1 = kFloat32, img2 = kFloat32;
};
const std::vector<Types> kTypes = {
    {kFloat32, kFloat32},  {kFloat16, kFloat16}, {kBFloat16, kBFloat16}, {kFloat64, kFloat64},
    {kUInt8, kUInt8},      {kFloat32, kUInt8},   {kUInt8, kFloat32},     {kFloat16, kUInt8},
    {kUInt8, kBFloat16},   {kFloat64, kUInt8},   {kUInt8, kFloat64},     {kFloat32, kFloat16},
    {kBFloat16, kFloat32}, {kFloat16, kBFloat16}};
struct Layouts {
  Layout img1 = Layout::kContiguous, img2 = Layout::kContiguous;
};

// Masks: of each plane its own, of all channels one, of all images one, and one of them without a
// pixel where there are several. Bytes are not only 0 and 1.
enum class Sharing { kNone, kChannels, kAll };
struct Mask {
  bool exists = false;
  int32_t dtype = kUInt8;
  Sharing sharing = Sharing::kAll;
  bool some_empty = false;
  bool normalized = false;

  double number(int64_t i, unsigned seed) const {
    const double r = random_number(i, seed);
    return r < 0.3 ? 0.0 : dtype == kUInt8 ? std::ceil(5 * r) : r;
  }
};
const std::vector<Mask> kMasks = {
    {true},
    {true, kUInt8, Sharing::kNone},
    {true, kUInt8, Sharing::kChannels, true},
    {true, kFloat32, Sharing::kAll},
    {true, kFloat32, Sharing::kNone, true},
    {true, kFloat16, Sharing::kNone},
    {true, kBFloat16, Sharing::kChannels},
    {true, kFloat64, Sharing::kNone},
    {true, kUInt8, Sharing::kAll, false, true},
    {true, kUInt8, Sharing::kChannels, true, true},
    {true, kFloat32, Sharing::kNone, true, true},
    {true, kFloat16, Sharing::kNone, false, true},
    {true, kBFloat16, Sharing::kAll, false, true},
    {true, kFloat64, Sharing::kChannels, false, true},
};

struct Case {
  Shape shape;
  Kind kind = kValue;
  Types types;
  Layouts layouts;
  Window window = kStandard;
  Content content = Content::kNoise;
  int32_t padding = FUSED_SSIM_SAME;
  int32_t reduction = FUSED_SSIM_MEAN;
  int32_t statistic = FUSED_SSIM_STATISTIC_SSIM;
  int32_t divisor = 255;  // of bytes
  Layout output_layout = Layout::kContiguous;
  bool gradient_of_sum = false;
  Mask mask;
  bool own_stabilizers = false;  // C1 and C2 of each image
  bool volume = false;           // timed alone: the channels are the depth

  bool has(int32_t dtype) const { return types.img1 == dtype || types.img2 == dtype; }
  double range() const { return has(kUInt8) && divisor == 1 ? 255.0 : 1.0; }
  int32_t accumulator() const { return has(kFloat64) ? kFloat64 : kFloat32; }
  int64_t crop(const Taps& taps) const {
    return padding == FUSED_SSIM_VALID ? static_cast<int64_t>(taps.size() / 2) : 0;
  }
  Shape map_shape() const {
    Shape s = shape;
    s.height -= 2 * crop(window.rows), s.width -= 2 * crop(window.columns);
    return s;
  }
  // The taps live as long as the case.
  fs::Problem problem(const fs::Image& img1, const fs::Image& img2) const {
    const Shape& s = shape;
    fs::Problem p = fused_ssim_problem(s.batch, s.channels, s.height, s.width, img1, img2);
    p.windows[fs::kDepth] = {kOneTap, 1};
    p.windows[fs::kHeight] = {window.rows.data(), static_cast<int32_t>(window.rows.size())};
    p.windows[fs::kWidth] = {window.columns.data(), static_cast<int32_t>(window.columns.size())};
    p.c1 *= range() * range(), p.c2 *= range() * range();
    p.padding = padding;
    p.statistic = statistic;
    p.uint8_divisor = divisor;
    return p;
  }
  fs::Request request() const {
    fs::Request r = fused_ssim_request();
    r.reduction = reduction;
    r.statistic_weight = kind.l1 != 0 ? -0.2 : 1.0;
    r.l1_weight = kind.l1;
    r.l2_weight = kind.l2;
    r.offset = kind.l1 != 0 ? 0.2 : 0.0;
    // The mean's gradient is below the smallest float16 numbers.
    r.gradient_of_sum = gradient_of_sum || has(kFloat16);
    return r;
  }
  static constexpr double kOneTap[] = {1.0};
};

int failures = 0;
int cases_run = 0;
std::map<std::string, int> refused;  // cases by the reason why the kernels do not serve them

// NaN fails. Beyond `limit` and up to `ceiling`, the kernels may be as far off as plain float32
// code, whose error is yardstick().
void report(const Case& c, bool strips, const char* what, double error, double limit,
            double ceiling = 0, const std::function<double()>& yardstick = nullptr) {
  if (error <= limit) return;
  if (yardstick && error <= ceiling) {
    limit = std::min(ceiling, std::max(limit, yardstick()));
    if (error <= limit) return;
  }
  if (++failures > 40) return;
  const char* paddings[] = {"same", "valid"};
  const char* statistics[] = {"ssim", "contrast", "luminance"};
  std::printf(
      "FAIL %s: %.3g > %.3g  [%s l1 %g l2 %g, window %s, %s %s, %s %s/%d, %s %s -> %s, %s, %s, "
      "r%d%s%s, mask %s/%d%s%s%s]\n",
      what, error, limit, c.kind.words.c_str(), c.kind.l1, c.kind.l2, c.window.name.c_str(),
      text_of(c.shape).c_str(), paddings[c.padding], name_of_dtype(c.types.img1),
      name_of_dtype(c.types.img2), c.divisor, name_of(c.layouts.img1), name_of(c.layouts.img2),
      name_of(c.output_layout), name_of(c.content), statistics[c.statistic], c.reduction,
      c.gradient_of_sum ? " of sum" : "", strips ? " strips" : "",
      c.mask.exists ? name_of_dtype(c.mask.dtype) : "none", static_cast<int>(c.mask.sharing),
      c.mask.some_empty ? " some empty" : "", c.mask.normalized ? " normalized" : "",
      c.own_stabilizers ? ", own stabilizers" : "");
}
void expect(bool right, const std::string& what) {
  ++cases_run;
  if (right) return;
  ++failures;
  std::printf("FAIL %s\n", what.c_str());
}

struct Errors {
  double map = 0, mean = 0, grad = 0;
};

double worst_difference(const std::vector<double>& out, const std::vector<double>& ref) {
  double worst = 0;
  for (size_t i = 0; i < ref.size(); ++i) {
    const double error = std::fabs(out[i] - ref[i]);
    if (!(error <= worst)) worst = error;
  }
  return worst;
}
double relative_norm(const std::vector<double>& out, const std::vector<double>& ref) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < ref.size(); ++i) {
    difference += (out[i] - ref[i]) * (out[i] - ref[i]);
    norm += ref[i] * ref[i];
  }
  if (norm == 0) return difference == 0 ? 0 : std::sqrt(difference) * 1e3;
  return std::sqrt(difference / norm);
}

// A mask on the device, and in `numbers` what it says of each pixel.
struct DeviceMask {
  DeviceImage memory;
  fs::Image image;

  DeviceMask(const Case& c, unsigned seed, std::vector<double>* numbers)
      : memory(shape_of(c), c.mask.dtype,
               c.mask.sharing == Sharing::kNone ? c.layouts.img1 : Layout::kContiguous) {
    if (!c.mask.exists) return;
    const Shape &s = c.shape, &of = memory.shape;
    std::vector<double> stored(of.pixels());
    const int64_t pixels = s.height * s.width;
    for (int64_t i = 0; i < of.pixels(); ++i) {
      const bool empty = c.mask.some_empty && i < pixels;
      stored[i] = empty ? 0.0 : c.mask.number(i, seed);
    }
    memory.upload(stored, 1, true);
    image = memory.image();
    if (of.batch != s.batch) image.strides[FUSED_SSIM_AXIS_BATCH] = 0;
    if (of.channels != s.channels) image.strides[FUSED_SSIM_AXIS_CHANNEL] = 0;
    numbers->resize(s.pixels());
    for (int64_t i = 0; i < s.pixels(); ++i) {
      const int64_t plane = i / pixels, batch = plane / s.channels % of.batch;
      const int64_t from = batch * of.channels + plane % s.channels % of.channels;
      const double number = stored[from * pixels + i % pixels];
      (*numbers)[i] = c.mask.dtype != kUInt8 ? number : number != 0 ? 1.0 : 0.0;
    }
  }

 private:
  static Shape shape_of(const Case& c) {
    Shape s = c.mask.exists ? c.shape : Shape{1, 1, 1, 1};
    if (c.mask.sharing != Sharing::kNone) s.channels = 1;
    if (c.mask.sharing == Sharing::kAll) s.batch = 1;
    return s;
  }
};

// By both schedules, where the kernels have two for the case: whatever it asks for, compared.
Errors run_case(Case c) {
  static unsigned seed = 0;
  ++seed;
  // Gradients are those of floating point alone.
  const bool had_gradient = c.kind.grad1 || c.kind.grad2;
  c.kind.grad1 = c.kind.grad1 && c.types.img1 != kUInt8;
  c.kind.grad2 = c.kind.grad2 && c.types.img2 != kUInt8;
  if (had_gradient && !c.kind.grad1 && !c.kind.grad2) c.kind = c.kind.weighted ? kMap : kValue;
  const Kind& kind = c.kind;
  if (c.map_shape().height < 1 || c.map_shape().width < 1) c.padding = FUSED_SSIM_SAME;
  const Shape &s = c.shape, m = c.map_shape();
  const bool in_double = c.has(kFloat64);
  const int32_t accumulator = c.accumulator();

  std::vector<double> a, b, weights;
  fill(c.content, s, seed, &a, &b);
  for (auto* image : {&a, &b}) {
    for (double& v : *image) v *= c.range();
  }
  DeviceImage img1(s, c.types.img1, c.layouts.img1), img2(s, c.types.img2, c.layouts.img2);
  img1.upload(a, c.divisor, in_double);
  img2.upload(b, c.divisor, in_double);
  fs::Problem problem = c.problem(img1.image(), img2.image());
  std::vector<double> mask_numbers, stabilizers(2 * s.batch);
  const DeviceMask mask(c, seed + 2, &mask_numbers);
  if (c.mask.exists) problem.mask = mask.image;
  problem.mask_mode = c.mask.normalized ? FUSED_SSIM_MASK_NORMALIZED : FUSED_SSIM_MASK_WEIGHTED;
  DeviceImage stabilizer_image({1, 1, 1, 2 * s.batch}, accumulator);
  for (int64_t i = 0; i < 2 * s.batch; ++i) {
    stabilizers[i] = (1 + 3 * random_number(i, seed + 3)) * (i % 2 == 0 ? problem.c1 : problem.c2);
  }
  stabilizer_image.upload(stabilizers);
  if (c.own_stabilizers) problem.stabilizers = stabilizer_image.first();
  fs::Request request = c.request();
  const int64_t values = fs::value_count(c.reduction, problem.sizes);
  DeviceImage value({1, 1, 1, values}, accumulator), mse({1, 1, 1, values}, accumulator);
  DeviceImage map(m, accumulator);
  DeviceImage grad1(s, c.types.img1, c.output_layout), grad2(s, c.types.img2, c.output_layout);
  DeviceImage weight_image(kind.weighted ? m : Shape{1, 1, 1, 1}, accumulator, c.layouts.img1);
  if (kind.value) request.value = value.first();
  if (kind.mse) request.mse = mse.first();
  if (kind.map) request.map = map.first();
  if (kind.grad1) request.grad1 = grad1.image();
  if (kind.grad2) request.grad2 = grad2.image();
  if (kind.weighted) {
    weights.resize(m.pixels());
    for (int64_t i = 0; i < m.pixels(); ++i) weights[i] = 2 * random_number(i, seed + 1) - 1;
    weight_image.upload(weights);
    request.map_gradient = weight_image.image();
  }

  Errors errors;
  ++cases_run;
  if (const char* reason = fs::cuda::not_served(problem, request)) {
    ++failures;
    ++refused[reason];
    return errors;
  }
  const Definition definition = {&c.window,
                                 c.padding,
                                 c.statistic,
                                 problem.c1,
                                 problem.c2,
                                 request.statistic_weight,
                                 kind.l1,
                                 kind.l2,
                                 c.mask.exists ? &mask_numbers : nullptr,
                                 c.own_stabilizers ? &stabilizers : nullptr,
                                 c.mask.normalized};
  const auto refer = [&](auto zero) {
    return reference<decltype(zero)>(definition, a, b, s, kind.weighted ? &weights : nullptr,
                                     kind.grad1 || kind.grad2);
  };
  const Reference ref = refer(0.0);
  std::unique_ptr<Reference> plain;  // the same in float32
  const auto in_float = [&]() -> const Reference& {
    if (!plain) plain = std::make_unique<Reference>(refer(0.0f));
    return *plain;
  };
  const int64_t per_value = fs::planes_per_value(c.reduction, problem.sizes);
  // What sums are divided by. Over nothing a mean is that of equal images.
  std::vector<double> divisors(values, 1.0), over_nothing(values, 0.0);
  for (int64_t v = 0; v < values && c.reduction != FUSED_SSIM_SUM; ++v) {
    double sum = 0;
    for (int64_t p = v * per_value; p < (v + 1) * per_value; ++p) sum += ref.weights[p];
    if (sum > 0) divisors[v] = sum;
    if (sum == 0) over_nothing[v] = request.statistic_weight;
  }
  const double divisor_scale =
      c.reduction == FUSED_SSIM_SUM ? static_cast<double>(m.pixels()) : 1.0;
  const double value_scale = divisor_scale * c.range() * (kind.l2 != 0 ? c.range() : 1.0);
  // Of few taps some variances are the small difference of two large squares: contrast shows it.
  const size_t taps = c.window.rows.size() * c.window.columns.size();
  // Gradients that vanish up to rounding have no relative error to speak of.
  const bool vanishing = c.content == Content::kIdentical ||
                         (kind.l1 == 0 && kind.l2 == 0 &&
                          (c.content == Content::kFlat ||
                           (taps == 1 && c.statistic == FUSED_SSIM_STATISTIC_CONTRAST)));
  // SSIM keeps its bounds whatever the window.
  const double loosen = c.statistic != FUSED_SSIM_STATISTIC_SSIM && taps <= 25 ? 4 : 1;

  const size_t longest = std::max(c.window.rows.size(), c.window.columns.size());
  for (const bool strips : {false, true}) {
    // These have one schedule.
    if (strips && (in_double || longest > 11 || c.mask.normalized)) continue;
    for (DeviceImage* output : {&value, &mse, &map, &grad1, &grad2}) output->poison();
    run(problem, request, strips);
    bool clean = true;
    const std::vector<double> out = value.download(&clean), squares = mse.download(&clean);
    for (int64_t v = 0; v < values; ++v) {
      double sum = 0, sum_of_squares = 0;
      for (int64_t p = v * per_value; p < (v + 1) * per_value; ++p) {
        sum += request.statistic_weight * ref.statistic[p] + kind.l1 * ref.absolute[p] +
               kind.l2 * ref.squares[p];
        sum_of_squares += ref.squares[p];
      }
      const double expected = request.offset + over_nothing[v] + sum / divisors[v];
      const double error = std::fabs(out[v] - expected) / value_scale;
      if (kind.value) {
        if (!(error <= errors.mean)) errors.mean = error;
        report(c, strips, "value", error, in_double ? 1e-11 : loosen * 1e-6);
      }
      if (kind.mse) {
        report(c, strips, "mse",
               std::fabs(squares[v] - sum_of_squares / divisors[v]) /
                   (divisor_scale * c.range() * c.range()),
               in_double ? 1e-11 : 1e-6);
      }
      if (kind.value && c.content == Content::kIdentical && kind.l1 == 0 && kind.l2 == 0 &&
          c.reduction != FUSED_SSIM_SUM) {
        report(c, strips, "identical is 1", std::fabs(out[v] - 1.0), 0.0);
      }
    }
    if (kind.map) {
      errors.map = worst_difference(map.download(&clean), ref.map);
      report(c, strips, "map", errors.map,
             in_double             ? 1e-11
             : is_photo(c.content) ? std::min(loosen, 2.0) * 1e-4
                                   : loosen * 5e-6);
    }
    for (int i = 0; i < 2; ++i) {
      if (!(i == 0 ? kind.grad1 : kind.grad2)) continue;
      const int32_t dtype = i == 0 ? c.types.img1 : c.types.img2;
      std::vector<double> gradient = (i == 0 ? grad1 : grad2).download(&clean);
      for (size_t k = 0; k < gradient.size() && !fs::gradient_is_of_sum(request); ++k) {
        gradient[k] *= divisors[static_cast<int64_t>(k) / (s.height * s.width) / per_value];
      }
      const char* name = i == 0 ? "grad1" : "grad2";
      if (vanishing) {
        const double error = worst_difference(gradient, ref.grads[i]);
        if (!(error <= errors.grad)) errors.grad = error;
        report(c, strips, name, error, in_double ? 1e-9 : dtype == kFloat32 ? 1e-3 : 1.0);
        continue;
      }
      const double error = relative_norm(gradient, ref.grads[i]);
      if (!(error <= errors.grad)) errors.grad = error;
      const double rounding = dtype == kFloat16 ? 2e-3 : dtype == kBFloat16 ? 1e-2 : 0.0;
      if (in_double) {
        report(c, strips, name, error, 1e-9);
      } else if (rounding > 0) {
        report(c, strips, name, error, rounding);
      } else {
        report(c, strips, name, error, 1e-5, 1e-4,
               [&] { return relative_norm(in_float().grads[i], ref.grads[i]); });
      }
    }
    report(c, strips, "wrote outside the output", clean ? 0 : 1, 0);
  }
  return errors;
}

// Lists of what cases may be, of which every pair is in at least `rounds` cases.
struct Choices {
  std::vector<Window> windows = {kStandard};
  std::vector<Kind> kinds = kKinds;
  std::vector<Types> types = kTypes;
  std::vector<Layouts> layouts;
  std::vector<Layout> outputs = {Layout::kContiguous, Layout::kChannelsLast, Layout::kPadded,
                                 Layout::kTransposed, Layout::kShifted,      Layout::kFlipped};
  std::vector<int64_t> heights = {23, 64, 131}, widths, channels = {1, 2, 3};
  std::vector<int32_t> paddings = {FUSED_SSIM_SAME, FUSED_SSIM_VALID};
  std::vector<int32_t> reductions = {FUSED_SSIM_MEAN, FUSED_SSIM_SUM, FUSED_SSIM_IMAGE,
                                     FUSED_SSIM_CHANNEL};
  std::vector<int32_t> statistics = {FUSED_SSIM_STATISTIC_SSIM};
  std::vector<int32_t> divisors = {255, 1};
  std::vector<Content> contents = {Content::kNoise, Content::kPhoto, Content::kPhotos};
  std::vector<Mask>
      masks;  // drawn for each case, as is whether images have stabilizers of their own

  Choices() {
    for (int i = 0; i < static_cast<int>(Layout::kCount); ++i) {
      layouts.push_back({static_cast<Layout>(i), static_cast<Layout>(i)});
    }
    for (const Layout other : {Layout::kChannelsLast, Layout::kShifted, Layout::kExpanded}) {
      layouts.push_back({Layout::kContiguous, other});
      layouts.push_back({other, Layout::kContiguous});
    }
  }

  void run(int rounds) const {
    const std::vector<size_t> counts = {
        windows.size(),    kinds.size(),    types.size(),    layouts.size(),  outputs.size(),
        heights.size(),    widths.size(),   channels.size(), paddings.size(), reductions.size(),
        statistics.size(), divisors.size(), contents.size()};
    std::mt19937 generator(1);
    for (int round = 0; round < rounds; ++round) {
      std::set<std::tuple<size_t, size_t, size_t, size_t>> covered;
      for (size_t i = 0; i < counts.size(); ++i) {
        for (size_t j = 0; j < i; ++j) {
          for (size_t k = 0; k < counts[i] * counts[j]; ++k) {
            std::vector<size_t> of(counts.size());
            for (size_t l = 0; l < of.size(); ++l) of[l] = generator() % counts[l];
            of[i] = k % counts[i], of[j] = k / counts[i];
            if (covered.count({i, of[i], j, of[j]})) continue;
            for (size_t l = 0; l < of.size(); ++l) {
              for (size_t n = 0; n < l; ++n) covered.insert({l, of[l], n, of[n]});
            }
            Case c;
            c.window = windows[of[0]], c.kind = kinds[of[1]], c.types = types[of[2]];
            c.layouts = layouts[of[3]], c.output_layout = outputs[of[4]];
            c.shape = {1 + static_cast<int64_t>(generator() % 2), channels[of[7]], heights[of[5]],
                       widths[of[6]]};
            c.padding = paddings[of[8]], c.reduction = reductions[of[9]];
            c.statistic = statistics[of[10]], c.divisor = divisors[of[11]];
            c.content = contents[of[12]], c.gradient_of_sum = generator() % 2;
            if (!masks.empty()) {
              c.mask = masks[generator() % masks.size()];
              c.own_stabilizers = generator() % 3 == 0;
            }
            run_case(c);
          }
        }
      }
    }
  }
};

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
  check(fs::cuda::halve(r, nullptr), "halve");
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
  progress("special");
}

// -------------------------------------------------------------------------------------- benchmark

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
      fs::cuda::StripChoice choice = fs::cuda::choose_strips(device, kind, c.problem({}, {}).sizes);
      for (const int rows : {choice.tile_rows, 0}) {
        choice.tile_rows = rows;
        std::printf("%16.2f", bench_choice(c.shape, gradient, choice));
      }
    }
    std::printf("\n");
  }
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

void copy_bandwidth() {
  DeviceBytes a(1 << 30), b(1 << 30);
  const double us = time_launches(1, [&](int, cudaStream_t stream) {
    check(cudaMemcpyAsync(b.data, a.data, a.bytes, cudaMemcpyDeviceToDevice, stream), "copy");
  });
  std::printf("copy bandwidth: %.0f GB/s (read + written)\n", 2e-3 * a.bytes / us);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "test";
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0), "device");
  std::printf("%s, %d multiprocessors, built for %s\n", properties.name,
              properties.multiProcessorCount, fs::cuda::architectures());
  const std::map<std::string, std::function<void()>> modes = {
      {"test", test_all},
      {"small", test_small},
      {"masks", test_small_masks},
      {"images", test_images},
      {"huge", test_huge},
      {"bench", [] { copy_bandwidth(), bench_rows({}); }},
      {"quick", [] { bench_rows({"value + gradient", "value"}); }},
      {"rows", [&] { bench_rows({argv + 2, argv + argc}); }},
      {"volumes", [&] { bench_rows({argv + 2, argv + argc}, volume_table(), kVolumes); }},
      {"choices", bench_choices},
      {"crossover", bench_crossover},
      {"residents", bench_residents},
      {"profile", [&] {
         const size_t size = argc > 3 ? std::strtoul(argv[3], nullptr, 10) : 2;
         const auto profile = [&](const std::vector<Row>& table, const std::vector<Shape>& shapes) {
           for (const Row& row : table) {
             if (argc > 2 && row.first == argv[2])
               std::printf("%.2f us\n", row.second(shapes.at(size)));
           }
         };
         profile(bench_table(), kShapes);
         profile(volume_table(), kVolumes);
       }}};
  const auto found = modes.find(mode);
  if (found == modes.end()) {
    std::printf("expected one of the modes at the top of harness.cu, got '%s'\n", mode.c_str());
    return 2;
  }
  found->second();
  if (cases_run > 0 || mode == "huge") {
    for (const auto& [reason, count] : refused) {
      std::printf("not served: %d cases: %s\n", count, reason.c_str());
    }
    std::printf("%s: %d cases, %d failures\n", failures ? "FAILED" : "passed", cases_run, failures);
  }
  return failures ? 1 : 0;
}
