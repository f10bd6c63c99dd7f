// The separable kernels (separable.cu): their parameters, and which problems they serve.
#pragma once

#include "core/formula.h"
#include "cuda/kernels.h"

namespace fused_ssim::cuda {

// Work of a block: a strip of at most kSeparableColumns columns, in chunks of rows. A thread
// filters kOutputs neighbouring pixels at once, along a row and then down a column, which is what a
// chunk has for every thread where the strip is that wide.
inline constexpr int kSeparableThreads = 128;
inline constexpr int kSeparableColumns = 64;
inline constexpr int kSeparableLeastColumns = 8;
template <class T>
inline constexpr int kSeparableOutputs = sizeof(T) == 4 ? 8 : 4;
template <class T>
inline constexpr int kSeparableChunkRows =
    kSeparableThreads * kSeparableOutputs<T> / kSeparableColumns;
// Elements of 16 bytes.
template <class T>
inline constexpr int kSeparableVector = 16 / static_cast<int>(sizeof(T));
inline constexpr int kSeparableImages = 2;  // inputs of moments
inline constexpr int kSeparableMaps = 4;    // at most, of moments or of partial derivatives
// Under a normalized mask: with the mask three inputs, and five maps. They are the sum of m over a
// window, the means of s and d under it, and the sums of m (s - mean)^2 and of m (d - mean)^2.
inline constexpr int kMaskedImages = 3;
inline constexpr int kMaskedMaps = 5;
// Columns whose partial derivatives lie together in memory: at a fixed distance, row by row and map
// by map.
inline constexpr int kPartialColumns = 32;

// Registers for 16 warps a multiprocessor.
inline constexpr int kSeparableBlocksPerMultiprocessor = 4;
// Those of normalized masks need more of both: their rings leave shared memory for so many.
inline constexpr int kMaskedBlocksPerMultiprocessor = 3;
// The second pass in float64. A step at 1x3x1080x1920 takes 376 us with three, and took 406 in the one
// run (H200) of a build that had four.
inline constexpr int kDoubleGradientBlocksPerMultiprocessor = 3;
// Partial derivatives of a slab take half of the L2 cache, so that they stay there; or more, where
// blocks had less work than so many chunks each: a block filters window - 1 rows more than it owns.
inline constexpr int kSeparableSlabUnits = 16;
inline constexpr int64_t kMaxSlabBytes = int64_t{256} << 20;
// Shared memory that a block uses beside what its layout says.
inline constexpr int kSeparableStaticShared = 1024;
// Taps of both axes together, in the kernel's parameters.
inline constexpr int kSeparableTapBytes = 3040;

// A block's shared memory: taps, staged rows of each input, the ring of filtered rows, and of
// images each thread's two sums.
struct SeparableLayout {
  int columns = 0;         // of a strip, a power of two
  int column_bits = 0;     // which
  int staged_columns = 0;  // that the window needs
  int staged_pitch = 0;    // in elements: an odd number of vectors
  int ring_rows = 0;       // a multiple of kSeparableOutputs
  int ring_pitch = 0;      // in pixels; odd, so that threads a row apart do not share banks
  int row_taps = 0;        // taps along rows, rounded up to vectors
  int column_taps = 0;
  int shared_bytes = 0;
};

// What a pass keeps in shared memory.
struct SeparableInputs {
  int inputs = 0;
  int ring_maps = kSeparableMaps;
  bool has_sums = false;
};

template <class T>
constexpr SeparableLayout separable_layout(int columns, const SeparableInputs& pass,
                                           int window_columns, int window_rows) {
  constexpr int kVector = kSeparableVector<T>;
  const auto whole = [](int n, int multiple) { return (n + multiple - 1) / multiple * multiple; };
  SeparableLayout layout;
  layout.columns = columns;
  while (1 << layout.column_bits < columns) {
    ++layout.column_bits;
  }
  layout.staged_columns = whole(columns + window_columns - 1, kVector);
  // A filter reads up to a vector beyond what it needs.
  layout.staged_pitch = (layout.staged_columns / kVector + 1 | 1) * kVector;
  layout.ring_rows = whole(window_rows - 1 + kSeparableChunkRows<T>, kSeparableOutputs<T>);
  layout.ring_pitch = columns + 1;
  layout.row_taps = whole(window_columns, kVector);
  layout.column_taps = whole(window_rows, kVector);
  const int elements = layout.row_taps + layout.column_taps +
                       pass.inputs * kSeparableChunkRows<T> * layout.staged_pitch +
                       pass.ring_maps * layout.ring_rows * layout.ring_pitch;
  const int sums = pass.has_sums ? 2 * kSeparableThreads : 0;
  layout.shared_bytes = elements * static_cast<int>(sizeof(T)) + sums * 8;
  return layout;
}

// The widest strip that fits; none (0 columns) where no strip does. `window_slices`: 0 of images.
template <class T>
constexpr SeparableLayout choose_separable_layout(const SeparableInputs& pass, int window_slices,
                                                  int window_columns, int window_rows,
                                                  int64_t width, int shared_per_block) {
  const int64_t vectors = ceil_divide(window_columns, kSeparableVector<T>) +
                          ceil_divide(window_rows, kSeparableVector<T>) +
                          ceil_divide(window_slices, kSeparableVector<T>);
  if (16 * vectors > kSeparableTapBytes) {
    return {};
  }
  for (int columns = kSeparableColumns; columns >= kSeparableLeastColumns; columns /= 2) {
    const bool wider_than_needed = columns > kSeparableLeastColumns && columns / 2 >= width;
    const SeparableLayout layout = separable_layout<T>(columns, pass, window_columns, window_rows);
    if (!wider_than_needed && layout.shared_bytes <= shared_per_block - kSeparableStaticShared) {
      return layout;
    }
  }
  return {};
}
// A window that python/fused_ssim/_route.py sends here, on the GPU with least shared memory (7.5).
inline constexpr int kSeparableEverywhere = 65;
template <class T>
inline constexpr bool kFitsEverywhere =
    choose_separable_layout<T>({kMaskedMaps, kMaskedMaps, true}, kSeparableEverywhere,
                               kSeparableEverywhere, kSeparableEverywhere, 1 << 20, 64 * 1024)
        .columns > 0;
static_assert(kFitsEverywhere<float> && kFitsEverywhere<double>, "as that file says");

// Rows and columns of an image.
struct SeparableRange {
  int64_t top = 0;
  int64_t left = 0;
  int64_t rows = 0;
  int64_t columns = 0;
};

// Of a volume slices take the place of planes: "plane" and "channel" count them, from the volume's
// first. They are filtered along depth beforehand, and so are their partial derivatives, which wait
// for that in a ring.
template <class T>
struct SeparableVolume {
  // [slice_count, kSeparableMaps, image.rows, pitch]: s, d, s^2, d^2 filtered along depth, or those
  // of a normalized mask, kMaskedMaps; of images null
  T* maps = nullptr;
  int64_t pitch = 0;
  T* ring = nullptr;  // [ring_slices] of partials_plane each, value slice i at i % ring_slices
  int64_t ring_slices = 1;
  int64_t slices = 1;
  int64_t value_front = 0;  // the first slice that has a value
  int64_t value_slices = 1;
  int64_t first_slice = 0;  // of this launch
  int64_t slice_count = 0;
  int window = 1;
  int taps = 0;  // where they begin in SeparableParams::taps
};

template <class T>
struct SeparableParams {
  InputImage img1;
  InputImage img2;
  OutputImage grad1;
  OutputImage grad2;
  InputImage map_gradient;
  InputImage mask;
  Divisors<T> divisors;
  const T* own_stabilizers = nullptr;  // [batch, 2]: C1 and C2 of each image
  // What makes these `stabilizers`; 0 where the one of all images holds.
  T stabilizer_scales[2] = {};
  T* map = nullptr;  // [planes, value.rows, value.columns], planes map_plane apart
  int64_t map_plane = 0;
  // [planes from first_plane on, blocks of columns, rows, maps, columns of a block], of the pixels
  // that have a value. Rows go round: that of the image at partials_top is the first, and again
  // that `partials_rows` further down.
  T* partials = nullptr;
  int64_t partials_top = 0;
  int64_t partials_rows = 0;
  int partials_block = 0;  // strides in elements
  int64_t partials_plane = 0;
  SeparableRange image;
  SeparableRange value;   // the pixels that have a value
  SeparableRange source;  // what is filtered, zeros beyond
  SeparableRange own;     // what is written
  int64_t first_plane = 0;
  int64_t channels = 1;
  int64_t strips_left = 0;  // column of the image where strips begin
  int64_t strips_per_plane = 1;
  int64_t chunks_per_strip = 1;
  int window_columns = 1;
  int window_rows = 1;
  SeparableLayout layout;
  bool quads1 = false;  // four columns of img1 can be loaded at once, from a multiple of 4 on
  bool quads2 = false;
  bool mask_quads = false;
  bool mask_is_normalized = false;
  bool merges_variances = false;  // also where it is, and else as if under a mask of ones
  DoubledStabilizers<T> stabilizers = {};
  // With a mask, what is added to the amount by which each statistic differs from 1.
  T statistic_offset = T(0);
  double statistic_weight = 1.0;  // in the value
  double l1_weight = 0.0;
  double l2_weight = 0.0;
  T statistic_factor = T(0);  // in the gradient (GradientFactors)
  T l1_factor = T(0);
  T l2_factor = T(0);
  ReductionPlan sums[2];  // value and mse; the first has the units of both
  // A value of several launches: what those before have added up (null: nothing), and whether more
  // follow. Then the launch's value is a double, for the next.
  const double* carried[2] = {};
  bool carries = false;
  SeparableVolume<T> volume;
  T taps[kSeparableTapBytes / sizeof(T)] = {};  // along rows, down columns, of a volume along depth
};
static_assert(sizeof(SeparableParams<float>) <= 4096 && sizeof(SeparableParams<double>) <= 4096,
              "kernel parameters");

// Sums and map of the pixels in p.own, and the partial derivatives for the gradients of `images`
// images (0 to 2).
template <class T>
cudaError_t launch_separable_moments(const SeparableParams<T>& params, int images, int blocks,
                                     const DeviceFacts& device, cudaStream_t stream);
// The same where p.merges_variances.
template <class T>
cudaError_t launch_masked_moments(const SeparableParams<T>& params, int images, int blocks,
                                  const DeviceFacts& device, cudaStream_t stream);
// The gradients of `images` images (1 or 2) in p.own; grad1 is that of one.
template <class T>
cudaError_t launch_separable_gradient(const SeparableParams<T>& params, int images, int blocks,
                                      const DeviceFacts& device, cudaStream_t stream);

// The slices [first_slice, first_slice + slice_count) of a volume, filtered along depth: into
// volume.maps from pixels, and into p.partials from the ring.
template <class T>
cudaError_t launch_depth_moments(const SeparableParams<T>& params, const DeviceFacts& device,
                                 cudaStream_t stream);
template <class T>
cudaError_t launch_depth_partials(const SeparableParams<T>& params, const DeviceFacts& device,
                                  cudaStream_t stream);

// Whether there is room for a strip of the problem's windows.
bool separable_serves(const Problem& problem, const Request& request, const DeviceFacts& device);
// Of the partial derivatives that are in memory at once.
int64_t separable_scratch_bytes(const Problem& problem, const Request& request,
                                const DeviceFacts& device);
// The kernels for every window and type: one launch, or two for each slab where gradients are
// wanted. Launches of a stream are ordered: those that share a value add to it one after the other.
cudaError_t run_separable(const Problem& problem, const Request& request, const DeviceFacts& device,
                          void* workspace, cudaStream_t stream);

}  // namespace fused_ssim::cuda
