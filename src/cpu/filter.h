// Filters along one axis: out[o] = sum over k of taps[k] * load(o + k), a few outputs at a time.
//
// A filter shows itself as a window: visit(body) calls body(window), whose type holds what is known
// of it at compile time. A window has
//
//     apply<kCount>(load, out)    kCount outputs
//     reference<kCount>(load)     a number near the pixels that they all see, for kCount <= kGroup
//     shared<kCount>(load)        the sum of what they all see, for the same under masks
//     middle<kCount>(load)        that of the pixels that reference() takes
//
// Moments are filtered as what they differ by from the reference: in flat windows, the ones where
// C2 does not hide it, rounding is then that of the small differences. The reference is made of
// pixels inside of all the windows that share it: one outside must not enter by rounding, and NaN
// not at all.
#pragma once

#include <cstdint>

#include "core/taps.h"
#include "cpu/plan.h"
#include "cpu/simd.h"
#include "cpu/workspace.h"

namespace fused_ssim::cpu {

// A window in the memory of a kernel: 2 radius + 1 taps, of which those outside [begin, end) are 0.
template <class T>
struct FilterTaps {
  const T* taps;
  const T* mirrored;  // the same from last to first: the filter's adjoint
  int radius;
  int begin;
  int end;
  bool uniform;
};

// A window in a workspace as 2 radius + 1 taps.
template <class V, class T = typename V::Scalar>
FUSED_SSIM_INLINE FilterTaps<T> lay_out_taps(WorkspaceLayout& layout, const Window& window,
                                             int radius) {
  const int size = 2 * radius + 1;
  double* exact = layout.take<double>(size);
  T* taps = layout.take<T>(size);
  T* mirrored = layout.take<T>(size);
  const int own_radius = window.size / 2 < radius ? window.size / 2 : radius;
  if (exact != nullptr) {
    fit_taps(window, radius, exact);
    if constexpr (sizeof(T) == 4) {
      round_taps_to_float(exact, size, taps);
    }
    for (int k = 0; k < size; ++k) {
      if constexpr (sizeof(T) == 8) {
        taps[k] = exact[k];
      }
      mirrored[size - 1 - k] = taps[k];
    }
  }
  return {taps, mirrored, radius, radius - own_radius, radius + own_radius + 1, is_uniform(window)};
}

// Symmetric windows of 2 kRadius + 1 taps, the middle one the largest, in a place that has room for
// 2 kFixedRadius + 1.
template <class V, int kRadius>
class SymmetricWindow {
 public:
  static constexpr int kGroup = kRadius >= 4 ? 8 : kRadius >= 2 ? 4 : kRadius == 1 ? 2 : 1;
  // Whether apply() asks for every input of the place, once, and in order.
  static constexpr bool kLoadsInOrder = kRadius == kFixedRadius;

  SymmetricWindow() = default;
  explicit SymmetricWindow(const FilterTaps<typename V::Scalar>& window) {
    for (int k = 0; k <= kRadius; ++k) {
      weight_[k] = V(window.taps[kFirst + k]);
    }
  }

  // Each input is loaded once and serves every output that sees it.
  template <int kCount, class Load>
  FUSED_SSIM_INLINE void apply(Load load, V (&out)[kCount]) const {
    unroll<0, kCount + 2 * kRadius>([&](auto input) __attribute__((always_inline)) {
      constexpr int kInput = decltype(input)::value;
      const V value = load(kFirst + kInput);
      constexpr int kBegin = kInput < 2 * kRadius ? 0 : kInput - 2 * kRadius;
      constexpr int kEnd = kInput < kCount ? kInput + 1 : kCount;
      unroll<kBegin, kEnd>([&](auto output) __attribute__((always_inline)) {
        constexpr int kOutput = decltype(output)::value;
        constexpr int kTap = kInput - kOutput;
        if constexpr (kTap == 0) {
          out[kOutput] = value * weight_[0];
        } else {
          constexpr int kFolded = kTap <= kRadius ? kTap : 2 * kRadius - kTap;
          out[kOutput] = multiply_add(value, weight_[kFolded], out[kOutput]);
        }
      });
    });
  }

  template <int kCount, class Load>
  FUSED_SSIM_INLINE V reference(Load load) const {
    if constexpr (kRadius == 0) {
      return load(kFixedRadius);
    } else {
      return V(0.5f) * middle<kCount>(load);
    }
  }

