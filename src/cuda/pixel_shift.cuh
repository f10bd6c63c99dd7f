// Pixels x, y -> shifted sum s and difference d, scaled by kPixelScale.
#pragma once

#include "cuda/window.cuh"

namespace fused_ssim::cuda {

// What turns pixels into s and d. With the L1 term the sign of d less what it is where x = y must
// be that of x - y, or zero.
struct PixelShift {
  float x;  // scaled, like s and d
  float y;

  // Of shifts in units of the images.
  static __device__ __forceinline__ PixelShift of(float x, float y) {
    return {kPixelScale * x, kPixelScale * y};
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
  // The shift that makes the sum of these pixels zero, or as near to that as `bound` allows, whatever
  // they are, and leaves d as it is; `centre` becomes what s is then less.
  __device__ __forceinline__ PixelShift around(float px, float py, float bound,
                                               float* centre) const {
    float s, d;
    apply(px, py, &s, &d);
    const float moved = x + 0.5f * fminf(fmaxf(s, -bound), bound);
    const float half = moved - x;
    *centre = 2.0f * half;
    return {moved, y + half};
  }
  // The same with only two roundings, each of which keeps the order, between x - y and d.
  __device__ __forceinline__ void apply_in_order(float px, float py, float* s, float* d) const {
    const float difference = fmaf(px, kPixelScale, -(kPixelScale * py));
    *s = difference + fmaf(py, 2.0f * kPixelScale, -(x + y));
    *d = difference + difference_if_equal();
  }
  __device__ __forceinline__ void apply_in_order(const float4& a, const float4& b, float4* s,
                                                 float4* d) const {
    apply_in_order(a.x, b.x, &s->x, &d->x);
    apply_in_order(a.y, b.y, &s->y, &d->y);
    apply_in_order(a.z, b.z, &s->z, &d->z);
    apply_in_order(a.w, b.w, &s->w, &d->w);
  }
};

// The same of what is s and d already.
struct StagedShift {
  __device__ __forceinline__ void apply(float staged_s, float staged_d, float* s, float* d) const {
    *s = staged_s;
    *d = staged_d;
  }
};

// What the filters make of the shifts of s and d. With their rounding: where little of a window
// lies in the image, what they make of the shifted zeros beyond it must cancel. Centred filters
// round a constant once: both (tiles), or those of s alone.
enum class Centred { kNone, kSums, kBoth };
struct MeanShift {
  float s;
  float d;

  template <Centred kCentred, class Window>
  static __device__ __forceinline__ MeanShift of(const Window& window, const PixelShift& shift) {
    const float shift_s = shift.x + shift.y;
    const float shift_d = shift.x - shift.y;
    constexpr auto kGain = static_cast<float>(Window::kGain);
    return {kCentred == Centred::kNone ? filtered_constant(window, shift_s) : kGain * shift_s,
            kCentred == Centred::kBoth ? kGain * shift_d : filtered_constant(window, shift_d)};
  }
};

// |difference|, or its square.
__device__ __forceinline__ float distance(float difference, bool squares) {
  return squares ? difference * difference : fabsf(difference);
}

// The sum of these of x and y over the columns of a quad that lie in [left, right).
__device__ __forceinline__ float sum_of_distances(const float4& a, const float4& b, int left,
                                                  int right, bool squares) {
  if (left <= 0 && right >= 4) {
    return (distance(a.x - b.x, squares) + distance(a.y - b.y, squares)) +
           (distance(a.z - b.z, squares) + distance(a.w - b.w, squares));
  }
  float sum = 0.0f;
  sum += 0 >= left && 0 < right ? distance(a.x - b.x, squares) : 0.0f;
  sum += 1 >= left && 1 < right ? distance(a.y - b.y, squares) : 0.0f;
  sum += 2 >= left && 2 < right ? distance(a.z - b.z, squares) : 0.0f;
  sum += 3 >= left && 3 < right ? distance(a.w - b.w, squares) : 0.0f;
  return sum;
}

}  // namespace fused_ssim::cuda
