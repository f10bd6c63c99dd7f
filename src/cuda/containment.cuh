// What is no number stays in the windows that see it, also with windows of less than 11 taps, which
// are filtered with zeros around them: zero times NaN is NaN.
//
// A block that meets such a result looks at its outputs once more when they are written, and computes
// those that are no numbers tap by tap from the images. Sums need nothing: a NaN belongs to the sum of
// its plane whichever windows it gets into. Nothing here is fast; it runs where NaN or infinity is.
#pragma once

#include "core/pointwise.h"
#include "cuda/gradient_rows.cuh"
#include "cuda/image_access.cuh"
#include "cuda/kernels.h"

namespace fused_ssim::cuda {

// Pixels of one plane. Kept in shared memory.
struct PlaneRange {
  int64_t batch;
  int64_t channel;
  int top;
  int bottom;
  int left;
  int right;
};

template <class Traits>
class Containment {
 public:
  __device__ Containment(const StripParams& params, const PlaneRange& range)
      : p(params), plane(range.batch * p.channels.divisor + range.channel) {
    plane1 = p.img1.data + range.batch * p.img1.batch + range.channel * p.img1.channel;
    plane2 = p.img2.data + range.batch * p.img2.batch + range.channel * p.img2.channel;
    if constexpr (Traits::kWeighted) {
      weights = p.map_gradient.data + range.batch * p.map_gradient.batch +
                range.channel * p.map_gradient.channel;
    }
  }

  __device__ void mend_map(int y, int x) const {
    if (!has_value(y, x)) {
      return;
    }
    float* value =
        p.map + plane * p.map_plane + (y - p.value_top) * p.map_pitch + (x - p.value_left);
    if (!isfinite(*value)) {
      *value = statistic<0>(window_at(y, x)).value();
    }
  }

  __device__ void mend_gradients(char* to1, char* to2, int y, int x) const {
    if ((to1 == nullptr || is_number(to1, p.grad1)) &&
        (to2 == nullptr || is_number(to2, p.grad2))) {
      return;
    }
    const float s = sum_at(y, x);
    const float d = difference_at(y, x);
    float first = 0.0f;
    float second = 0.0f;
    for_window([&](int dy, int dx, float tap) {
      if (!has_value(y + dy, x + dx)) {
        return;
      }
      const WindowMoments at = window_at(y + dy, x + dx);
      const auto pixel = statistic<2>(at);
      if constexpr (Traits::kWeighted) {
        tap *= weight_at(y + dy, x + dx);
      }
      const float by_s = (s - at.mean_s) * pixel.partials[1];
      const float by_d = (d - at.mean_d) * pixel.partials[2];
      first = fmaf(tap, pixel.partials[0] + (by_s + by_d), first);
      second = fmaf(tap, pixel.partials[3] + (by_s - by_d), second);
    });
    float l1 = 0.0f;
    if (p.l1 && has_value(y, x)) {
      l1 = difference_gradient(d, p.gradient_l1, 0.0f);
      if constexpr (Traits::kWeighted) {
        l1 *= weight_at(y, x);
      }
    }
    if (to1 != nullptr) {
      store_element(to1, fmaf(first, p.gradient_scale, l1), p.grad1.dtype);
    }
    if (to2 != nullptr) {
      store_element(to2, fmaf(second, p.gradient_scale, -l1), p.grad2.dtype);
    }
  }

 private:
  struct WindowMoments {
    float mean_s;
    float mean_d;
    float var_s;
    float var_d;
  };

  __device__ bool has_value(int y, int x) const {
    return y >= p.value_top && y < p.value_bottom && x >= p.value_left && x < p.value_right;
  }
  static __device__ bool is_number(const char* element, const OutputImage& image) {
    InputImage as_input;
    as_input.dtype = image.dtype;
    return isfinite(load_element<float>(element, as_input));
  }
  __device__ float weight_at(int y, int x) const {
    return *reinterpret_cast<const float*>(weights + (y - p.value_top) * p.map_gradient.row +
                                           (x - p.value_left) * p.map_gradient.column);
  }
  __device__ float pixel_at(const char* of_plane, const InputImage& image, int y, int x) const {
    const bool inside = y >= 0 && y < p.height && x >= 0 && x < p.width;
    return inside ? kPixelScale *
                        load_element<float>(of_plane + y * image.row + x * image.column, image)
                  : 0.0f;
  }
  __device__ float sum_at(int y, int x) const {
    return pixel_at(plane1, p.img1, y, x) + pixel_at(plane2, p.img2, y, x);
  }
  __device__ float difference_at(int y, int x) const {
    return pixel_at(plane1, p.img1, y, x) - pixel_at(plane2, p.img2, y, x);
  }

  // Calls body(dy, dx, tap) for the taps that are not zero.
  template <class Body>
  __device__ void for_window(const Body& body) const {
    constexpr int kRadius = kDefaultWindowSize / 2;
#pragma unroll 1
    for (int dy = -kRadius; dy <= kRadius; ++dy) {
#pragma unroll 1
      for (int dx = -kRadius; dx <= kRadius; ++dx) {
        const float tap = p.column_taps[kRadius - abs(dy)] * p.row_taps[kRadius - abs(dx)];
        if (tap != 0.0f) {
          body(dy, dx, tap);
        }
      }
    }
  }
  __device__ WindowMoments window_at(int y, int x) const {
    WindowMoments at = {};
    for_window([&](int dy, int dx, float tap) {
      at.mean_s = fmaf(tap, sum_at(y + dy, x + dx), at.mean_s);
      at.mean_d = fmaf(tap, difference_at(y + dy, x + dx), at.mean_d);
    });
    for_window([&](int dy, int dx, float tap) {
      const float s = sum_at(y + dy, x + dx) - at.mean_s;
      const float d = difference_at(y + dy, x + dx) - at.mean_d;
      at.var_s = fmaf(tap, s * s, at.var_s);
      at.var_d = fmaf(tap, d * d, at.var_d);
    });
    return at;
  }
  // With the means as the shift.
  template <int kImages>
  __device__ PixelStatistic<kImages, float> statistic(const WindowMoments& at) const {
    const Moments<float> moments = {0.0f, 0.0f, at.var_s, at.var_d};
    const DoubledStabilizers<float> stabilizers = {p.twice_c1, p.twice_c2};
    return pixel_statistic<FUSED_SSIM_STATISTIC_SSIM, kImages>(moments, at.mean_s, at.mean_d,
                                                               stabilizers);
  }

  const StripParams& p;
  int64_t plane;
  const char* plane1;
  const char* plane2;
  const char* weights = nullptr;
};

// The outputs of a block's own pixels. All of its threads call it, after a barrier that follows the
// last of them.
template <class Traits>
__device__ __forceinline__ void mend_outputs(const StripParams& p, const PlaneRange& range) {
  const Containment<Traits> containment(p, range);
  for (int y = range.top + static_cast<int>(threadIdx.x) / 32; y < range.bottom;
       y += static_cast<int>(blockDim.x) / 32) {
    for (int x = range.left + static_cast<int>(threadIdx.x) % 32; x < range.right; x += 32) {
      if constexpr (Traits::kMap) {
        containment.mend_map(y, x);
      } else {
        const auto place = [&](const OutputImage& image) {
          return image.data == nullptr
                     ? nullptr
                     : image.data + range.batch * image.batch + range.channel * image.channel +
                           y * image.row + x * image.column;
        };
        containment.mend_gradients(place(p.grad1), Traits::kTwo ? place(p.grad2) : nullptr, y, x);
      }
    }
  }
}

}  // namespace fused_ssim::cuda