  template <int kCount, class Load>
  FUSED_SSIM_INLINE V middle(Load load) const {
    constexpr int kMiddle = kFixedRadius + kCount / 2 - 1;
    return load(kMiddle) + load(kMiddle + 1);
  }

  template <int kCount, class Load>
  FUSED_SSIM_INLINE V shared(Load load) const {
    V sum = load(kFirst + kCount - 1);
    unroll<kCount, 2 * kRadius + 1>([&](auto input) __attribute__((always_inline)) {
      sum = sum + load(kFirst + decltype(input)::value);
    });
    return sum;
  }

 private:
  static constexpr int kFirst = kFixedRadius - kRadius;
  V weight_[kRadius + 1];
};

// 2 kRadius + 1 equal taps. Outputs share the sum of what they all see; what lies before and behind
// is added to it pixel by pixel. No output's sum contains what its window does not.
template <class V, int kRadius>
class UniformWindow {
 public:
  static constexpr int kGroup = SymmetricWindow<V, kRadius>::kGroup;
  static constexpr bool kLoadsInOrder = false;

  explicit UniformWindow(V weight) : weight_(weight) {}

  template <int kCount, class Load>
  FUSED_SSIM_INLINE void apply(Load load, V (&out)[kCount]) const {
    if constexpr (kCount > kSize) {
      constexpr int kHalf = kCount / 2;
      V half[kHalf];
      unroll<0, 2>([&](auto part) __attribute__((always_inline)) {
        constexpr int kBegin = decltype(part)::value * kHalf;
        apply<kHalf>([&](int k) __attribute__((always_inline)) { return load(kBegin + k); }, half);
        unroll<0, kHalf>([&](auto i) __attribute__((always_inline)) {
          out[kBegin + decltype(i)::value] = half[decltype(i)::value];
        });
      });
    } else {
      V sum = load(kFirst + kCount - 1);
      unroll<kCount, kSize>([&](auto input) __attribute__((always_inline)) {
        sum = sum + load(kFirst + decltype(input)::value);
      });
      out[kCount - 1] = sum;
      unroll<1, kCount>([&](auto back) __attribute__((always_inline)) {
        constexpr int kOutput = kCount - 1 - decltype(back)::value;
        sum = sum + load(kFirst + kOutput);
        out[kOutput] = sum;
      });
      out[0] = out[0] * weight_;
      V behind = V(0.0f);
      unroll<1, kCount>([&](auto output) __attribute__((always_inline)) {
        constexpr int kOutput = decltype(output)::value;
        const V value = load(kFirst + kSize - 1 + kOutput);
        behind = kOutput == 1 ? value : behind + value;
        out[kOutput] = (out[kOutput] + behind) * weight_;
      });
    }
  }

  template <int kCount, class Load>
  FUSED_SSIM_INLINE V reference(Load load) const {
    return SymmetricWindow<V, kRadius>().template reference<kCount>(load);
  }

 private:
  static constexpr int kSize = 2 * kRadius + 1;
  static constexpr int kFirst = kFixedRadius - kRadius;
  V weight_;
};

// Every window, by a loop over its taps. kGroup: kChunkRows where that many outputs see the middle
// two of their inputs, else 1.
template <class V, int kOutputs>
class AnyWindow {
 public:
  static constexpr int kGroup = kOutputs;
  static constexpr bool kLoadsInOrder = false;

  AnyWindow(const FilterTaps<typename V::Scalar>& window, int largest)
      : window_(window), largest_(largest) {}

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

  // Of one output, the pixel under the largest tap.
  template <int kCount, class Load>
  FUSED_SSIM_INLINE V reference(Load load) const {
    return kCount == 1 ? load(largest_) : V(0.5f) * middle<kCount>(load);
  }

  template <int kCount, class Load>
  FUSED_SSIM_INLINE V middle(Load load) const {
    if constexpr (kCount == 1) {
      return load(largest_);
    } else {
      const int first = window_.radius + kCount / 2 - 1;
      return load(first) + load(first + 1);
    }
  }

  template <int kCount, class Load>
  FUSED_SSIM_INLINE V shared(Load load) const {
    V sum = load(window_.begin + kCount - 1);
    for (int k = window_.begin + kCount; k < window_.end; ++k) {
      sum = sum + load(k);
    }
    return sum;
  }

