// What the pixels of a plane or volume are shifted by: the mean of s and d over samples of it. The
// extremes are left out, for they may be outliers, and so is what is not finite: it must spoil its
// own windows alone.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace fused_ssim::cpu {

template <class T>
class ShiftSamples {
 public:
  static constexpr int kMost = 36;

  FUSED_SSIM_INLINE void add(T x, T y) {
    if (x > -kLargest && x < kLargest && y > -kLargest && y < kLargest) {
      insert(s_, count_, x + y);
      insert(d_, count_, x - y);
      ++count_;
    }
  }

  FUSED_SSIM_INLINE T shift_s() const { return mean(s_); }
  FUSED_SSIM_INLINE T shift_d() const { return mean(d_); }

 private:
  static constexpr int kOutliers = 2;                                 // left out at either end
  static constexpr T kLargest = sizeof(T) == 4 ? T(1e18) : T(1e150);  // its square is finite

  static FUSED_SSIM_INLINE void insert(T* sorted, int size, T value) {
    for (; size > 0 && sorted[size - 1] > value; --size) {
      sorted[size] = sorted[size - 1];
    }
    sorted[size] = value;
  }

  FUSED_SSIM_INLINE T mean(const T* sorted) const {
    const int trim = count_ > 4 * kOutliers ? kOutliers : 0;
    T sum = 0;
    for (int i = trim; i < count_ - trim; ++i) {
      sum += sorted[i] / T(count_ - 2 * trim);
    }
    return sum;
  }

  T s_[kMost];
  T d_[kMost];
  int count_ = 0;
};

}  // namespace fused_ssim::cpu
