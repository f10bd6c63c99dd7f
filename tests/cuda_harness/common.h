// Shapes, names of types, and the windows that are tried.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "core/problem.h"

namespace harness {

namespace fs = fused_ssim;

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

}  // namespace harness
