// Filters along one axis: out[o] = sum over k of taps[k] * load(o + k), a few outputs at a time.
//
// Moments are filtered as what they differ by from a reference, the mean of two inputs in the
// middle that all outputs see: in flat windows, the ones where C2 does not hide it, rounding is
// then that of the small differences. Where the window is too short for all outputs to see them,
// the reference is 0: a pixel outside a window must not enter it by rounding, and NaN not at all.
#pragma once

#include <cstdint>

#include "cpu/plan.h"
#include "cpu/simd.h"

namespace fused_ssim::cpu {

// A window in the memory of a kernel: 2 radius + 1 taps, of which those outside [begin, end) are 0.
template <class T>
struct FilterTaps {
  const T* taps;
  const T* mirrored;  // the same from last to first: the filter's adjoint
  int radius;
  int begin;
  int end;
};

// Whether all of kChunkRows outputs see the middle two of their inputs.
template <class T>
FUSED_SSIM_INLINE bool is_centred(const FilterTaps<T>& window) {
  return window.end - window.begin > kChunkRows;
}

// Symmetric windows of up to 2 kFixedRadius + 1 taps, shorter ones continued by zeros. A zero tap
// spreads NaN all the same, so images with NaN are left to AnyFilter where the window is shorter.
template <class V>
class FixedFilter {
 public:
  static constexpr bool kIsFixed = true;

  FixedFilter() = default;
  template <class T>
  explicit FixedFilter(const FilterTaps<T>& window) : half_(T(is_centred(window) ? 0.5 : 0.0)) {
    for (int k = 0; k <= kFixedRadius; ++k) {
      weight_[k] = V(window.taps[k]);
    }
  }

  static constexpr int radius() { return kFixedRadius; }
  FixedFilter adjoint() const { return *this; }

  // Each input is loaded once and serves every output that sees it.
  template <int kCount, class Load>
  FUSED_SSIM_INLINE void apply(Load load, V (&out)[kCount]) const {
    unroll<0, kCount + 2 * kFixedRadius>([&](auto input) __attribute__((always_inline)) {
      constexpr int kInput = decltype(input)::value;
      const V value = load(kInput);
      unroll<0, kCount>([&](auto output) __attribute__((always_inline)) {
        constexpr int kOutput = decltype(output)::value;
        constexpr int kTap = kInput - kOutput;
        if constexpr (kTap == 0) {
          out[kOutput] = value * weight_[0];
        } else if constexpr (kTap > 0 && kTap <= 2 * kFixedRadius) {
          constexpr int kFolded = kTap <= kFixedRadius ? kTap : 2 * kFixedRadius - kTap;
          out[kOutput] = multiply_add(value, weight_[kFolded], out[kOutput]);
        }
      });
    });
  }

  template <int kCount, class Load>
  FUSED_SSIM_INLINE V reference(Load load) const {
    constexpr int kFirst = kFixedRadius + kCount / 2 - 1;
    return half_ * (load(kFirst) + load(kFirst + 1));
  }

 private:
  V weight_[kFixedRadius + 1];
  V half_;
};

// Every window, by a loop over its taps. Adds in the order of FixedFilter, so that both give the
// same numbers.
template <class V>
class AnyFilter {
 public:
  using T = typename V::Scalar;
  static constexpr bool kIsFixed = false;

  AnyFilter() = default;
  explicit AnyFilter(const FilterTaps<T>& window) : window_(window) {}

  int radius() const { return window_.radius; }
  AnyFilter adjoint() const {
    FilterTaps<T> window = window_;
    window.taps = window_.mirrored;
    window.begin = 2 * window_.radius + 1 - window_.end;
    window.end = 2 * window_.radius + 1 - window_.begin;
    return AnyFilter(window);
  }

  template <int kCount, class Load>
  FUSED_SSIM_INLINE void apply(Load load, V (&out)[kCount]) const {
    const V first(window_.taps[window_.begin]);
    unroll<0, kCount>([&](auto output) __attribute__((always_inline)) {
      constexpr int kOutput = decltype(output)::value;
      out[kOutput] = load(kOutput + window_.begin) * first;
    });
    for (int k = window_.begin + 1; k < window_.end; ++k) {
      const V weight(window_.taps[k]);
      unroll<0, kCount>([&](auto output) __attribute__((always_inline)) {
        constexpr int kOutput = decltype(output)::value;
        out[kOutput] = multiply_add(load(kOutput + k), weight, out[kOutput]);
      });
    }
  }

  template <int kCount, class Load>
  FUSED_SSIM_INLINE V reference(Load load) const {
    if (!is_centred(window_)) {
      return V(T(0));
    }
    const int first = window_.radius + kCount / 2 - 1;
    return V(T(0.5)) * (load(first) + load(first + 1));
  }

 private:
  FilterTaps<T> window_;
};

}  // namespace fused_ssim::cpu
