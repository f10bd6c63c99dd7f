// Reading and writing image elements of any data type and stride, one or four columns at a time.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "cuda/kernels.h"

namespace fused_ssim::cuda {

__device__ __forceinline__ float half_bits_to_float(unsigned bits) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

__device__ __forceinline__ float bfloat_bits_to_float(unsigned bits) {
  return __uint_as_float(bits << 16);
}

// An element of a 16-bit type.
__device__ __forceinline__ float half_to_float(unsigned bits, DType dtype) {
  return dtype == DType::kFloat16 ? half_bits_to_float(bits) : bfloat_bits_to_float(bits);
}

// What a uint8 element stands for: the quotient, correctly rounded (Markstein, "Computation of
// elementary functions on the IBM RISC System/6000 processor", IBM J. 1990), for 1 and for 255.
__device__ __forceinline__ float byte_to_float(unsigned byte, float divisor) {
  const auto number = static_cast<float>(byte);
  const float inverse = divisor == 1.0f ? 1.0f : 1.0f / 255.0f;
  const float quotient = number * inverse;
  return fmaf(fmaf(-quotient, divisor, number), inverse, quotient);
}
__device__ __forceinline__ double byte_to_double(unsigned byte, float divisor) {
  return static_cast<double>(byte) / static_cast<double>(divisor);
}

// An element of an image that is not float32, from its bits.
template <class Byte>
__device__ __forceinline__ float narrow_to_float(unsigned bits, const ByteImage<Byte>& image) {
  return image.dtype == DType::kUInt8 ? byte_to_float(bits & 0xffu, image.uint8_divisor)
                                      : half_to_float(bits, image.dtype);
}

// Asynchronous copies from global to shared memory; bytes from `size` on are filled with zeros.
// GPUs before Ampere copy through registers.
template <int kBytes>
__device__ __forceinline__ void copy_async(void* to, const void* from, int size) {
#if __CUDA_ARCH__ >= 800
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
                 "r"(size));
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from),
                 "n"(kBytes), "r"(size));
  }
#else
  constexpr int kWords = kBytes / 4;
  const auto* source = static_cast<const unsigned*>(from);
  auto* words = static_cast<unsigned*>(to);
  if (size == kBytes && kWords == 4) {
    *reinterpret_cast<uint4*>(words) = __ldg(reinterpret_cast<const uint4*>(source));
  } else {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      words[i] = size - 4 * i >= 4 ? __ldg(source + i) : 0u;
    }
  }
#endif
}

__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// Boxes of pixels (Hopper and later): a tensor map describes an image in global memory, one thread
// has a box of it copied to shared memory, with zeros outside the image, and an mbarrier counts the
// bytes: its phase ends when those expected have arrived.
#if __CUDA_ARCH__ >= 900 && FUSED_SSIM_KNOWS_TENSOR_MAPS
__device__ __forceinline__ unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// Whether this thread is the one of its warp that acts for it. Unlike a test of the thread's index
// it tells the compiler that there is one, so that what it does needs no loop over threads.
__device__ __forceinline__ bool is_elected() {
  unsigned elected = 0;
  asm volatile(
      "{\n"
      ".reg .pred one;\n"
      "elect.sync _|one, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, one;\n"
      "}\n"
      : "=r"(elected));
  return elected != 0;
}

// By one thread, before the others use `counter`: a phase ends with so many arrivals.
__device__ __forceinline__ void start_counting(uint64_t* counter, unsigned arrivals = 1) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(counter)), "r"(arrivals)
               : "memory");
}

__device__ __forceinline__ void arrive(uint64_t* counter) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(shared_address(counter)) : "memory");
}

// After that, by the same thread: makes the counters known to the copy engine.
__device__ __forceinline__ void order_counters() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Arrives; the phase ends when these bytes have come, too.
__device__ __forceinline__ void expect_bytes(uint64_t* counter, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(counter)),
               "r"(bytes)
               : "memory");
}

