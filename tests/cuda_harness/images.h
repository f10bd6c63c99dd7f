// Images and masks on the device, in any layout and type, and what they show.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "common.h"
#include "core/problem.h"
#include "cuda/kernels.h"
#include "cuda/ssim_cuda.h"
#include "reference.h"

namespace harness {

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

}  // namespace harness
