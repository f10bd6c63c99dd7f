// Sums of |x - y| and of (x - y)^2 over pixels in a row, where they are asked for.
#pragma once

#include <cstdint>

#include "core/pointwise.h"
#include "cpu/plan.h"
#include "cpu/simd.h"

namespace fused_ssim::cpu {

template <class V, class Magnitude>
FUSED_SSIM_INLINE double sum_of_differences(const typename V::Scalar* x,
                                            const typename V::Scalar* y, int64_t count,
                                            Magnitude magnitude) {
  // In double from the start: float32 partial sums of a constant image drift.
  using DoubleLanes = typename Vec<double, V::kLanes * 8>::Native;
  DoubleLanes sum = {};
  int64_t i = 0;
  for (; i + V::kLanes <= count; i += V::kLanes) {
    const V difference = V::load_unaligned(x + i) - V::load_unaligned(y + i);
    sum += __builtin_convertvector(magnitude(difference).v, DoubleLanes);
  }
  double total = 0.0;
  for (int lane = 0; lane < V::kLanes; ++lane) {
    total += sum[lane];
  }
  for (; i < count; ++i) {
    total += magnitude(V(x[i] - y[i])).lane(0);
  }
  return total;
}

template <class V>
FUSED_SSIM_INLINE void add_differences(const Request& request, const typename V::Scalar* x,
                                       const typename V::Scalar* y, int64_t count,
                                       ChunkSums* sums) {
  if (request.l1_weight != 0.0) {
    sums->absolute +=
        sum_of_differences<V>(x, y, count, [](V difference) __attribute__((always_inline)) {
          return V(typename V::Native(difference.v < typename V::Native{} ? -difference.v
                                                                          : difference.v));
        });
  }
  if (request.l2_weight != 0.0 || request.mse != nullptr) {
    sums->squares += sum_of_differences<V>(
        x, y, count,
        [](V difference) __attribute__((always_inline)) { return difference * difference; });
  }
}

}  // namespace fused_ssim::cpu
