// What the tile and marching kernels are told, part by part: images, geometry, window,
// statistic, outputs, sums. Plain values, filled in by the host.
#pragma once

#include <cstdint>

#include "core/macros.h"
#include "core/problem.h"
#include "core/taps.h"

namespace fused_ssim::cuda {

// The element types that kernels read and, but for uint8, write.
enum class DType : int { kUInt8, kFloat16, kBFloat16, kFloat32, kFloat64 };
constexpr DType dtype_of(const Image& image) { return static_cast<DType>(image.dtype); }
static_assert(dtype_of({nullptr, {}, FUSED_SSIM_UINT8}) == DType::kUInt8 &&
                  dtype_of({nullptr, {}, FUSED_SSIM_FLOAT16}) == DType::kFloat16 &&
                  dtype_of({nullptr, {}, FUSED_SSIM_BFLOAT16}) == DType::kBFloat16 &&
                  dtype_of({nullptr, {}, FUSED_SSIM_FLOAT32}) == DType::kFloat32 &&
                  dtype_of({nullptr, {}, FUSED_SSIM_FLOAT64}) == DType::kFloat64,
              "the same order");

// An image batch as kernels address it: strides in bytes.
template <class Byte>
struct ByteImage {
  Byte* data = nullptr;
  int64_t batch = 0;
  int64_t channel = 0;
  int64_t row = 0;
  int64_t column = 0;
  DType dtype = DType::kFloat32;
  float uint8_divisor = 1.0f;  // what uint8 pixels are divided by
};
using InputImage = ByteImage<const char>;
using OutputImage = ByteImage<char>;

// Division by a number that the host knows: a multiplication and a shift for dividends below 2^31
// (Granlund and Montgomery, "Division by invariant integers using multiplication", PLDI 1994).
struct Divisor {
  unsigned divisor = 1;
  unsigned multiplier = 1;
  unsigned shift = 0;

  Divisor() = default;
  explicit Divisor(int64_t d) : divisor(static_cast<unsigned>(d)) {
    while ((uint64_t{1} << shift) < divisor) {
      ++shift;
    }
    multiplier = static_cast<unsigned>(
        (uint64_t{1} << 32) * ((uint64_t{1} << shift) - divisor) / divisor + 1);
  }
};

// How sums over units of work (rows of a strip, or tiles) become the requested values.
//
// Units are numbered so that those of one value are contiguous; each block takes one contiguous
// range of units. A block that works for value v leaves its sum in partials[v + block]: both grow
// along the units, so no two (value, block) pairs share a slot. The last block to finish adds the
// partials of each value in the order of the blocks.
struct ReductionPlan {
  double* partials = nullptr;  // [values + blocks]
  void* value = nullptr;       // [values], accumulation type; null where no value is wanted
  void* mse = nullptr;         // likewise, of a second sum; its partials follow the first's
  double mse_factor = 1.0;
  int64_t values = 0;
  int64_t units_per_value = 0;
  int64_t total_units = 0;
  double factor = 1.0;  // value = offset + factor * sum
  double offset = 0.0;
  unsigned counter_slot = 0;
  // Where each block works for one value: the blocks of a value add multiples of 1 / fixed_point to
  // one word, that of the counter slot of the value, instead of leaving partials. 0: they leave
  // partials.
  double fixed_point = 0.0;  // a power of two
  double fixed_unit = 0.0;   // 1 over it
  unsigned blocks_per_value = 0;

  // Set by share_among(): equal parts of `shared_units`.
  Divisor sharing_blocks;
  unsigned units_left = 0;
  int64_t units_per_block = 0;

  // Of kernels with masks: [values], accumulation type, by which the sums of a mean are divided,
  // too; by 1 where a mask's sum is 0. Null: by nothing.
  const void* divisors = nullptr;

