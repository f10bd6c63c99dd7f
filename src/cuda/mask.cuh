// What kernels read of masks, and C1 and C2 of each image.
#pragma once

#include "core/pointwise.h"
#include "cuda/image_access.cuh"

namespace fused_ssim::cuda {

// What an element of a mask stands for as it counts, in the accumulation type. Of bytes all but 0
// are 1.
template <class T>
struct MaskNumber {
  DType dtype;

  __device__ __forceinline__ T operator()(unsigned char byte) const {
    return byte != 0 ? T(1) : T(0);
  }
  __device__ __forceinline__ T operator()(unsigned short bits) const {
    return mask_number(static_cast<T>(half_to_float(bits, dtype)));
  }
  __device__ __forceinline__ T operator()(float number) const {
    return mask_number(static_cast<T>(number));
  }
  __device__ __forceinline__ T operator()(double number) const {
    return mask_number(static_cast<T>(number));
  }
};
// The same of an element that is of the accumulation type already.
template <class T>
__device__ __forceinline__ T counting_number(T element, DType dtype) {
  return dtype == DType::kUInt8 ? (element > T(0) ? T(1) : T(0)) : mask_number(element);
}
// visit(0 of a type that elements of masks have)
template <class Visit>
__device__ __forceinline__ void visit_mask_type(DType dtype, const Visit& visit) {
  switch (dtype) {
    case DType::kUInt8:
      return visit(static_cast<unsigned char>(0));
    case DType::kFloat32:
      return visit(0.0f);
    case DType::kFloat64:
      return visit(0.0);
    default:
      return visit(static_cast<unsigned short>(0));
  }
}

// An element as it counts.
template <class T>
__device__ __forceinline__ T load_mask_number(const char* element, const InputImage& mask) {
  return counting_number(load_element<T>(element, mask), mask.dtype);
}

// What the sum of a value's pixels is divided by. Written by the launch before, so it must not be
// taken for read-only memory, whose loads the compiler moves.
template <class T>
__device__ __forceinline__ T load_divisor(const T* divisors, int64_t value) {
  const T divisor = __ldcg(divisors + value);
  return divisor > T(0) ? divisor : T(1);
}
// 1 over what the gradient of a plane is divided by.
template <class T>
__device__ __forceinline__ T inverse_divisor(const Divisors<T>& divisors, int64_t batch,
                                             int64_t channel) {
  return divisors.first == nullptr
             ? T(1)
             : T(1) / load_divisor(divisors.first,
                                   batch * divisors.batch + channel * divisors.channel);
}

// ---- of StripParams -----------------------------------------------------------------------------

// An element of up to 4 bytes: the aligned word that holds it, and its number, which can so be
// taken out of it long after the load.
__device__ __forceinline__ unsigned load_mask_word(const char* element) {
  const auto address = reinterpret_cast<uintptr_t>(element);
  return __ldg(reinterpret_cast<const unsigned*>(address & ~uintptr_t{3}));
}
__device__ __forceinline__ float number_of_mask_word(unsigned word, unsigned address, DType dtype) {
  const unsigned bits = word >> 8 * (address & 3u);
  if (dtype == DType::kUInt8) {
    return (bits & 0xffu) != 0u ? 1.0f : 0.0f;
  }
  return mask_number(dtype == DType::kFloat32 ? __uint_as_float(bits)
                                              : half_to_float(bits & 0xffffu, dtype));
}

// A mask of bytes comes in bits: a byte holds kMaskBitRows rows of a column, from the first row with a
// value on, and a row of such bytes has all columns of the image, in whole words. So a column takes
// one byte from memory where it has many pixels to weigh.
inline constexpr int kMaskBitRows = 8;
inline constexpr int kLogMaskBitRows = 3;  // shifted by, rows above the first are right, too
static_assert(1 << kLogMaskBitRows == kMaskBitRows);

// Written by the launch before.
__device__ __forceinline__ unsigned load_mask_bits(const char* byte) {
  return __ldcg(reinterpret_cast<const unsigned char*>(byte));
}

// Of one plane. Where there is no mask the number of each pixel is 1.
struct MaskPlane {
  const char* first;  // of the image's first pixel; in bits of the first row of bytes
  float inverse;      // 1 over what gradients are divided by
  const char* means;  // kNormalized: StripParams::inverse_means of the first pixel