// Orders ordinary accesses to shared memory, by this thread or before a barrier, before later
// boxes.
__device__ __forceinline__ void order_before_boxes() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// `first`: column, row, channel and batch. `to` is aligned to 128 bytes.
__device__ __forceinline__ void load_box(float* to, const TensorMap& image, const int4& first,
                                         uint64_t* counter) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(shared_address(to)),
      "l"(&image.words), "r"(first.x), "r"(first.y), "r"(first.z), "r"(first.w),
      "r"(shared_address(counter))
      : "memory");
}

// Before the first box, so that it need not wait for the map.
__device__ __forceinline__ void prefetch(const TensorMap& image) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&image.words) : "memory");
}

__device__ __forceinline__ bool phase_has_ended(uint64_t* counter, unsigned parity) {
  unsigned ended;
  asm volatile(
      "{\n"
      ".reg .pred complete;\n"
      "mbarrier.try_wait.parity.shared.b64 complete, [%1], %2;\n"
      "selp.u32 %0, 1, 0, complete;\n"
      "}\n"
      : "=r"(ended)
      : "r"(shared_address(counter)), "r"(parity)
      : "memory");
  return ended != 0;
}
__device__ __forceinline__ void wait_for_phase(uint64_t* counter, unsigned parity) {
  while (!phase_has_ended(counter, parity)) {
  }
}
// Where others need the issue slots that asking takes.
__device__ __forceinline__ void wait_long_for_phase(uint64_t* counter, unsigned parity) {
  while (!phase_has_ended(counter, parity)) {
    __nanosleep(50);
  }
}
#else
__device__ __forceinline__ bool is_elected() { return false; }
__device__ __forceinline__ void start_counting(uint64_t*, unsigned = 1) {}
__device__ __forceinline__ void arrive(uint64_t*) {}
__device__ __forceinline__ void order_counters() {}
__device__ __forceinline__ void expect_bytes(uint64_t*, unsigned) {}
__device__ __forceinline__ void order_before_boxes() {}
__device__ __forceinline__ void load_box(float*, const TensorMap&, const int4&, uint64_t*) {}
__device__ __forceinline__ void prefetch(const TensorMap&) {}
__device__ __forceinline__ void wait_for_phase(uint64_t*, unsigned) {}
__device__ __forceinline__ void wait_long_for_phase(uint64_t*, unsigned) {}
#endif

// The element at `from` where `wanted` is not 0, else 0. Never by a branch, as it might be.
__device__ __forceinline__ float load_float_if(unsigned wanted, const char* from) {
  float value;
  asm volatile("{.reg .pred p; setp.ne.u32 p, %2, 0; mov.b32 %0, 0; @p ld.global.nc.f32 %0, [%1];}"
               : "=f"(value)
               : "l"(from), "r"(wanted));
  return value;
}
// The number of a uint8 element.
__device__ __forceinline__ float load_byte_if(unsigned wanted, const char* from) {
  unsigned byte;
  asm volatile("{.reg .pred p; setp.ne.u32 p, %2, 0; mov.b32 %0, 0; @p ld.global.nc.u8 %0, [%1];}"
               : "=r"(byte)
               : "l"(from), "r"(wanted));
  return __uint_as_float(byte);
}
// The bits of a 16-bit element.
__device__ __forceinline__ float load_half_if(unsigned wanted, const char* from) {
  unsigned bits;
  asm volatile("{.reg .pred p; setp.ne.u32 p, %2, 0; mov.b32 %0, 0; @p ld.global.nc.u16 %0, [%1];}"
               : "=r"(bits)
               : "l"(from), "r"(wanted));
  return __uint_as_float(bits);
}

// Copies the aligned 4-byte word that holds the element at `from`: the element itself, or two
// elements of a 16-bit type, of which `narrow_words_to_float` picks one. `size` is 4, or 0 for a word
// of zeros.
__device__ __forceinline__ void copy_word(float* to, const char* from, int size) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(from);
  copy_async<4>(to, reinterpret_cast<const void*>(address & ~uintptr_t{3}), size);
}

