// The types of pixels to and from the type of the arithmetic, written so that compilers vectorise
// loops over them.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace fused_ssim::cpu {

// Storage types: the bits of a 16-bit float.
struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

FUSED_SSIM_INLINE float float_from_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof(value));
  return value;
}
FUSED_SSIM_INLINE uint32_t bits_of_float(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// float or double to float or double.
template <class From, class T>
FUSED_SSIM_INLINE void widen(From from, T* to) {
  *to = static_cast<T>(from);
}
FUSED_SSIM_INLINE void widen(uint8_t from, float* to) { *to = static_cast<float>(from); }
FUSED_SSIM_INLINE void widen(uint8_t from, double* to) { *to = static_cast<double>(from); }
FUSED_SSIM_INLINE void widen(Float16 from, float* to) {
  const uint32_t sign = static_cast<uint32_t>(from.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(from.bits & 0x7fffu) << 13;
  // Subnormals are normal numbers of float: the fraction after a leading 1, less that 1. No step has
  // a subnormal of float in it, which threads flush to zero once a library built with -ffast-math is
  // loaded.
  const float subnormal = float_from_bits(magnitude + (113u << 23)) - 0x1p-14f;
  const uint32_t rebased =
      magnitude < 1u << 23 ? bits_of_float(subnormal) : magnitude + (112u << 23);
  const uint32_t special = magnitude >= 0x0f800000u ? 0x7f800000u : 0u;
  *to = float_from_bits(rebased | special | sign);
}
FUSED_SSIM_INLINE void widen(BFloat16 from, float* to) {
  *to = float_from_bits(static_cast<uint32_t>(from.bits) << 16);
}

template <class Half>
FUSED_SSIM_INLINE void widen_half(Half from, double* to) {
  float value;
  widen(from, &value);
  *to = static_cast<double>(value);
}
FUSED_SSIM_INLINE void widen(Float16 from, double* to) { widen_half(from, to); }
FUSED_SSIM_INLINE void widen(BFloat16 from, double* to) { widen_half(from, to); }

// Round to nearest, ties to even.
FUSED_SSIM_INLINE void narrow(float from, float* to) { *to = from; }
FUSED_SSIM_INLINE void narrow(double from, double* to) { *to = from; }
FUSED_SSIM_INLINE void narrow(double from, float* to) { *to = static_cast<float>(from); }
FUSED_SSIM_INLINE void narrow(float from, Float16* to) {
  const uint32_t bits = bits_of_float(from);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  // Adding 0.5 aligns the subnormal's bits with the end of the mantissa and rounds them there.
  const uint32_t subnormal = bits_of_float(float_from_bits(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  to->bits = static_cast<uint16_t>(sign | (magnitude >= 0x47800000u ? special : finite));
}
FUSED_SSIM_INLINE void narrow(float from, BFloat16* to) {
  const uint32_t bits = bits_of_float(from);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  to->bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

}  // namespace fused_ssim::cpu