  static __device__ __forceinline__ MaskPlane of(const StripParams& p, int64_t batch,
                                                 int64_t channel) {
    const InputImage& mask = p.mask_bits.data != nullptr ? p.mask_bits : p.mask;
    return {
        mask.data + batch * mask.batch + channel * mask.channel,
        inverse_divisor(p.divisors, batch, channel),
        p.inverse_means.data + batch * p.inverse_means.batch + channel * p.inverse_means.channel};
  }

  static __device__ __forceinline__ const char* bits_of_plane(const StripParams& p, int64_t batch,
                                                              int64_t channel) {
    return p.mask_bits.data + batch * p.mask_bits.batch + channel * p.mask_bits.channel;
  }

  // The byte of a pixel, and its bit therein.
  __device__ __forceinline__ const char* bits_at(const StripParams& p, int y, int x) const {
    return bits_at(p, first, y, x);
  }
  static __device__ __forceinline__ const char* bits_at(const StripParams& p, const char* plane,
                                                        int y, int x) {
    return plane + ((y - p.value_top) >> kLogMaskBitRows) * p.mask_bits.row + x;
  }
  static __device__ __forceinline__ int bit_of_row(const StripParams& p, int y) {
    return (y - p.value_top) & (kMaskBitRows - 1);
  }
  // Those of columns x + i, `x` a multiple of 4: bit 8 i.
  static __device__ __forceinline__ unsigned bits_of_four(const StripParams& p, const char* plane,
                                                          int y, int x) {
    return __ldcg(reinterpret_cast<const unsigned*>(bits_at(p, plane, y, x))) >> bit_of_row(p, y);
  }

  // That of a pixel that has a value.
  __device__ __forceinline__ float number(const StripParams& p, int y, int x) const {
    if (p.mask_bits.data != nullptr) {
      const unsigned bits = load_mask_bits(bits_at(p, y, x));
      return (bits >> bit_of_row(p, y) & 1u) != 0u ? 1.0f : 0.0f;
    }
    if (p.mask.data == nullptr) {
      return 1.0f;
    }
    const char* element = first + y * p.mask.row + x * p.mask.column;
    const auto address = static_cast<unsigned>(reinterpret_cast<uintptr_t>(element));
    return number_of_mask_word(load_mask_word(element), address, p.mask.dtype);
  }
  // Those of columns x + i, `x` a multiple of 4, of a row with values; 0 but for left <= i < right.
  template <int kCount>
  __device__ __forceinline__ void numbers(const StripParams& p, int y, int x, int left, int right,
                                          float (&of)[kCount]) const {
    unsigned words[kCount / 4] = {};
    if (p.mask_bits.data != nullptr) {
#pragma unroll
      for (int j = 0; j < kCount / 4; ++j) {
        if (4 * j < right) {
          words[j] = bits_of_four(p, first, y, x + 4 * j);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      of[i] = 0.0f;
      if (left <= i && i < right) {
        of[i] = p.mask_bits.data == nullptr              ? number(p, y, x + i)
                : (words[i / 4] & 1u << i % 4 * 8) != 0u ? 1.0f
                                                         : 0.0f;
      }
    }
  }
};

// 2 C1 and 2 C2 of an image, in the units of the moments.
__device__ __forceinline__ DoubledStabilizers<float> stabilizers_of(const StripParams& p,
                                                                    int64_t batch) {
  DoubledStabilizers<float> doubled = {p.twice_c1, p.twice_c2};
  if (p.stabilizers != nullptr) {
    const float* own = p.stabilizers + 2 * batch;
    doubled.c1 = p.stabilizer_scales[0] != 0.0f ? p.stabilizer_scales[0] * __ldcg(own) : doubled.c1;
    doubled.c2 =
        p.stabilizer_scales[1] != 0.0f ? p.stabilizer_scales[1] * __ldcg(own + 1) : doubled.c2;
  }
  return doubled;
}

// The numbers of a column's pixels, some rows ahead; of bits, a byte ahead.
struct MaskStream {
  static constexpr int kAhead = 2;
  const char* next;  // the first row (of bits, row of bytes) that is not loaded
  int left;          // rows from there on to the last with a value; none where the column has none
  unsigned words[kAhead];

  // Begins with row `first_row` of the image.
  __device__ __forceinline__ void start(const StripParams& p, const MaskPlane& plane, int column,
                                        bool has_value, int first_row) {
    if (p.mask_bits.data != nullptr) {
      const int first = (first_row - p.value_top) >> 3;
      static_assert(kMaskBitRows == 8, "also above the first row");
      next = plane.first + first * p.mask_bits.row + column;
      left = has_value ? rows_of_bits(p) - first : 0;
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        load_bits(p, i);
      }
      return;
    }
    next = plane.first + first_row * p.mask.row + column * p.mask.column;
    left = has_value && p.mask.data != nullptr ? p.value_bottom - first_row : 0;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      load(p, i);
    }
  }
  // Of rows without a value nothing.
  __device__ __forceinline__ void load(const StripParams& p, int i) {
    words[i] = 0u;
    if (static_cast<unsigned>(left - 1) < static_cast<unsigned>(p.value_bottom - p.value_top)) {
      words[i] = load_mask_word(next);
    }
    next += p.mask.row;
    --left;
  }
  // That of the next row, where it has a value; `i` counts rows, up to multiples of kAhead.
  __device__ __forceinline__ float take(const StripParams& p, int i) {
    const auto address = static_cast<unsigned>(reinterpret_cast<uintptr_t>(next)) -
                         kAhead * static_cast<unsigned>(p.mask.row);
    const unsigned word = words[i % kAhead];
    load(p, i % kAhead);
    return p.mask.data == nullptr ? 1.0f : number_of_mask_word(word, address, p.mask.dtype);
  }

