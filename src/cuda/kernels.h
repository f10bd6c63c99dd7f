// The kernels that there are, by schedule, kind and loader, and the functions that find them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/macros.h"
#include "core/problem.h"
#include "core/taps.h"
#include "cuda/params.h"

// Neither headers nor assembler of CUDA 11 know tensor maps.
#define FUSED_SSIM_KNOWS_TENSOR_MAPS (CUDART_VERSION >= 12000)

namespace fused_ssim::cuda {

// Variants of the tile and marching kernels.
enum class StripKind : int {
  kValue,         // the sum of f
  kMap,           // the map, and the sum of f
  kOneGradient,   // the sum of f and its gradient for one image
  kTwoGradients,  // for both
  kWeighted,      // for either or both, with map_gradient
  kMasked,        // kOneGradient where there is what MaskParams says
  kNormalized,    // the same where moments are means under the mask, too
};
inline constexpr int kStripKinds = 7;
FUSED_SSIM_INLINE constexpr bool is_masked_kind(StripKind kind) {
  return kind == StripKind::kMasked || kind == StripKind::kNormalized;
}
constexpr bool has_gradient(StripKind kind) {
  return kind != StripKind::kValue && kind != StripKind::kMap;
}

// The mean squared error beside the value (StripParams::squares), which marching kernels alone have.
constexpr bool has_mse(StripKind kind) { return kind == StripKind::kValue; }

// How kernels read their images, and write gradients.
enum class StripLoader : int {
  kFloatQuads,  // float32, four columns at once: dense, aligned rows of a multiple of 4 columns
  kHalfQuads,   // the same for one 16-bit type
  kAnyQuads,    // the same for any types, also two
  kWords,       // float32, one column at once: any stride and alignment
  kHalfWords,   // the same for one 16-bit type
  kAnyWords,    // the same for any types, also two
  kHalfBoxes,   // kHalfQuads by tensor maps, where there are any
  kByteBoxes,   // the same for uint8
};
inline constexpr int kStripLoaders = 8;
// By tensor maps, where the architecture has them.
constexpr bool is_of_boxes(StripLoader loader) {
  return loader == StripLoader::kFloatQuads || loader == StripLoader::kHalfBoxes ||
         loader == StripLoader::kByteBoxes;
}
// The bytes of an element in a box.
FUSED_SSIM_INLINE constexpr int box_element(StripLoader loader) {
  return loader == StripLoader::kByteBoxes ? 1 : loader == StripLoader::kHalfBoxes ? 2 : 4;
}
// The types that elements have.
enum class Elements { kFloat, kHalf, kByte, kAny };
FUSED_SSIM_INLINE constexpr Elements elements_of(StripLoader loader) {
  switch (loader) {
    case StripLoader::kFloatQuads:
    case StripLoader::kWords:
      return Elements::kFloat;
    case StripLoader::kHalfQuads:
    case StripLoader::kHalfWords:
    case StripLoader::kHalfBoxes:
      return Elements::kHalf;
    case StripLoader::kByteBoxes:
      return Elements::kByte;
    default:
      return Elements::kAny;
  }
}

// The schedules of windows of up to 11 taps, and which loader has an instance in place of another.
enum class Schedule {
  kTile,
  kMarch,         // with the shared memory that MarchLayout::kRoomy asks for
  kCompactMarch,  // with less
};

// What most of the time goes to.
constexpr bool is_frequent(StripKind kind) {
  return kind == StripKind::kValue || kind == StripKind::kOneGradient;
}

// Elsewhere the standard window, too, is a given one to the loaders of any types: instances of its own
// would be 5 to 9% faster, and are the largest of all; compact kernels, which several architectures of a
// library have, do without them. So it is under a mask, but to the most frequent loader of marching
// kernels: 86 us in place of 91 at 1x3x1080x1920 (H200). Tiles know no masks, and means under a mask
// are for that loader alone, which zeroes what the mask hides while it makes s and d of pixels.
constexpr bool has_standard_instance(Schedule schedule, StripKind kind, StripLoader loader) {
  const bool any = elements_of(loader) == Elements::kAny;
  return is_masked_kind(kind) ? schedule == Schedule::kMarch && loader == StripLoader::kFloatQuads
                              : !any || (is_frequent(kind) && schedule != Schedule::kCompactMarch);
}
constexpr bool has_instance(Schedule schedule, StripKind kind, StripLoader loader,
                            bool given_window) {
  return (schedule != Schedule::kTile || !is_masked_kind(kind)) &&
         ((given_window && kind != StripKind::kNormalized) ||
          has_standard_instance(schedule, kind, loader));
}

// The loader of the same elements, one column at once.
constexpr StripLoader words_of(StripLoader loader) {
  return elements_of(loader) == Elements::kFloat  ? StripLoader::kWords
         : elements_of(loader) == Elements::kHalf ? StripLoader::kHalfWords
                                                  : StripLoader::kAnyWords;
}

// Types but float32 have some loaders of their own for what is frequent, and fewer with given windows.
// Strips of a gradient need s and d again, so narrow boxes are not for them. Compact kernels load words,
// and have quads where float32 gradients are stored and their pixels read again.
constexpr StripLoader serving_loader(Schedule schedule, StripKind kind, StripLoader wanted,
                                     bool given_window) {
  using Loader = StripLoader;
  const bool tile = schedule == Schedule::kTile;
  const bool compact = schedule == Schedule::kCompactMarch;
  const bool value = kind == StripKind::kValue;
  const bool keeps = !compact || (wanted == Loader::kFloatQuads && has_gradient(kind));
  const Loader loader = keeps ? wanted : words_of(wanted);
  if (loader == Loader::kFloatQuads) {
    return loader;
  }
  const bool quads =
      is_of_boxes(loader) || loader == Loader::kHalfQuads || loader == Loader::kAnyQuads;
  if (!quads) {
    // Marching kernels have instances for types that are known (compact ones, of gradients, for what is
    // frequent alone), and tiles one for float32 where they have none for any types.
    const bool is_float = loader == Loader::kWords;
    const bool known = tile ? !is_frequent(kind) && is_float
                            : is_frequent(kind) || (is_float && !(compact && has_gradient(kind)));
    return known && !given_window ? loader : Loader::kAnyWords;
  }
  if (!is_frequent(kind)) {
    return Loader::kAnyWords;
  }
  const bool boxes = !given_window && (value || (tile && loader == Loader::kHalfBoxes));
  if (boxes && is_of_boxes(loader)) {
    return loader;
  }
  const bool halves = !tile && !given_window && !value && elements_of(loader) == Elements::kHalf;
  return halves ? Loader::kHalfQuads : Loader::kAnyQuads;
}

struct DeviceFacts {
  int index = 0;
  int architecture = 0;  // of the code that runs there: 90 for 9.0
  int multiprocessors = 0;
  int shared_per_multiprocessor = 0;
  int shared_per_block = 0;  // with opt-in
  int l2_bytes = 0;
  bool overlaps_launches = false;  // launches.h
};

// What is asked of a device is kept for so many of them.
inline constexpr int kMaxKnownDevices = 64;

// Facts of the current device, read once per device.
cudaError_t current_device(DeviceFacts* facts);

// The architecture of the code that runs on the current device.
cudaError_t compiled_architecture(int* architecture);

// Whether code for `architecture` has tensor maps: then tiles load quads of float32 and of 16-bit
// types in boxes (marching kernels: march_layout(), policy.h).
FUSED_SSIM_INLINE constexpr bool has_tensor_maps(int architecture) {
  return FUSED_SSIM_KNOWS_TENSOR_MAPS && architecture >= 90;
}
// The boxes of strips: 128 columns and those around them that their windows need, in an
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
// Whether an image of these sizes whose quads are aligned has a tensor map: where the driver can't, or
// won't for these strides, other loaders serve.
bool has_tensor_map(const InputImage& image, const int64_t* sizes);
// Describes it. False where it has none.
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
// `single_block`: that for one block a multiprocessor, where there is one
// (has_single_block_instance(), policy.h).
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
  int resident = 0;   // marching kernel: blocks a multiprocessor; 0: whatever takes less time
};
StripChoice choose_strips(const DeviceFacts& device, StripKind kind, const Problem& problem);

}  // namespace fused_ssim::cuda