// Four elements of a 16-bit type, in the low halves of four words.
__device__ __forceinline__ float4 low_halves_to_float(const unsigned (&word)[4], DType dtype) {
  if (dtype == DType::kFloat16) {
    return make_float4(half_bits_to_float(word[0] & 0xffffu), half_bits_to_float(word[1] & 0xffffu),
                       half_bits_to_float(word[2] & 0xffffu),
                       half_bits_to_float(word[3] & 0xffffu));
  }
  return make_float4(bfloat_bits_to_float(word[0]), bfloat_bits_to_float(word[1]),
                     bfloat_bits_to_float(word[2]), bfloat_bits_to_float(word[3]));
}

// Four elements of a 16-bit type as they lie in memory, in the first two words.
__device__ __forceinline__ float4 half_quad_to_float(const float4& copied, DType dtype) {
  const unsigned first = __float_as_uint(copied.x);
  const unsigned second = __float_as_uint(copied.y);
  return low_halves_to_float({first, first >> 16, second, second >> 16}, dtype);
}

// Four bytes as they lie in memory, in the first word.
__device__ __forceinline__ float4 byte_quad_to_float(const float4& copied, float divisor) {
  const unsigned word = __float_as_uint(copied.x);
  return make_float4(
      byte_to_float(word & 0xffu, divisor), byte_to_float(word >> 8 & 0xffu, divisor),
      byte_to_float(word >> 16 & 0xffu, divisor), byte_to_float(word >> 24, divisor));
}

// Four elements of any type as they lie in memory, in the first words.
template <Elements kElements = Elements::kAny>
__device__ __forceinline__ float4 raw_quad_to_float(const float4& copied, const InputImage& image) {
  if (kElements == Elements::kHalf) {
    return half_quad_to_float(copied, image.dtype);
  }
  if (image.dtype == DType::kFloat32) {
    return copied;
  }
  return image.dtype == DType::kUInt8 ? byte_quad_to_float(copied, image.uint8_divisor)
                                      : half_quad_to_float(copied, image.dtype);
}

// Pixels of a row in shared memory, 4 or, of narrow types, 8 at once; `quads` is aligned to these.
template <DType kDType>
struct StagedRow {
  static constexpr int kElement = kDType == DType::kFloat32 ? 4 : kDType == DType::kUInt8 ? 1 : 2;
  static constexpr int kAtOnce = kElement == 4 ? 4 : 8;
  // What pixels are read with: the bits of a byte are the last of 2^23 + byte, a float32 number.
  static constexpr float kOffset = kDType == DType::kUInt8 ? 8388608.0f : 0.0f;
  const float* quads;

  // From column `first` on, a multiple of kAtOnce.
  __device__ __forceinline__ void read(int first, float (&pixels)[kAtOnce]) const {
    if constexpr (kDType == DType::kUInt8) {
      const uint2 words = *reinterpret_cast<const uint2*>(quads + first / 4);
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const unsigned word = i < 4 ? words.x : words.y;
        pixels[i] = __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440u | (i % 4)));
      }
      return;
    }
    const float4 quad = *reinterpret_cast<const float4*>(quads + first * 4 / kAtOnce);
    const float words[4] = {quad.x, quad.y, quad.z, quad.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const unsigned word = __float_as_uint(words[i]);
      if constexpr (kDType == DType::kFloat32) {
        pixels[i] = words[i];
      } else {
        pixels[2 * i] = half_to_float(word, kDType);
        pixels[2 * i + 1] = half_to_float(word >> 16, kDType);
      }
    }
  }
};

