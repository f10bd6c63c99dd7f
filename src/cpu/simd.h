// A SIMD vector of T in `Bytes` bytes, on the compilers' vector extensions (GCC >= 12, Clang).
//
// Each instruction-set level uses its own width, so no instantiation is shared between levels: an
// object of a higher level can't supply code to a lower one.
#pragma once

#include <cstdint>

#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include "core/formula.h"
#include "core/macros.h"

namespace fused_ssim::cpu {

// Compile-time loop: body(Index<0>()), ..., body(Index<kCount - 1>()).
template <int kValue>
struct Index {
  static constexpr int value = kValue;
};

template <int kBegin, int kEnd, class Body>
FUSED_SSIM_INLINE void unroll(Body&& body) {
  if constexpr (kBegin < kEnd) {
    body(Index<kBegin>());
    unroll<kBegin + 1, kEnd>(body);
  }
}

// The compilers' vectors of T, and of the integers that mask them. Spelt out: GCC drops the
// attribute from a type that depends on a template parameter.
template <class T, int kBytes>
struct NativeVector;
template <>
struct NativeVector<float, 16> {
  typedef float Type __attribute__((vector_size(16)));
  typedef int32_t Mask __attribute__((vector_size(16)));
};
template <>
struct NativeVector<float, 32> {
  typedef float Type __attribute__((vector_size(32)));
  typedef int32_t Mask __attribute__((vector_size(32)));
};
template <>
struct NativeVector<float, 64> {
  typedef float Type __attribute__((vector_size(64)));
  typedef int32_t Mask __attribute__((vector_size(64)));
};
template <>
struct NativeVector<double, 16> {
  typedef double Type __attribute__((vector_size(16)));
  typedef int64_t Mask __attribute__((vector_size(16)));
};
template <>
struct NativeVector<double, 32> {
  typedef double Type __attribute__((vector_size(32)));
  typedef int64_t Mask __attribute__((vector_size(32)));
};
template <>
struct NativeVector<double, 64> {
  typedef double Type __attribute__((vector_size(64)));
  typedef int64_t Mask __attribute__((vector_size(64)));
};
template <>
struct NativeVector<double, 128> {
  typedef double Type __attribute__((vector_size(128)));
  typedef int64_t Mask __attribute__((vector_size(128)));
};

template <class T, int kBytes>
struct Vec {
  using Scalar = T;
  static constexpr int kLanes = kBytes / static_cast<int>(sizeof(T));
  using Native = typename NativeVector<T, kBytes>::Type;
  using Mask = typename NativeVector<T, kBytes>::Mask;

  Native v;

  Vec() = default;
  FUSED_SSIM_INLINE Vec(Native native) : v(native) {}
  FUSED_SSIM_INLINE explicit Vec(T scalar) : v(scalar - Native{}) {}

  FUSED_SSIM_INLINE static Vec load(const T* aligned) {
    return *reinterpret_cast<const Native*>(__builtin_assume_aligned(aligned, kBytes));
  }
  FUSED_SSIM_INLINE static Vec load_unaligned(const T* p) {
    Vec result;
    __builtin_memcpy(&result.v, p, kBytes);
    return result;
  }
  FUSED_SSIM_INLINE void store_unaligned(T* p) const { __builtin_memcpy(p, &v, kBytes); }

  FUSED_SSIM_INLINE friend Vec operator+(Vec a, Vec b) { return a.v + b.v; }
  FUSED_SSIM_INLINE friend Vec operator-(Vec a, Vec b) { return a.v - b.v; }
  FUSED_SSIM_INLINE friend Vec operator*(Vec a, Vec b) { return a.v * b.v; }
  FUSED_SSIM_INLINE friend Vec operator-(Vec a) { return -a.v; }

  // 1 / a. In float32 the estimate and one Newton step, within two units in the last place: the
  // formula's reciprocals scale what is small where the result is near 1, and a division would take
  // as long as ten multiply-adds.
  FUSED_SSIM_INLINE friend Vec reciprocal(Vec a) {
#if defined(__AVX512F__)
    if constexpr (kBytes == 64 && sizeof(T) == 4) {
      // The masked form: the plain one warns of an uninitialised operand in GCC 12.
      return newton_step(a, Native(_mm512_maskz_rcp14_ps(0xffff, a.v)));
    }
#elif defined(__AVX2__)
    if constexpr (kBytes == 32 && sizeof(T) == 4) {
      return newton_step(a, Native(_mm256_rcp_ps(a.v)));
    }
#endif
    return Native(Vec(T(1)).v / a.v);
  }