  static __device__ __forceinline__ int rows_of_bits(const StripParams& p) {
    return (p.value_bottom - p.value_top + kMaskBitRows - 1) / kMaskBitRows;
  }
  __device__ __forceinline__ void load_bits(const StripParams& p, int i) {
    words[i] = 0u;
    if (static_cast<unsigned>(left - 1) < static_cast<unsigned>(rows_of_bits(p))) {
      words[i] = load_mask_bits(next);
    }
    next += p.mask_bits.row;
    --left;
  }
  // Bit r is that of row `first_row` + r. The next call is for 8 rows below.
  __device__ __forceinline__ unsigned take_bits(const StripParams& p, int first_row) {
    const unsigned bits =
        (words[0] | words[1] << kMaskBitRows) >> ((first_row - p.value_top) & (kMaskBitRows - 1));
    words[0] = words[1];
    load_bits(p, 1);
    return bits;
  }
};

// kNormalized: a column of StripParams::inverse_means, which has zeros where there is no value.
struct MeanStream {
  static constexpr int kAhead = 2;
  const char* next;  // the first row that is not loaded
  float loaded[kAhead];

  // Begins with row `first_row` of the image.
  __device__ __forceinline__ void start(const StripParams& p, const MaskPlane& plane, int column,
                                        bool, int first_row) {
    next = plane.means + first_row * p.inverse_means.row +
           column * static_cast<int64_t>(sizeof(float));
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      load(p, i);
    }
  }
  __device__ __forceinline__ void load(const StripParams& p, int i) {
    loaded[i] = __ldcg(reinterpret_cast<const float*>(next));
    next += p.inverse_means.row;
  }
  // That of the next row; `i` counts rows, up to multiples of kAhead.
  __device__ __forceinline__ float take(const StripParams& p, int i) {
    const float mean = loaded[i % kAhead];
    load(p, i % kAhead);
    return mean;
  }
};

}  // namespace fused_ssim::cuda
