// What the host code of all schedules makes of a request: images in bytes, room for sums, counters.
#pragma once

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

// Of one row of sums.
int64_t partials_bytes(const Problem& problem, const Request& request, const DeviceFacts& device);

// The next free counter slots for a launch on `stream`, one behind the other.
cudaError_t next_counter_slots(cudaStream_t stream, unsigned count, unsigned* first);

}  // namespace fused_ssim::cuda
