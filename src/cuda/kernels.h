// What the host side of src/cuda hands to its kernels: images with byte strides, the work and its
// reduction; and the functions that launch each family of kernels.
#pragma once

#include <cuda_runtime_api.h>

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
  // Where there is one value: blocks add multiples of 1 / fixed_point to one word instead of
  // leaving partials. 0: they leave partials.
  double fixed_point = 0.0;

  // Set by share_among(): equal parts of `shared_units`.
  Divisor sharing_blocks;
  unsigned units_left = 0;
  int64_t units_per_block = 0;

  // At most 65536 blocks: products of two numbers below that fit 32 bits.
  void share_among(int blocks, int64_t shared_units) {
    sharing_blocks = Divisor(blocks);
    units_per_block = shared_units / blocks;
    units_left = static_cast<unsigned>(shared_units % blocks);
  }
};

// Counters of finished blocks live in device memory, start at zero and return to it, so that no
// launch has to clear them. A launch takes the next slot of a pool: the lower half serves eager
// launches, the upper half those captured in graphs, which keep their slot as long as they live.
inline constexpr unsigned kCounterSlots = 32768;
// Bits of such a counter where blocks add their sums, too (ReductionPlan::fixed_point).
inline constexpr int kCountBits = 11;
inline constexpr int kMaxCountedBlocks = (1 << kCountBits) - 1;
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

// Taps of half a window of 11, from the outermost to the one in the middle.
inline constexpr int kHalfWindowTaps = kDefaultWindowSize / 2 + 1;

struct StripParams {
  InputImage img1;
  InputImage img2;
  TensorMap tensor1;  // where boxes of pixels are loaded
  TensorMap tensor2;
  OutputImage grad1;  // kOneGradient: that of img1
  OutputImage grad2;
  InputImage map_gradient;
  float* map = nullptr;  // [planes, map rows, map columns]
  bool l1 = false;       // |x - y| is added up, too
  bool squares = false;  // (x - y)^2 instead, apart from the value (ReductionPlan::mse)
  int height = 0;
  int width = 0;
  Divisor channels;
  // The pixels that have a value: rows [value_top, value_bottom), columns likewise.
  int value_top = 0;
  int value_bottom = 0;
  int value_left = 0;
  int value_right = 0;
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
  // Strips only: so many neighbouring blocks work on the same rows, each on a channel of its own.
  // All channels, or 1: then a block's range of rows crosses from plane to plane.
  int channels_together = 1;
  // Tiles only.
  Divisor tiles_per_plane;
  int tile_rows = 0;
  int64_t map_pitch = 0;
  int64_t map_plane = 0;
  // Of a given window (cuda/window.cuh).
  float row_taps[kHalfWindowTaps] = {};
  float column_taps[kHalfWindowTaps] = {};
  float twice_c1 = 0.0f;  // in the units of the moments (cuda/window.cuh)
  float twice_c2 = 0.0f;
  double loss_weight = -2.0;  // in the value, of ssim_loss(): -2 statistic_weight
  double l1_weight = 0.0;
  // In the gradient, over gradient_divisor(): 4 statistic_weight (core/formula.h), times what
  // undoes the taps' scale; and l1_weight.
  float gradient_scale = 4.0f;
  float gradient_l1 = 0.0f;
  ReductionPlan reduction;
};

// Variants of the strip and tile kernels.
enum class StripKind : int {
  kValue,         // the sum of f
  kMap,           // the map, and the sum of f
  kOneGradient,   // the sum of f and its gradient for one image
  kTwoGradients,  // for both
  kWeighted,      // for either or both, with map_gradient
};
inline constexpr int kStripKinds = 5;
constexpr bool has_gradient(StripKind kind) {
  return kind != StripKind::kValue && kind != StripKind::kMap;
}

// The mean squared error beside the value (StripParams::squares).
constexpr bool has_mse(StripKind kind) { return kind == StripKind::kValue; }

// How kernels read their images, and write gradients.
enum class StripLoader : int {
  kFloatQuads,  // float32, four columns at once: dense, aligned rows of a multiple of 4 columns
  kAnyQuads,    // the same for any types, also two
  kWords,       // float32, one column at once: any stride and alignment
  kHalfWords,   // the same for one 16-bit type
  kAnyWords,    // the same for any types, also two
  kHalfBoxes,   // kAnyQuads of one 16-bit type by tensor maps, where there are any
  kByteBoxes,   // the same for uint8
};
inline constexpr int kStripLoaders = 7;
// By tensor maps, where the architecture has them.
constexpr bool is_of_boxes(StripLoader loader) {
  return loader == StripLoader::kFloatQuads || loader == StripLoader::kHalfBoxes ||
         loader == StripLoader::kByteBoxes;
}
// The bytes of an element in a box.
FUSED_SSIM_INLINE constexpr int box_element(StripLoader loader) {
  return loader == StripLoader::kByteBoxes ? 1 : loader == StripLoader::kHalfBoxes ? 2 : 4;
}
// The schedules of windows of up to 11 taps, and which loader has an instance in place of another:
// types but float32 have some of their own where most of the time goes, values and one gradient, and
// fewer with given windows. Strips of a gradient need s and d again, so narrow boxes are not for them.
enum class Schedule { kTile, kMarch, kStrip };
constexpr StripLoader serving_loader(Schedule schedule, StripKind kind, StripLoader loader,
                                     bool given_window) {
  using Loader = StripLoader;
  if (loader == Loader::kFloatQuads) {
    return loader;
  }
  const bool value = kind == StripKind::kValue;
  const bool quads = is_of_boxes(loader) || loader == Loader::kAnyQuads;
  if (!quads) {
    const bool own =
        schedule == Schedule::kMarch && !given_window && (value || kind == StripKind::kOneGradient);
    return own ? loader : Loader::kAnyWords;
  }
  const bool own_quads = schedule == Schedule::kStrip ? value && !given_window
                                                      : value || kind == StripKind::kOneGradient;
  if (!own_quads) {
    return Loader::kAnyWords;
  }
  const bool boxes = !given_window && schedule != Schedule::kStrip &&
                     (value || (schedule == Schedule::kTile && loader == Loader::kHalfBoxes));
  return boxes ? loader : Loader::kAnyQuads;
}