// Four elements of a narrow type as `copy_word` left them; the address of the first and the stride
// say which part of its word an element is.
__device__ __forceinline__ float4 narrow_words_to_float(const float4& copied, const char* first,
                                                        const InputImage& image) {
  const float words[4] = {copied.x, copied.y, copied.z, copied.w};
  const auto low = static_cast<unsigned>(reinterpret_cast<uintptr_t>(first));
  unsigned bits[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const unsigned byte = (low + i * static_cast<unsigned>(image.column)) & 3u;
    bits[i] = __float_as_uint(words[i]) >> 8 * byte;
  }
  if (image.dtype != DType::kUInt8) {
    return low_halves_to_float(bits, image.dtype);
  }
  const auto number = [&](int i) { return byte_to_float(bits[i] & 0xffu, image.uint8_divisor); };
  return make_float4(number(0), number(1), number(2), number(3));
}

// One element as the accumulation type T.
template <class T>
__device__ __forceinline__ T load_element(const char* element, const InputImage& image) {
  switch (image.dtype) {
    case DType::kUInt8:
      if constexpr (sizeof(T) == 8) {
        return byte_to_double(__ldg(reinterpret_cast<const unsigned char*>(element)),
                              image.uint8_divisor);
      } else {
        return byte_to_float(__ldg(reinterpret_cast<const unsigned char*>(element)),
                             image.uint8_divisor);
      }
    case DType::kFloat16:
      return static_cast<T>(
          half_bits_to_float(__ldg(reinterpret_cast<const unsigned short*>(element))));
    case DType::kBFloat16:
      return static_cast<T>(
          bfloat_bits_to_float(__ldg(reinterpret_cast<const unsigned short*>(element))));
    case DType::kFloat32:
      return static_cast<T>(__ldg(reinterpret_cast<const float*>(element)));
    default:
      return static_cast<T>(__ldg(reinterpret_cast<const double*>(element)));
  }
}

// The same where the loader knows more of the types.
template <class T, Elements kElements>
__device__ __forceinline__ T load_element_of(const char* element, const InputImage& image) {
  if constexpr (kElements == Elements::kFloat) {
    return static_cast<T>(__ldg(reinterpret_cast<const float*>(element)));
  } else if constexpr (kElements == Elements::kHalf) {
    const unsigned bits = __ldg(reinterpret_cast<const unsigned short*>(element));
    return static_cast<T>(half_to_float(bits, image.dtype));
  } else if constexpr (kElements == Elements::kByte) {
    return static_cast<T>(__ldg(reinterpret_cast<const unsigned char*>(element)));  // not divided
  } else {
    return load_element<T>(element, image);
  }
}
// The same by a load that stays where it stands: the compiler moves others to before the loads of
// boxes, and has these wait for them.
template <class T, Elements kElements>
__device__ __forceinline__ T load_element_here(const char* element, const InputImage& image) {
  if constexpr (kElements == Elements::kFloat) {
    float value;
    asm volatile("ld.global.f32 %0, [%1];" : "=f"(value) : "l"(element));
    return static_cast<T>(value);
  } else if constexpr (kElements == Elements::kHalf) {
    unsigned short bits;
    asm volatile("ld.global.u16 %0, [%1];" : "=h"(bits) : "l"(element));
    return static_cast<T>(half_to_float(bits, image.dtype));
  } else if constexpr (kElements == Elements::kByte) {
    unsigned byte;
    asm volatile("ld.global.u8 %0, [%1];" : "=r"(byte) : "l"(element));
    return static_cast<T>(byte);  // not divided
  } else {
    return load_element<T>(element, image);
  }
}

template <class T>
__device__ __forceinline__ void store_element(char* element, T value, DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
      *reinterpret_cast<__half*>(element) = __float2half_rn(static_cast<float>(value));
      break;
    case DType::kBFloat16:
      *reinterpret_cast<__nv_bfloat16*>(element) = __float2bfloat16_rn(static_cast<float>(value));
      break;
    case DType::kFloat32:
      *reinterpret_cast<float*>(element) = static_cast<float>(value);
      break;
    default:
      *reinterpret_cast<double*>(element) = static_cast<double>(value);
      break;
  }
}

