// From filtered partial derivatives to gradients: the filter along the rows, the pixels, the L1 term,
// the store.
#pragma once

#include "cuda/columns.cuh"

namespace fused_ssim::cuda {

// The gradient of 8 columns (of both images, if kTwo): filters the partials that begin at `maps`,
// and combines them with s and d, which `read_s` and `read_d` put into an array, where d stays.
template <class Traits, class ReadS, class ReadD>
__device__ __forceinline__ void filter_gradient_row(const typename Traits::Window& window,
                                                    const float* maps, const ReadS& read_s,
                                                    const ReadD& read_d, float (&d)[8],
                                                    float (&first)[8], float (&second)[8]) {
  using Places = MapPlaces<Traits>;
  float filtered[8];
  filter_row<Filter::kRow>(window, maps, first);
  if constexpr (Traits::kTwo) {
    filter_row<Filter::kRow>(window, maps + 3 * Places::kMap, second);
  }
  filter_row<Filter::kRowOfSquares>(window, maps + Places::kMap, filtered);
  read_s(d);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    first[i] = fmaf(d[i], filtered[i], first[i]);
    if constexpr (Traits::kTwo) {
      second[i] = fmaf(d[i], filtered[i], second[i]);
    }
  }
  filter_row<Filter::kRowOfSquares>(window, maps + 2 * Places::kMap, filtered);
  read_d(d);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    first[i] = fmaf(d[i], filtered[i], first[i]);
    if constexpr (Traits::kTwo) {
      second[i] = fmaf(-d[i], filtered[i], second[i]);
    }
  }
}

// What finish_with_l1() is told of the weights of a plane.
template <class Traits>
__device__ __forceinline__ auto plane_weights(const StripParams& p, int64_t batch,
                                              int64_t channel) {
  if constexpr (Traits::kHasMask) {
    return MaskPlane::of(p, batch, channel);
  } else {
    const char* weights = nullptr;
    if constexpr (Traits::kWeighted) {
      weights =
          p.map_gradient.data + batch * p.map_gradient.batch + channel * p.map_gradient.channel;
    }
    return weights;
  }
}

// Both images' pixels in memory.
template <Elements kElements>
struct PixelPlanes {
  const char* plane1;
  const char* plane2;

  // The sign of their difference.
  __device__ __forceinline__ float sign(const StripParams& p, int y, int x) const {
    const float a =
        load_element_of<float, kElements>(plane1 + y * p.img1.row + x * p.img1.column, p.img1);
    const float b =
        load_element_of<float, kElements>(plane2 + y * p.img2.row + x * p.img2.column, p.img2);
    return a > b ? 1.0f : a < b ? -1.0f : 0.0f;
  }
};

// The smallest and the sum of kCount magnitudes: by halves, which wait less for one another than a
// chain.
template <int kCount>
__device__ __forceinline__ float least_magnitude(const float* v) {
  if constexpr (kCount == 1) {
    return fabsf(v[0]);
  } else {
    return fminf(least_magnitude<kCount / 2>(v), least_magnitude<kCount / 2>(v + kCount / 2));
  }
}
template <int kCount>
__device__ __forceinline__ float sum_of_magnitudes(const float* v) {
  if constexpr (kCount == 1) {
    return fabsf(v[0]);
  } else {
    return sum_of_magnitudes<kCount / 2>(v) + sum_of_magnitudes<kCount / 2>(v + kCount / 2);
  }
}