struct DeviceFacts {
  int index = 0;
  int architecture = 0;  // of the code that runs there: 90 for 9.0
  int multiprocessors = 0;
  int shared_per_multiprocessor = 0;
  int shared_per_block = 0;        // with opt-in
  int l2_bytes = 0;
  bool overlaps_launches = false;  // launches.h
};

// What is asked of a device is kept for so many of them.
inline constexpr int kMaxKnownDevices = 64;

// Facts of the current device, read once per device.
cudaError_t current_device(DeviceFacts* facts);

// The architecture of the code that runs on the current device.
cudaError_t compiled_architecture(int* architecture);

// Whether code for `architecture` loads quads in boxes, which need tensor maps: of float32, and in
// tiles of 16-bit types.
constexpr bool loads_boxes(int architecture) { return architecture >= 90; }
// Columns of values that a strip computes before its first own one, where threads copy its pixels.
inline constexpr int kValueMargin = 1;
// The boxes of the strip kernel: 128 columns and those around them that their windows need, in an
// odd number of quads. Values begin their windows in the middle of a quad and need one quad more.
constexpr int box_columns(StripKind kind) { return has_gradient(kind) ? 140 : 148; }
inline constexpr int kStripBoxRows = 8;
// The boxes of tiles: columns, and rows beside those of the tile.
inline constexpr int kTileBoxColumns = 88;
// Of narrow types, with elements of 1 or 2 bytes. The copy engine wants the first column's address
// to be a multiple of 16 bytes, so that there are some columns too many on one side or the other.
// Strips begin with such a column; those of bytes are loaded from 8 columns before on.
FUSED_SSIM_INLINE constexpr int narrow_box_alignment(int64_t element) {
  return static_cast<int>(16 / element);
}
FUSED_SSIM_INLINE constexpr int narrow_tile_box_columns(int64_t element) {
  return element == 1 ? 112 : 96;
}
FUSED_SSIM_INLINE constexpr int narrow_strip_box_columns(int64_t element) {
  return element == 1 ? 176 : 152;
}
constexpr int tile_box_rows(StripKind kind, int tile_rows) {
  return tile_rows + (has_gradient(kind) ? 20 : 10);
}
// Describes an image of these sizes whose quads are aligned. False where the driver can't, or won't
// for these strides: then other loaders serve.
bool make_tensor_map(const InputImage& image, const int64_t* sizes, int box_columns, int box_rows,
                     TensorMap* map);

// A kernel of StripParams and how it is launched on a device, ready for it.
struct StripKernel {
  void (*kernel)(const StripParams) = nullptr;
  int threads = 0;
  int shared_bytes = 0;
  int blocks_per_multiprocessor = 0;
};
// With the windows of cuda/window.cuh: the standard one, or that of StripParams' taps.
struct StandardWindow;
struct GivenWindow;
template <class Window>
cudaError_t find_strip_kernel(const DeviceFacts& device, StripKind kind, StripLoader loader,
                              StripKernel* found);
// `single_block`: that for one block a multiprocessor, where there is one
// (has_single_block_instance(), tuning.h).
template <class Window>
cudaError_t find_march_kernel(const DeviceFacts& device, StripKind kind, StripLoader loader,
                              bool single_block, StripKernel* found);

// Tiles of a small image, at most this wide.
inline constexpr int kMaxTileColumns = 64;
// Shared memory that a tile kernel uses beside its tile.
inline constexpr int kTileStaticShared = 1024;
int tile_shared_bytes(StripKind kind, int rows);
template <class Window>
cudaError_t find_tile_kernel(const DeviceFacts& device, StripKind kind, StripLoader loader,
                             int tile_rows, StripKernel* found);

// How the 11-tap kernels run: chosen by the tuning table, or by a benchmark.
struct StripChoice {
  int tile_rows = 0;  // tiles of so many rows; 0: strips
  int min_rows = 16;  // rows that a block owns at least
  int resident = 0;   // pipeline kernel: blocks a multiprocessor; 0: whatever takes less time
};
StripChoice choose_strips(const DeviceFacts& device, StripKind kind, const int64_t* sizes);

}  // namespace fused_ssim::cuda
