// float16 and bfloat16 conversions: every value, and rounding at and around every tie.
#include <cmath>
#include <cstdint>

#include "check.h"
#include "cpu/convert.h"

using namespace fused_ssim::cpu;

namespace {

// From the definition of the formats.
double half_value(uint32_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

uint32_t narrowed_half(float value) {
  Float16 half;
  narrow(value, &half);
  return half.bits;
}

uint32_t narrowed_bfloat(float value) {
  BFloat16 bfloat;
  narrow(value, &bfloat);
  return bfloat.bits;
}

}  // namespace

int main() {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const std::string name = "bits " + std::to_string(bits);
    float value;
    widen(Float16{static_cast<uint16_t>(bits)}, &value);
    if ((bits & 0x7c00) == 0x7c00) {
      EXPECT((bits & 1023) != 0 ? std::isnan(value) : std::isinf(value), name);
      EXPECT(std::signbit(value) == ((bits & 0x8000) != 0), name);
      if ((bits & 1023) == 0) {
        EXPECT(narrowed_half(value) == bits, name);
      } else {
        EXPECT((narrowed_half(value) & 0x7fff) > 0x7c00, name);
      }
    } else {
      EXPECT(value == half_value(bits), name);
      EXPECT(narrowed_half(value) == bits, name);
      // The tie with the next larger magnitude goes to the even one; either side of it to its own.
      const uint32_t next = bits + 1;
      const double limit =
          (next & 0x7fff) == 0x7c00 ? std::copysign(65536.0, half_value(bits)) : half_value(next);
      const float tie = static_cast<float>((half_value(bits) + limit) / 2);
      const float infinity = std::copysign(INFINITY, tie);
      EXPECT(narrowed_half(tie) == ((bits & 1) == 0 ? bits : next), name);
      EXPECT(narrowed_half(std::nextafter(tie, infinity)) == next, name);
      EXPECT(narrowed_half(std::nextafter(tie, 0.0f)) == bits, name);
    }

    widen(BFloat16{static_cast<uint16_t>(bits)}, &value);
    EXPECT(bits_of_float(value) == bits << 16, name);
    if (std::isnan(value)) {
      EXPECT((narrowed_bfloat(value) & 0x7fff) > 0x7f80, name);
    } else {
      EXPECT(narrowed_bfloat(value) == bits, name);
      if (std::isfinite(value)) {
        EXPECT(narrowed_bfloat(float_from_bits((bits << 16) + 0x8000)) ==
                   ((bits & 1) == 0 ? bits : bits + 1),
               name);
        EXPECT(narrowed_bfloat(float_from_bits((bits << 16) + 0x8001)) == bits + 1, name);
        EXPECT(narrowed_bfloat(float_from_bits((bits << 16) + 0x7fff)) == bits, name);
      }
    }
  }
  EXPECT(narrowed_half(1e30f) == 0x7c00, "overflow");
  EXPECT(narrowed_half(-1e-30f) == 0x8000, "underflow");
  return check::report();
}