 private:
  FilterTaps<typename V::Scalar> window_;
  int largest_;
};

// The filter of windows of exactly 2 kFixedRadius + 1 symmetric taps along both axes.
template <class V>
class FixedFilter {
 public:
  static constexpr bool kIsFixed = true;
  static constexpr bool kUnrollsMaps = true;
  static constexpr bool kTakesVariances = false;

  FixedFilter() = default;
  template <class T>
  explicit FixedFilter(const FilterTaps<T>& window) : window_(window) {}

  FixedFilter adjoint() const { return *this; }
  template <class Body>
  FUSED_SSIM_INLINE void visit(Body body) const {
    body(window_);
  }

 private:
  SymmetricWindow<V, kFixedRadius> window_;
};

// That of shorter ones, and of uniform ones. It hands variances on, not squares: few pixels don't average
// out what squares are rounded by.
template <class V>
class ShortFilter {
 public:
  using T = typename V::Scalar;
  static constexpr bool kIsFixed = true;
  static constexpr bool kUnrollsMaps = false;
  static constexpr bool kTakesVariances = true;

  ShortFilter() = default;
  explicit ShortFilter(const FilterTaps<T>& window) : window_(window) {}

  ShortFilter adjoint() const { return *this; }

  template <class Body>
  FUSED_SSIM_INLINE void visit(Body body) const {
    const int size = window_.end - window_.begin;
    if (size == 1) {
      return body(SymmetricWindow<V, 0>(window_));
    }
    if (size == 3) {
      return body(SymmetricWindow<V, 1>(window_));
    }
    if constexpr (kHasShortWindows) {
      if (window_.uniform) {
        const V weight(T(1) / T(size));
        switch (size / 2) {
          case 2:
            return body(UniformWindow<V, 2>(weight));
          case 3:
            return body(UniformWindow<V, 3>(weight));
          case 4:
            return body(UniformWindow<V, 4>(weight));
          default:
            return body(UniformWindow<V, 5>(weight));
        }
      }
      switch (size / 2) {
        case 2:
          return body(SymmetricWindow<V, 2>(window_));
        case 3:
          return body(SymmetricWindow<V, 3>(window_));
        case 4:
          return body(SymmetricWindow<V, 4>(window_));
        default:
          return body(SymmetricWindow<V, kFixedRadius>(window_));
      }
    }
  }

 private:
  FilterTaps<T> window_;
};

// That of all others.
template <class V>
class AnyFilter {
 public:
  using T = typename V::Scalar;
  static constexpr bool kIsFixed = false;
  static constexpr bool kUnrollsMaps = false;
  static constexpr bool kTakesVariances = false;

  AnyFilter() = default;
  explicit AnyFilter(const FilterTaps<T>& window) : window_(window), largest_(window.begin) {
    for (int k = window.begin; k < window.end; ++k) {
      if (window.taps[k] > window.taps[largest_] ||
          (window.taps[k] == window.taps[largest_] && k <= window.radius)) {
        largest_ = k;
      }
    }
  }

  AnyFilter adjoint() const {
    FilterTaps<T> window = window_;
    window.taps = window_.mirrored;
    window.begin = 2 * window_.radius + 1 - window_.end;
    window.end = 2 * window_.radius + 1 - window_.begin;
    return AnyFilter(window);
  }

  AnyWindow<V, 1> window() const { return AnyWindow<V, 1>(window_, largest_); }

  template <class Body>
  FUSED_SSIM_INLINE void visit(Body body) const {
    if (window_.end - window_.begin > kChunkRows && largest_ == window_.radius) {
      body(AnyWindow<V, kChunkRows>(window_, largest_));
    } else {
      body(AnyWindow<V, 1>(window_, largest_));
    }
  }

 private:
  FilterTaps<T> window_;
  int largest_ = 0;
};

// body(map) for the maps [0, kCount): as constants, or in a loop where a filter has many windows.
template <class Filter, int kCount, class Body>
FUSED_SSIM_INLINE void for_each_map(Body body) {
  if constexpr (Filter::kUnrollsMaps) {
    unroll<0, kCount>([&](auto map) __attribute__((always_inline)) { body(decltype(map)::value); });
  } else {
    for (int map = 0; map < kCount; ++map) {
      body(map);
    }
  }
}

}  // namespace fused_ssim::cpu
