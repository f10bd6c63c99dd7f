// Pixels x, y -> shifted sum s and difference d.
#pragma once

namespace fused_ssim::cuda {

// What turns pixels into s and d. With the L1 term, d must tell the sign of x - y exactly: there d
// keeps off the value that it has where x = y, from which rounding might else not tell it.
struct PixelShift {
  float x;
  float y;

  __device__ __forceinline__ float difference_if_equal() const { return -(x - y); }

  __device__ __forceinline__ void apply(float px, float py, float* s, float* d) const {
    const float shifted_x = px - x;
    const float shifted_y = py - y;
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
  // The float next to the finite `value`.
  static __device__ __forceinline__ float neighbour(float value, bool up) {
    const int bits = __float_as_int(value);
    if (value == 0.0f) {
      return __int_as_float(up ? 1 : static_cast<int>(0x80000001u));
    }
    return __int_as_float(bits + ((value > 0.0f) == up ? 1 : -1));
  }
  __device__ __forceinline__ float signed_difference(float px, float py) const {
    const float equal = difference_if_equal();
    const float exact = px - py;
    const float d = exact - (x - y);
    return d == equal && exact != 0.0f ? neighbour(equal, exact > 0.0f) : d;
  }
  __device__ __forceinline__ void apply_exactly(const float4& a, const float4& b,
                                                float4* d) const {
    d->x = signed_difference(a.x, b.x);
    d->y = signed_difference(a.y, b.y);
    d->z = signed_difference(a.z, b.z);
    d->w = signed_difference(a.w, b.w);
  }
  __device__ __forceinline__ float sign(float d) const {
    const float equal = difference_if_equal();
    return (d > equal ? 1.0f : 0.0f) - (d < equal ? 1.0f : 0.0f);
  }
};

// The sum of |x - y| over the columns of a quad that lie in [left, right).
__device__ __forceinline__ float absolute_differences(const float4& a, const float4& b, int left,
                                                      int right) {
  float sum = 0.0f;
  sum += 0 >= left && 0 < right ? fabsf(a.x - b.x) : 0.0f;
  sum += 1 >= left && 1 < right ? fabsf(a.y - b.y) : 0.0f;
  sum += 2 >= left && 2 < right ? fabsf(a.z - b.z) : 0.0f;
  sum += 3 >= left && 3 < right ? fabsf(a.w - b.w) : 0.0f;
  return sum;
}

}  // namespace fused_ssim::cuda
