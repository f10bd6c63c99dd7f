// The sum of a mask over the pixels of one plane that have a value.
#pragma once

#include <cstdint>

#include "core/problem.h"
#include "cpu/loader.h"
#include "cpu/simd.h"

namespace fused_ssim::cpu {

template <class Arch>
class MaskSum {
 public:
  static double run(const Problem& problem, int64_t batch, int64_t channel) {
    return accumulates_in_double(problem) ? sum<double>(problem, batch, channel)
                                          : sum<float>(problem, batch, channel);
  }

 private:
  // Numbers as the kernels see them, in the type of their arithmetic, added up in float64.
  template <class T>
  static double sum(const Problem& problem, int64_t batch, int64_t channel) {
    constexpr int kLanes = 4 * Vec<double, Arch::kVectorBytes>::kLanes;  // hides the adds' latency
    constexpr int64_t kPiece = 1024;                                     // pixels at a time
    T scratch[kPiece] = {};
    double sums[kLanes] = {};
    const Loader<Arch, T> loader(T(1));
    const int64_t front = crop(problem, kDepth);
    const int64_t top = crop(problem, kHeight);
    const int64_t left = crop(problem, kWidth);
    const int64_t right = image_size(problem, kWidth) - left;
    const int64_t rows = map_size(problem, kHeight);
    for (int64_t i = 0; i < map_size(problem, kDepth) * rows; ++i) {
      const Plane mask = plane_of(problem.mask, batch, channel, front + i / rows);
      const int64_t row = top + i % rows;
      for (int64_t column = left; column < right; column += kPiece) {
        const int64_t count = right - column < kPiece ? right - column : kPiece;
        loader.mask_row(mask, row, column, count, scratch);
        int64_t c = 0;
        for (; c + kLanes <= count; c += kLanes) {
          for (int lane = 0; lane < kLanes; ++lane) {
            sums[lane] += static_cast<double>(scratch[c + lane]);
          }
        }
        for (; c < count; ++c) {
          sums[0] += static_cast<double>(scratch[c]);
        }
      }
    }
    double total = 0.0;
    for (const double lane : sums) {
      total += lane;
    }
    return total;
  }
};

}  // namespace fused_ssim::cpu
