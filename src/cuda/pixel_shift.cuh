// Pixels x, y -> shifted sum s and difference d, scaled by kPixelScale.
#pragma once

#include "cuda/window.cuh"

namespace fused_ssim::cuda {

// What turns pixels into s and d. With the L1 term, d must tell the sign of x - y exactly: there d
// keeps off the value that it has where x = y, from which rounding might else not tell it.
struct PixelShift {
  float x;  // scaled, like s and d
  float y;

  // Of shifts in units of the images.
  static __device__ __forceinline__ PixelShift of(float x, float y) {
    return {kPixelScale * x, kPixelScale * y};
  }
  // What filters down the columns make of the shifts of s and d.
  __device__ __forceinline__ float of_mean_s() const {
    return static_cast<float>(kEdgeGain) * (x + y);
  }
  __device__ __forceinline__ float of_mean_d() const {
    return static_cast<float>(kEdgeGain) * (x - y);
  }

  __device__ __forceinline__ float difference_if_equal() const { return -(x - y); }

  __device__ __forceinline__ void apply(float px, float py, float* s, float* d) const {
    // As exact as px - x: the scale is a power of two.
    const float shifted_x = fmaf(px, kPixelScale, -x);
    const float shifted_y = fmaf(py, kPixelScale, -y);
    *s = shifted_x + shifted_y;
    *d = shifted_x - shifted_y;
  }
  __device__ __forceinline__ void apply(const float4& a, const float4& b, float4* s,
                                        float4* d) const {
    apply(a.x, b.x, &s->x, &d->x);
    apply(a.y, b.y, &s->y, &d->y);
    apply(a.z, b.z, &s->z, &d->z);
    apply(a.w, b.w, &s->w, &d->w);
  }
  static __device__ __forceinline__ float4 scaled(const float4& a) {
    return make_float4(kPixelScale * a.x, kPixelScale * a.y, kPixelScale * a.z, kPixelScale * a.w);
  }
  // The float next to the finite `value`.
  static __device__ __forceinline__ float neighbour(float value, bool up) {
    const int bits = __float_as_int(value);
    if (value == 0.0f) {
      return __int_as_float(up ? 1 : static_cast<int>(0x80000001u));
    }
    return __int_as_float(bits + ((value > 0.0f) == up ? 1 : -1));
  }
  // s, and d that tells the sign of px - py.
  __device__ __forceinline__ void apply_exactly(float px, float py, float* s, float* d) const {
    px *= kPixelScale;
    py *= kPixelScale;
    const float equal = difference_if_equal();
    const float exact = px - py;
    const float rounded = exact + equal;
    *d = rounded == equal && exact != 0.0f ? neighbour(equal, exact > 0.0f) : rounded;
    *s = (px - x) + (py - y);
  }
  // The same of four. Nearly always the rounded difference does.
  __device__ __forceinline__ void apply_exactly(float4 a, float4 b, float4* s, float4* d) const {
    a = scaled(a);
    b = scaled(b);
    const float equal = difference_if_equal();
    const float exact[4] = {a.x - b.x, a.y - b.y, a.z - b.z, a.w - b.w};
    float rounded[4] = {exact[0] + equal, exact[1] + equal, exact[2] + equal, exact[3] + equal};
    // Rounding loses only what is below half a unit in the last place of `equal`.
    const float smallest =
        fminf(fminf(fabsf(exact[0]), fabsf(exact[1])), fminf(fabsf(exact[2]), fabsf(exact[3])));
    if (smallest < 1.2e-7f * fabsf(equal)) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (rounded[i] == equal && exact[i] != 0.0f) {
          rounded[i] = neighbour(equal, exact[i] > 0.0f);
        }
      }
    }
    *d = make_float4(rounded[0], rounded[1], rounded[2], rounded[3]);
    *s = make_float4((a.x - x) + (b.x - y), (a.y - x) + (b.y - y), (a.z - x) + (b.z - y),
                     (a.w - x) + (b.w - y));
  }
  __device__ __forceinline__ float sign(float d) const {
    const float equal = difference_if_equal();
    return d == equal ? 0.0f : copysignf(1.0f, d - equal);
  }
};

// The sum of |x - y| over the columns of a quad that lie in [left, right).
__device__ __forceinline__ float absolute_differences(const float4& a, const float4& b, int left,
                                                      int right) {
  if (left <= 0 && right >= 4) {
    return (fabsf(a.x - b.x) + fabsf(a.y - b.y)) + (fabsf(a.z - b.z) + fabsf(a.w - b.w));
  }
  float sum = 0.0f;
  sum += 0 >= left && 0 < right ? fabsf(a.x - b.x) : 0.0f;
  sum += 1 >= left && 1 < right ? fabsf(a.y - b.y) : 0.0f;
  sum += 2 >= left && 2 < right ? fabsf(a.z - b.z) : 0.0f;
  sum += 3 >= left && 3 < right ? fabsf(a.w - b.w) : 0.0f;
  return sum;
}

}  // namespace fused_ssim::cuda
