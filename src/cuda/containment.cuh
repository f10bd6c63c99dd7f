// What is no number stays in the windows that see it, also with windows of less than 11 taps, which
// are filtered with zeros around them: zero times NaN is NaN.
//
// A block that meets such a result looks at its outputs once more when they are written, and computes
// those that are no numbers tap by tap from the images. Sums need nothing: a NaN belongs to the sum of
// its plane whichever windows it gets into. Under a mask it may belong to none: there the columns
// whose sums are no numbers are added up once more, too. Nothing here is fast; it runs where NaN or
// infinity is.
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
    if constexpr (Traits::kHasMask) {
      mask = MaskPlane::of(p, range.batch, range.channel);
      stabilizers = stabilizers_of(p, range.batch);
    }
  }

  // kHasMask: the sum of the losses of a column's pixels in rows [top, bottom).
  __device__ double loss_of_column(int x, int top, int bottom) const {
    double sum = 0.0;
    for (int y = top; y < bottom; ++y) {
      const float number = has_value(y, x) ? mask.number(p, y, x) : 0.0f;
      if (number > 0.0f) {
        sum += static_cast<double>(number * (statistic<0>(window_at(y, x)).loss - p.loss_base));
      }
    }
    return sum;
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
    const Pixel own = pixel_at(y, x);
    float first = 0.0f;
    float second = 0.0f;
    for_window([&](int dy, int dx, float tap) {
      if (!has_value(y + dy, x + dx)) {
        return;
      }
      if constexpr (Traits::kWeighted || Traits::kHasMask) {
        const float weight = weight_at(y + dy, x + dx);
        if (Traits::kHasMask && !(weight > 0.0f)) {
          return;
        }
        tap *= weight;
      }
      const WindowMoments at = window_at(y + dy, x + dx);
      const auto pixel = statistic<2>(at);
      const float by_s = (own.s - at.mean_s) * pixel.partials[1];
      const float by_d = (own.d - at.mean_d) * pixel.partials[2];
      first = fmaf(tap, pixel.partials[0] + (by_s + by_d), first);
      second = fmaf(tap, pixel.partials[3] + (by_s - by_d), second);
    });
    float l1 = 0.0f;
    if (p.l1 && has_value(y, x)) {
      l1 = difference_gradient(own.d, p.gradient_l1, 0.0f);
      if constexpr (Traits::kWeighted || Traits::kHasMask) {
        const float weight = weight_at(y, x);
        l1 = Traits::kHasMask && !(weight > 0.0f) ? 0.0f : weight * l1;
      }
    }
    if (to1 != nullptr) {
      store_element(to1, fmaf(first, p.gradient_scale, l1), dtype_of_element(p.grad1));
    }
    if (to2 != nullptr) {
      store_element(to2, fmaf(second, p.gradient_scale, -l1), dtype_of_element(p.grad2));
    }
  }

 private:
  struct Pixel {
    float s;
    float d;
  };
  struct WindowMoments {
    float mean_s;
    float mean_d;
    float var_s;
    float var_d;
  };

  __device__ bool has_value(int y, int x) const {
    return y >= p.value_top && y < p.value_bottom && x >= p.value_left && x < p.value_right;
  }
  // Known where the loader knows it: then nothing is asked of the type below.
  template <class Byte>
  static __device__ DType dtype_of_element(const ByteImage<Byte>& image) {
    return elements_of(Traits::kLoader) == Elements::kFloat ? DType::kFloat32 : image.dtype;
  }
  static __device__ bool is_number(const char* element, const OutputImage& image) {
    InputImage as_input;
    as_input.dtype = dtype_of_element(image);
    return isfinite(load_element<float>(element, as_input));
  }
  __device__ float weight_at(int y, int x) const {
    if constexpr (Traits::kHasMask) {
      return mask.number(p, y, x) * mask.inverse;
    }
    return *reinterpret_cast<const float*>(weights + (y - p.value_top) * p.map_gradient.row +
                                           (x - p.value_left) * p.map_gradient.column);
  }
  __device__ float load_at(const char* of_plane, const InputImage& image, int y, int x) const {
    const bool inside = y >= 0 && y < p.height && x >= 0 && x < p.width;
    const char* element = of_plane + y * image.row + x * image.column;
    return inside
               ? kPixelScale * load_element_of<float, elements_of(Traits::kLoader)>(element, image)
               : 0.0f;
  }
  __device__ Pixel pixel_at(int y, int x) const {
    const float first = load_at(plane1, p.img1, y, x);
    const float second = load_at(plane2, p.img2, y, x);
    return {first + second, first - second};
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
    float mean_s = 0.0f;
    float mean_d = 0.0f;
    // The means first, then the variances; one loop, since this code stands in many kernels.
#pragma unroll 1
    for (int pass = 0; pass < 2; ++pass) {
      for_window([&](int dy, int dx, float tap) {
        const Pixel pixel = pixel_at(y + dy, x + dx);
        const float s = pixel.s - at.mean_s;
        const float d = pixel.d - at.mean_d;
        if (pass == 1) {
          at.var_s = fmaf(tap, s * s, at.var_s);
          at.var_d = fmaf(tap, d * d, at.var_d);
        } else {
          mean_s = fmaf(tap, s, mean_s);
          mean_d = fmaf(tap, d, mean_d);
        }
      });
      at.mean_s = mean_s;
      at.mean_d = mean_d;
    }
    return at;
  }
  // With the means as the shift.
  template <int kImages>
  __device__ PixelStatistic<kImages, float> statistic(const WindowMoments& at) const {
    const Moments<float> moments = {0.0f, 0.0f, at.var_s, at.var_d};
    const DoubledStabilizers<float> doubled =
        Traits::kHasMask ? stabilizers : DoubledStabilizers<float>{p.twice_c1, p.twice_c2};
    return pixel_statistic<FUSED_SSIM_STATISTIC_SSIM, kImages>(moments, at.mean_s, at.mean_d,
                                                               doubled);
  }

  const StripParams& p;
  int64_t plane;
  const char* plane1;
  const char* plane2;
  const char* weights = nullptr;
  MaskPlane mask = {};
  DoubledStabilizers<float> stabilizers = {};
};

// Of the part of a column that a block owns, where it has one.
template <class Traits>
__device__ __forceinline__ double loss_of_column(const StripParams& p, const PlaneRange& range,
                                                 int x) {
  return x < range.left || x >= range.right
             ? 0.0
             : Containment<Traits>(p, range).loss_of_column(x, range.top, range.bottom);
}

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
