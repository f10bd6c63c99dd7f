// What the host code of all schedules makes of a request: images in bytes, room for sums, counters.
#pragma once

#include "core/merging.h"
#include "cuda/kernels.h"

namespace fused_ssim::cuda {

constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return ceil_divide(n, multiple) * multiple;
}

template <class Byte>
ByteImage<Byte> bytes_of(const Image& image, int uint8_divisor = 1) {
  const int64_t element = size_of(image.dtype);
  return {static_cast<Byte*>(image.data),
          image.strides[FUSED_SSIM_AXIS_BATCH] * element,
          image.strides[FUSED_SSIM_AXIS_CHANNEL] * element,
          image.strides[FUSED_SSIM_AXIS_ROW] * element,
          image.strides[FUSED_SSIM_AXIS_COLUMN] * element,
          dtype_of(image),
          static_cast<float>(uint8_divisor)};
}

template <class Byte>
bool aligned_for_quads(const ByteImage<Byte>& image, const int64_t* sizes, int64_t element) {
  const int64_t quad = 4 * element;
  const auto divisible = [&](int64_t stride, int axis) {
    return sizes[axis] == 1 || stride % quad == 0;
  };
  return (image.column == element || sizes[FUSED_SSIM_AXIS_COLUMN] == 1) &&
         reinterpret_cast<uintptr_t>(image.data) % static_cast<uintptr_t>(quad) == 0 &&
         divisible(image.row, FUSED_SSIM_AXIS_ROW) &&
         divisible(image.channel, FUSED_SSIM_AXIS_CHANNEL) &&
         divisible(image.batch, FUSED_SSIM_AXIS_BATCH);
}

inline void set_extents(const Problem& problem, ExtentParams* p) {
  p->height = static_cast<int>(image_size(problem, kHeight));
  p->width = static_cast<int>(image_size(problem, kWidth));
  p->value_top = crop(problem, kHeight);
  p->value_bottom = p->height - p->value_top;
  p->value_left = crop(problem, kWidth);
  p->value_right = p->width - p->value_left;
}

// Of narrow windows maps alone: sums average out what single windows are off. Tiles centre eight rows
// and four columns together, of which most windows of three taps do not see the centre.
constexpr bool merges_variances(const Problem& problem, const Request& request) {
  return fused_ssim::merges_variances(
      problem, request.map != nullptr && (has_narrow_window(problem) || has_three_taps(problem)));
}

// Of one row of sums.
int64_t partials_bytes(const Problem& problem, const Request& request, const DeviceFacts& device);

// Whether a value is a mean under a mask: kernels divide its sum by the mask's.
constexpr bool divides_by_mask(const Problem& problem, const Request& request) {
  return has_mask(problem) && request.reduction != FUSED_SSIM_SUM;
}
// What sums, and gradients likewise, are divided by on the host.
constexpr double host_divisor(const Problem& problem, const Request& request) {
  return has_mask(problem) ? 1.0 : static_cast<double>(reduction_divisor(problem, request));
}
constexpr double host_gradient_divisor(const Problem& problem, const Request& request) {
  return has_mask(problem) ? 1.0 : gradient_divisor(problem, request);
}
template <class T>
Divisors<T> gradient_divisors(const Problem& problem, const Request& request) {
  Divisors<T> divisors;
  if (divides_by_mask(problem, request) && !gradient_is_of_sum(request)) {
    const auto channels = static_cast<int>(problem.sizes[FUSED_SSIM_AXIS_CHANNEL]);
    const bool by_channel = request.reduction == FUSED_SSIM_CHANNEL;
    divisors.first = static_cast<const T*>(problem.mask_sums);
    divisors.batch = by_channel ? channels : request.reduction == FUSED_SSIM_IMAGE ? 1 : 0;
    divisors.channel = by_channel ? 1 : 0;
  }
  return divisors;
}
// What makes the C1 and the C2 of an image those of the kernel, of whose units it has `scale`; 0
// where the statistic has another (doubled_stabilizers()).
template <class T>
void set_stabilizer_scales(const Problem& problem, double scale, T* scales) {
  const auto doubled = static_cast<T>(2.0 * scale * scale);
  scales[0] = problem.statistic == FUSED_SSIM_STATISTIC_CONTRAST ? T(0) : doubled;
  scales[1] = problem.statistic == FUSED_SSIM_STATISTIC_LUMINANCE || !has_variance(problem)
                  ? T(0)
                  : doubled;
}

// How many planes of the mask, along an axis or of all, are memory of their own.
constexpr int64_t distinct_mask_planes(const Problem& problem, int axis) {
  return problem.mask.strides[axis] == 0 ? 1 : problem.sizes[axis];
}
constexpr int64_t distinct_mask_planes(const Problem& problem) {
  return distinct_mask_planes(problem, FUSED_SSIM_AXIS_BATCH) *
         distinct_mask_planes(problem, FUSED_SSIM_AXIS_CHANNEL);
}

// The mask's sums, FusedSsimProblem::mask_sums, where the caller has none: the launch ahead of all
// others leaves them at the beginning of its workspace. No bytes: they are not needed.
int64_t mask_sums_bytes(const Problem& problem, const Request& request);
// The mask of an image in bits at `data` (mask.cuh), which the same launch leaves there.
InputImage mask_bits(const Problem& problem, const void* data);
int64_t mask_bits_bytes(const Problem& problem);
// Either place may be null: then that is not wanted.
cudaError_t launch_mask_sums(const Problem& problem, int32_t reduction, const DeviceFacts& device,
                             void* sums, char* bits, cudaStream_t stream);
// What kernels of the kind "normalized" read of a mask of bytes, at `data` once it is computed.
struct MaskMeans {
  InputImage inverse_means;
  InputImage bits;
};
MaskMeans mask_means(const Problem& problem, const void* data);
int64_t mask_means_bytes(const Problem& problem);
// In place of launch_mask_sums().
cudaError_t launch_mask_means(const Problem& problem, int32_t reduction, const DeviceFacts& device,
                              void* sums, void* data, cudaStream_t stream);
// Makes the map of images 1 where the mask is 0.
cudaError_t launch_mask_map(const Problem& problem, float* map, const DeviceFacts& device,
                            cudaStream_t stream);

// The next free counter slots for a launch on `stream`, one behind the other.
cudaError_t next_counter_slots(cudaStream_t stream, unsigned count, unsigned* first);

}  // namespace fused_ssim::cuda
