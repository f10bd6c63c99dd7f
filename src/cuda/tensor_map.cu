// Tensor maps: what the copy engine of Hopper and later must know of an image to load boxes of it.
#include <cuda.h>

#include <algorithm>
#include <climits>
#include <iterator>

#include "cuda/kernels.h"

namespace fused_ssim::cuda {

#if !FUSED_SSIM_KNOWS_TENSOR_MAPS  // kernels load pixels themselves

bool has_tensor_map(const InputImage&, const int64_t*) { return false; }
bool make_tensor_map(const InputImage&, const int64_t*, int, int, TensorMap*) { return false; }

#else

namespace {

static_assert(sizeof(CUtensorMap) == sizeof(TensorMap::words), "one map");

using Encoder = decltype(&cuTensorMapEncodeTiled);

// From the driver at run time: no link against it, so that the library loads where there is none.
Encoder find_encoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                             12000, cudaEnableDefault, &found);
#else
  const cudaError_t error =
      cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
  return error == cudaSuccess && found == cudaDriverEntryPointSuccess
             ? reinterpret_cast<Encoder>(function)
             : nullptr;
}

Encoder encoder() {
  static const Encoder found = find_encoder();
  return found;
}

// Of columns, rows, channels and batches: how many, and bytes from one to the next but for columns.
struct Extents {
  cuuint64_t counts[4];
  cuuint64_t strides[3];

  Extents(const InputImage& image, const int64_t* sizes)
      : counts{static_cast<cuuint64_t>(sizes[FUSED_SSIM_AXIS_COLUMN]),
               static_cast<cuuint64_t>(sizes[FUSED_SSIM_AXIS_ROW]),
               static_cast<cuuint64_t>(image.channel == 0 ? 1 : sizes[FUSED_SSIM_AXIS_CHANNEL]),
               static_cast<cuuint64_t>(image.batch == 0 ? 1 : sizes[FUSED_SSIM_AXIS_BATCH])} {
    const int64_t bytes[3] = {image.row, image.channel, image.batch};
    for (int i = 0; i < 3; ++i) {
      // The stride of a single entry means nothing, and must be valid.
      strides[i] = counts[i + 1] == 1 ? 16 : static_cast<cuuint64_t>(bytes[i]);
    }
  }
};

}  // namespace

bool has_tensor_map(const InputImage& image, const int64_t* sizes) {
  const Extents extents(image, sizes);
  // As the copy engine wants them: 16-bit quads may lie elsewhere, and strides may be negative.
  constexpr uintptr_t kAlignment = 16;
  constexpr cuuint64_t kStrideEnd = cuuint64_t{1} << 40;
  return encoder() != nullptr && reinterpret_cast<uintptr_t>(image.data) % kAlignment == 0 &&
         std::all_of(
             std::begin(extents.strides), std::end(extents.strides),
             [](cuuint64_t bytes) { return bytes % kAlignment == 0 && bytes < kStrideEnd; }) &&
         // Coordinates have 32 bits.
         extents.counts[2] <= INT_MAX && extents.counts[3] <= INT_MAX;
}

bool make_tensor_map(const InputImage& image, const int64_t* sizes, int box_columns, int box_rows,
                     TensorMap* map) {
  if (!has_tensor_map(image, sizes)) {
    return false;
  }
  const Extents extents(image, sizes);
  map->channels = static_cast<int>(extents.counts[2]);
  map->batches = static_cast<int>(extents.counts[3]);
  const cuuint32_t box[4] = {static_cast<cuuint32_t>(box_columns),
                             static_cast<cuuint32_t>(box_rows), 1, 1};
  constexpr cuuint32_t kSteps[4] = {1, 1, 1, 1};
  CUtensorMap encoded;
  const CUtensorMapDataType type =
      image.dtype == DType::kUInt8      ? CU_TENSOR_MAP_DATA_TYPE_UINT8
      : image.dtype == DType::kFloat16  ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
      : image.dtype == DType::kBFloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                        : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  const CUresult result =
      encoder()(&encoded, type, 4, const_cast<char*>(image.data), extents.counts, extents.strides,
                box, kSteps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
                CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  std::copy_n(reinterpret_cast<const uint64_t*>(&encoded), 16, map->words);
  return result == CUDA_SUCCESS;
}

#endif

}  // namespace fused_ssim::cuda
