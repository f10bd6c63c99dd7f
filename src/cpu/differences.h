// The L1 and L2 parts of a row: sums of |x - y| and (x - y)^2, and their derivatives. Out of line, and
// independent of the strip kernel's filters: compiled once for each type of the arithmetic.
#pragma once

#include <cstdint>

#include "core/pointwise.h"
#include "cpu/simd.h"

namespace fused_ssim::cpu {

template <class Arch, class T>
class Differences {
 public:
  // What is asked for of the sums over `count` pixels, weighted where there is a mask.
  static __attribute__((noinline)) void add_sums(const T* x, const T* y, const T* mask,
                                                 int64_t count, bool absolute, bool squares,
                                                 PixelSums* sums) {
    if (absolute) {
      sums->absolute += sum_of(x, y, mask, count, [](V difference) __attribute__((always_inline)) {
        return V(
            typename V::Native(difference.v < typename V::Native{} ? -difference.v : difference.v));
      });
    }
    if (squares) {
      sums->squares += sum_of(x, y, mask, count, [](V difference) __attribute__((always_inline)) {
        return difference * difference;
      });
    }
  }

  // to += weights * derivative; nothing where the mask is 0. `weights` and `mask` may be null.
  static __attribute__((noinline)) void add_gradient(const T* x, const T* y, const T* weights,
                                                     const T* mask, int64_t count, T l1, T l2,
                                                     T* to) {
    if (mask != nullptr) {
      for (int64_t i = 0; i < count; ++i) {
        const T term = weights[i] * difference_gradient(x[i] - y[i], l1, l2);
        to[i] += select_positive(mask[i], term, T(0));
      }
    } else if (weights != nullptr) {
      for (int64_t i = 0; i < count; ++i) {
        to[i] += weights[i] * difference_gradient(x[i] - y[i], l1, l2);
      }
    } else {
      for (int64_t i = 0; i < count; ++i) {
        to[i] += difference_gradient(x[i] - y[i], l1, l2);
      }
    }
  }

 private:
  using V = Vec<T, Arch::kVectorBytes>;
  static constexpr int kLanes = V::kLanes;
  using DoubleLanes = typename Vec<double, kLanes * 8>::Native;

  // In double from the start: float32 partial sums of a constant image drift.
  template <class Magnitude>
  static FUSED_SSIM_INLINE double sum_of(const T* x, const T* y, const T* mask, int64_t count,
                                         Magnitude magnitude) {
    return mask == nullptr ? sum_where<false>(x, y, mask, count, magnitude)
                           : sum_where<true>(x, y, mask, count, magnitude);
  }
  template <bool kMasked, class Magnitude>
  static FUSED_SSIM_INLINE double sum_where(const T* x, const T* y, const T* mask, int64_t count,
                                            Magnitude magnitude) {
    DoubleLanes sum = {};
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      V term = magnitude(V::load_unaligned(x + i) - V::load_unaligned(y + i));
      if constexpr (kMasked) {
        const V weight = V::load_unaligned(mask + i);
        term = select_positive(weight, weight * term, V(T(0)));
      }
      sum += __builtin_convertvector(term.v, DoubleLanes);
    }
    double total = 0.0;
    for (int lane = 0; lane < kLanes; ++lane) {
      total += sum[lane];
    }
    for (; i < count; ++i) {
      const T term = magnitude(V(x[i] - y[i])).lane(0);
      total += kMasked ? select_positive(mask[i], mask[i] * term, T(0)) : term;
    }
    return total;
  }
};

}  // namespace fused_ssim::cpu