// Columns [x, x + 4) of a row, as raw_to_float() takes them; zeros beyond `width`.
template <StripLoader kLoader>
__device__ __forceinline__ float4 load_raw(const char* row, const InputImage& image, int x,
                                           int width) {
  constexpr bool kIsFloat = elements_of(kLoader) == Elements::kFloat;
  if constexpr (kLoader == StripLoader::kFloatQuads || kLoader == StripLoader::kAnyQuads) {
    float4 quad = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (x < width) {
      if (kIsFloat || image.dtype == DType::kFloat32) {
        quad = __ldg(reinterpret_cast<const float4*>(row) + x / 4);
      } else if (image.dtype == DType::kUInt8) {
        quad.x = __ldg(reinterpret_cast<const float*>(row) + x / 4);
      } else {
        *reinterpret_cast<float2*>(&quad) = __ldg(reinterpret_cast<const float2*>(row) + x / 4);
      }
    }
    return quad;
  }
  float word[4] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (x + i < width) {
      auto address = reinterpret_cast<uintptr_t>(row + (x + i) * image.column);
      address &= kIsFloat ? ~uintptr_t{0} : ~uintptr_t{3};
      word[i] = __ldg(reinterpret_cast<const float*>(address));
    }
  }
  return make_float4(word[0], word[1], word[2], word[3]);
}
// Their numbers. One question of the type for all four, when all loads are under way.
template <StripLoader kLoader>
__device__ __forceinline__ float4 raw_to_float(const float4& raw, const char* row,
                                               const InputImage& image, int x) {
  if (elements_of(kLoader) == Elements::kFloat || image.dtype == DType::kFloat32) {
    return raw;
  }
  return kLoader == StripLoader::kAnyQuads
             ? raw_quad_to_float(raw, image)
             : narrow_words_to_float(raw, row + x * image.column, image);
}
template <StripLoader kLoader>
__device__ __forceinline__ float4 load_quad(const char* row, const InputImage& image, int x,
                                            int width) {
  return raw_to_float<kLoader>(load_raw<kLoader>(row, image, x, width), row, image, x);
}

// Bytes of four columns.
template <StripLoader kLoader>
__device__ __forceinline__ int64_t quad_bytes(const OutputImage& image) {
  return kLoader == StripLoader::kFloatQuads ? 16 : 4 * image.column;
}

// Four columns at once; `first` is aligned to four elements.
template <StripLoader kLoader>
__device__ __forceinline__ void store_quad(char* first, const float* value, DType dtype) {
  static_assert(kLoader != StripLoader::kWords && kLoader != StripLoader::kHalfWords &&
                    kLoader != StripLoader::kAnyWords,
                "quads only");
  if (elements_of(kLoader) == Elements::kFloat ||
      (elements_of(kLoader) == Elements::kAny && dtype == DType::kFloat32)) {
    *reinterpret_cast<float4*>(first) = make_float4(value[0], value[1], value[2], value[3]);
  } else {
    uint2 words;
    if (dtype == DType::kFloat16) {
      const __half2 low = __floats2half2_rn(value[0], value[1]);
      const __half2 high = __floats2half2_rn(value[2], value[3]);
      words = {*reinterpret_cast<const unsigned*>(&low), *reinterpret_cast<const unsigned*>(&high)};
    } else {
      const __nv_bfloat162 low = __floats2bfloat162_rn(value[0], value[1]);
      const __nv_bfloat162 high = __floats2bfloat162_rn(value[2], value[3]);
      words = {*reinterpret_cast<const unsigned*>(&low), *reinterpret_cast<const unsigned*>(&high)};
    }
    *reinterpret_cast<uint2*>(first) = words;
  }
}

template <class Byte>
__device__ __forceinline__ Byte* plane_of(const ByteImage<Byte>& image, int64_t plane,
                                          int64_t channels) {
  const int64_t batch = plane / channels;
  return image.data + batch * image.batch + (plane - batch * channels) * image.channel;
}

}  // namespace fused_ssim::cuda