  FUSED_SSIM_INLINE friend Vec multiply_add(Vec a, Vec b, Vec c) {
#if defined(__AVX512F__)
    if constexpr (kBytes == 64 && sizeof(T) == 4) return Native(_mm512_fmadd_ps(a.v, b.v, c.v));
    if constexpr (kBytes == 64 && sizeof(T) == 8) return Native(_mm512_fmadd_pd(a.v, b.v, c.v));
#elif defined(__FMA__)
    if constexpr (kBytes == 32 && sizeof(T) == 4) return Native(_mm256_fmadd_ps(a.v, b.v, c.v));
    if constexpr (kBytes == 32 && sizeof(T) == 8) return Native(_mm256_fmadd_pd(a.v, b.v, c.v));
#elif defined(__aarch64__)
    if constexpr (kBytes == 16 && sizeof(T) == 4) return Native(vfmaq_f32(c.v, a.v, b.v));
    if constexpr (kBytes == 16 && sizeof(T) == 8) return Native(vfmaq_f64(c.v, a.v, b.v));
#endif
    return a.v * b.v + c.v;
  }

  FUSED_SSIM_INLINE friend Vec clamp_to_nonnegative(Vec a) {
    return Native(a.v < Native{} ? Native{} : a.v);
  }

  FUSED_SSIM_INLINE friend Vec select_positive(Vec condition, Vec a, Vec b) {
    return Native(condition.v > Native{} ? a.v : b.v);
  }

  // Lanes where the mask is set, zero elsewhere, whatever stands there (also NaN).
  FUSED_SSIM_INLINE friend bool any_positive(Vec a) {
    const Mask positive = a.v > Native{};
    uint64_t words[kBytes / 8];
    __builtin_memcpy(words, &positive, kBytes);
    uint64_t any = 0;
    for (uint64_t word : words) {
      any |= word;
    }
    return any != 0;
  }
  FUSED_SSIM_INLINE friend Vec keep(Vec a, Mask mask) { return Native(Mask(a.v) & mask); }

  FUSED_SSIM_INLINE static Vec newton_step(Vec a, Vec estimate) {
    return multiply_add(estimate, multiply_add(-a, estimate, Vec(T(1))), estimate);
  }

  FUSED_SSIM_INLINE T lane(int i) const { return v[i]; }
  FUSED_SSIM_INLINE void set_lane(int i, T value) { v[i] = value; }
};

namespace detail {

template <int... kLane>
struct Lanes {};
template <int kCount, int... kLane>
struct LaneRange : LaneRange<kCount - 1, kCount - 1, kLane...> {};
template <int... kLane>
struct LaneRange<0, kLane...> {
  using Type = Lanes<kLane...>;
};

// Exchanges bit `kBit` of the vector index with the same bit of the lane index, for two vectors.
template <int kBit, class V, int... kLane>
FUSED_SSIM_INLINE void exchange_bit(V& a, V& b, Lanes<kLane...>) {
  constexpr int kCount = V::kLanes;
  const auto low =
      __builtin_shufflevector(a.v, b.v, ((kLane & kBit) != 0 ? kCount + (kLane - kBit) : kLane)...);
  const auto high =
      __builtin_shufflevector(a.v, b.v, ((kLane & kBit) != 0 ? kCount + kLane : kLane + kBit)...);
  a.v = low;
  b.v = high;
}

template <int kBit, class V>
FUSED_SSIM_INLINE void transpose_from(V (&rows)[V::kLanes]) {
  if constexpr (kBit >= 1) {
    unroll<0, V::kLanes>([&](auto i) __attribute__((always_inline)) {
      constexpr int kRow = decltype(i)::value;
      if constexpr ((kRow & kBit) == 0) {
        exchange_bit<kBit>(rows[kRow], rows[kRow + kBit], typename LaneRange<V::kLanes>::Type());
      }
    });
    transpose_from<kBit / 2>(rows);
  }
}

template <class V, int... kLane>
FUSED_SSIM_INLINE V rotate_lanes(V from, V fill, Lanes<kLane...>, Index<1>) {
  return typename V::Native(
      __builtin_shufflevector(from.v, fill.v, (kLane == 0 ? V::kLanes : kLane - 1)...));
}
template <class V, int... kLane>
FUSED_SSIM_INLINE V rotate_lanes(V from, V fill, Lanes<kLane...>, Index<-1>) {
  return typename V::Native(
      __builtin_shufflevector(from.v, fill.v, (kLane == V::kLanes - 1 ? V::kLanes : kLane + 1)...));
}

}  // namespace detail

// Square transpose in registers.
template <class V>
FUSED_SSIM_INLINE void transpose(V (&rows)[V::kLanes]) {
  detail::transpose_from<V::kLanes / 2>(rows);
}

// result[l] = from[l - 1], result[0] = fill.
template <class V>
FUSED_SSIM_INLINE V shift_lanes_up(V from, V fill) {
  return detail::rotate_lanes(from, fill, typename detail::LaneRange<V::kLanes>::Type(),
                              Index<1>());
}
// result[l] = from[l + 1], result[last] = fill.
template <class V>
FUSED_SSIM_INLINE V shift_lanes_down(V from, V fill) {
  return detail::rotate_lanes(from, fill, typename detail::LaneRange<V::kLanes>::Type(),
                              Index<-1>());
}

}  // namespace fused_ssim::cpu