// Scales the gradients at kCount columns from `x` on, of which `columns` exist, and adds that of
// the L1 term. `d` as staged, `equal` where the pixels are the same: there d may hide a difference
// below its rounding, so the pixels themselves are looked at. Returns the sum of |x - y|, scaled
// like d.
template <class Traits, int kCount>
__device__ __forceinline__ float finish_with_l1(
    const StripParams& p, const char* weights,
    const PixelPlanes<elements_of(Traits::kLoader)>& planes, float equal, int y, int x, int columns,
    const float (&d)[kCount], float (&first)[kCount], float (&second)[kCount]) {
  const int left = p.value_left - x;
  const int right = min(p.value_right - x, columns);
  float difference[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    difference[i] = d[i] - equal;
  }
  const auto add = [&](int i, float l1) {
    first[i] = fmaf(first[i], p.gradient_scale, l1);
    if constexpr (Traits::kTwo) {
      second[i] = fmaf(second[i], p.gradient_scale, -l1);
    }
  };
  // For one gradient alone: registers are short for two.
  if (!Traits::kTwo && !Traits::kWeighted && left <= 0 && right >= kCount &&
      least_magnitude<kCount>(difference) > 0.0f) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      add(i, __int_as_float((__float_as_int(difference[i]) & static_cast<int>(0x80000000u)) ^
                            __float_as_int(p.gradient_l1)));
    }
    return sum_of_magnitudes<kCount>(difference);
  }

  // For two gradients without a loop: that takes a register more than there is.
  constexpr int kUnsureAtOnce = Traits::kTwo ? kCount : 1;
  float sum = 0.0f;
  // Bit i: of column i the first image's pixel is greater; bit kCount + i: less. One word:
  // registers are short.
  unsigned signs = 0;
  const auto sign_bit = [](int i, float sign) {
    return sign > 0.0f ? 1u << i : sign < 0.0f ? 1u << (kCount + i) : 0u;
  };
  unsigned unsure = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (left <= i && i < right) {
      sum += fabsf(difference[i]);
      signs |= sign_bit(i, difference[i]);
      unsure |= difference[i] == 0.0f && equal != 0.0f ? 1u << i : 0u;
    }
  }
  if (unsure != 0) {
#pragma unroll kUnsureAtOnce
    for (int i = 0; i < kCount; ++i) {
      if ((unsure & 1u << i) != 0u) {
        signs |= sign_bit(i, planes.sign(p, y, x + i));
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    float l1 = (signs & 1u << i) != 0u              ? p.gradient_l1
               : (signs & 1u << (kCount + i)) != 0u ? -p.gradient_l1
                                                    : 0.0f;
    if constexpr (Traits::kWeighted) {
      if (l1 != 0.0f) {
        l1 *=
            __ldg(reinterpret_cast<const float*>(weights + (y - p.value_top) * p.map_gradient.row +
                                                 (x + i - p.value_left) * p.map_gradient.column));
      }
    }
    add(i, l1);
  }
  return sum;
}

// The same of one gradient with a mask, which is looked at pixel by pixel. The sum is weighted by it.
template <class Traits, int kCount>
__device__ __forceinline__ float finish_with_l1(
    const StripParams& p, const MaskPlane& mask,
    const PixelPlanes<elements_of(Traits::kLoader)>& planes, float equal, int y, int x, int columns,
    const float (&d)[kCount], float (&first)[kCount], float (&)[kCount]) {
  const int left = p.value_left - x;
  const int right = min(p.value_right - x, columns);
  const float scale = p.gradient_scale * mask.inverse;
  float numbers[kCount];
  mask.numbers(p, y, x, left, right, numbers);
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    float l1 = 0.0f;
    if (numbers[i] > 0.0f) {
      const float difference = d[i] - equal;
      const bool is_unsure = difference == 0.0f && equal != 0.0f;
      sum = fmaf(numbers[i], fabsf(difference), sum);
      l1 = numbers[i] * mask.inverse *
           difference_gradient(is_unsure ? planes.sign(p, y, x + i) : difference, p.gradient_l1,
                               0.0f);
    }
    first[i] = fmaf(first[i], scale, l1);
  }
  return sum;
}

// Scales the gradients at kCount columns where there is no L1 term.
template <class Traits, int kCount>
__device__ __forceinline__ void scale_gradients(float scale, float (&first)[kCount],
                                                float (&second)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    first[i] *= scale;
    if constexpr (Traits::kTwo) {
      second[i] *= scale;
    }
  }
}
// By what, with what plane_weights() says of the plane.
__device__ __forceinline__ float gradient_scale(const StripParams& p, const char*) {
  return p.gradient_scale;
}
__device__ __forceinline__ float gradient_scale(const StripParams& p, const MaskPlane& mask) {
  return p.gradient_scale * mask.inverse;
}

}  // namespace fused_ssim::cuda