  // At most 65536 blocks: products of two numbers below that fit 32 bits.
  void share_among(int blocks, int64_t shared_units) {
    sharing_blocks = Divisor(blocks);
    units_per_block = shared_units / blocks;
    units_left = static_cast<unsigned>(shared_units % blocks);
  }
};

// Counters of finished blocks live in device memory, start at zero and return to it, so that no
// launch has to clear them. A launch takes the next slot of a pool: the lower half serves eager
// launches, the upper half those captured in graphs, which keep their slot as long as the graph lives
// and are refused where all are taken. A launch with several values that are counted takes a slot for
// each.
inline constexpr unsigned kCounterSlots = 32768;
// Bits of such a counter where blocks add their sums, too (ReductionPlan::fixed_point).
inline constexpr int kCountBits = 11;
inline constexpr int kMaxCountedBlocks = (1 << kCountBits) - 1;
inline constexpr int kMaxCountedValues = 64;
// The largest magnitude of such a sum, times fixed_point. A block may take as much of it as all
// others.
inline constexpr double kLargestFixedSum = static_cast<double>(int64_t{1} << (62 - 2 * kCountBits));

// An image batch as the copy engine of Hopper and later addresses it (CUtensorMap): columns, rows,
// channels, batches. A dimension of which all entries are the same memory counts as one entry.
struct TensorMap {
  alignas(64) uint64_t words[16] = {};
  int channels = 0;
  int batches = 0;
};

// The sums of a mask that gradients are divided by: of a plane that at batch * `batch` + channel *
// `channel`, in the accumulation type T.
template <class T>
struct Divisors {
  const T* first = nullptr;  // null: divided by nothing
  int batch = 0;
  int channel = 0;
};

// Taps of half a window of 11, from the outermost to the one in the middle.
inline constexpr int kHalfWindowTaps = kDefaultWindowSize / 2 + 1;

// Loader: where pixels come from.
struct ImageParams {
  InputImage img1;
  InputImage img2;
  TensorMap tensor1;  // where boxes of pixels are loaded
  TensorMap tensor2;
};

// An image, and its pixels that have a value: rows [value_top, value_bottom), columns likewise
// (set_extents(), requests.h).
struct ExtentParams {
  int height = 0;
  int width = 0;
  int value_top = 0;
  int value_bottom = 0;
  int value_left = 0;
  int value_right = 0;
};

// Schedule: which pixels a block works on, and when.
struct GeometryParams : ExtentParams {
  bool is_beside = false;  // blocks do not wait for the launch ahead before their end
  Divisor channels;
  // The pixels to write: all of them for a gradient, those with a value otherwise.
  int own_top = 0;
  int own_rows = 0;
  int own_left = 0;  // a multiple of 4, at or before the first of them
  int own_right = 0;
  // Units of work, which are rows. Strips that a block may cross to count strip_change_rows units
  // without a row first; in others that is negative, and the first and the last block of a strip
  // have some rows more than units.
  Divisor units_per_strip;
  int strip_change_rows = 0;
  Divisor strips_per_plane;
  int strip_width = 0;
  // Strips: so many neighbouring blocks work on the same rows, each on a channel of its own. All
  // channels, or 1: then a block's range of rows crosses from plane to plane.
  int channels_together = 1;
  // Tiles.
  Divisor tiles_per_plane;
  int tile_rows = 0;
};

// Filters: a given window (cuda/window.cuh).
struct WindowParams {
  float row_taps[kHalfWindowTaps] = {};
  float column_taps[kHalfWindowTaps] = {};
};

// Pointwise: from moments and pixels to numbers.
struct PointwiseParams {
  float twice_c1 = 0.0f;  // in the units of the moments (cuda/window.cuh)
  float twice_c2 = 0.0f;
  bool l1 = false;            // |x - y| is added up, too
  bool squares = false;       // (x - y)^2 instead, apart from the value (ReductionPlan::mse)
  double loss_weight = -2.0;  // in the value, of the losses: -2 statistic_weight
  double l1_weight = 0.0;
  // In the gradient, over gradient_divisor(): 4 statistic_weight (core/formula.h), times what
  // undoes the taps' scale; and l1_weight.
  float gradient_scale = 4.0f;
  float gradient_l1 = 0.0f;
  InputImage map_gradient;
};

// Outputs: gradients and the map.
struct OutputParams {
  OutputImage grad1;  // kOneGradient: that of img1
  OutputImage grad2;
  float* map = nullptr;  // [planes, map rows, map columns]
  int64_t map_pitch = 0;
  int64_t map_plane = 0;
};

// Sums.
struct SumParams {
  ReductionPlan reduction;
};

// Pointwise, of kMasked and kNormalized alone: a mask, and C1 and C2 of each image. Either may be missing.
struct MaskParams {
  InputImage mask;
  // A mask of bytes in bits (mask.cuh), in place of `mask`: null where the mask has another type.
  InputImage mask_bits;
  // kNormalized: at pixels that count 1 over the mean of the mask in the window around them, else 0, in
  // float32; and mask_bits, both also around the image (masks.cu).
  InputImage inverse_means;
  Divisors<float> divisors;
  float loss_base = 0.0f;              // subtracted from each loss before the mask weighs it
  const float* stabilizers = nullptr;  // [batch, 2]
  // What makes these twice_c1 and twice_c2; 0 where the one of all images holds.
  float stabilizer_scales[2] = {};
};

struct StripParams : ImageParams,
                     GeometryParams,
                     WindowParams,
                     PointwiseParams,
                     OutputParams,
                     SumParams,
                     MaskParams {};

}  // namespace fused_ssim::cuda
