/// \file
/// The kernels without torch: plain pointers, sizes and strides in, an error code out.
///
/// For programs that have images but no libtorch. Programs with libtorch include
/// fused_ssim/fused_ssim.h instead. The first part of this file is C99, the second adds C++17 around
/// it (namespace fused_ssim::kernels: exceptions, a plan that frees itself).
///
///     libfused_ssim_kernels       fused_ssim_*, fused_ssim_cpu_*   CMake: fused_ssim::kernels
///     libfused_ssim_cuda_kernels  fused_ssim_cuda_*                CMake: fused_ssim::cuda_kernels
///
/// A computation is a FusedSsimProblem (two images, the definition of SSIM) and a FusedSsimRequest
/// (which results to write, and where). Functions that can fail return FUSED_SSIM_OK or another
/// FusedSsimStatus; fused_ssim_last_error() then says what was expected, what came and what to do.
/// Nothing is printed, no exception leaves a C function, and bad arguments are refused before memory
/// is touched: all that can't be checked is that pointers point to as much memory as they should.
///
/// Binary compatibility: see FUSED_SSIM_KERNELS_ABI.
#pragma once

#include <stdint.h>

#if defined(_WIN32)
#if defined(FUSED_SSIM_BUILDING_KERNELS)
#define FUSED_SSIM_API __declspec(dllexport)
#else
#define FUSED_SSIM_API __declspec(dllimport)
#endif
#else
#define FUSED_SSIM_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/// The version of this interface. Under one number a program compiled with an older header runs with
/// a newer library: functions are only added, and structures grow only at their end, with 0 meaning
/// what was before. `struct_size` tells the library how much of a structure the program knows.
#define FUSED_SSIM_KERNELS_ABI 1

/// What functions return.
typedef int32_t FusedSsimStatus;
enum {
  FUSED_SSIM_OK = 0,
  FUSED_SSIM_INVALID_ARGUMENT = 1,  ///< nothing was read or written
  FUSED_SSIM_OUT_OF_MEMORY = 2,     ///< of the host
  FUSED_SSIM_CUDA_ERROR = 3,        ///< a CUDA call failed; the message holds CUDA's own
  FUSED_SSIM_NO_GPU_CODE = 4,       ///< the GPU's architecture is not in this build
  FUSED_SSIM_INTERNAL_ERROR = 5
};

/// Types of pixels. Sums of float16, bfloat16 and float32 are float32, of float64 they are float64:
/// the "accumulation type" below.
enum {
  FUSED_SSIM_FLOAT16 = 0,
  FUSED_SSIM_BFLOAT16 = 1,
  FUSED_SSIM_FLOAT32 = 2,
  FUSED_SSIM_FLOAT64 = 3
};

/// What lies beyond the border.
enum {
  FUSED_SSIM_SAME = 0,  ///< zeros: a value for every pixel
  FUSED_SSIM_VALID = 1  ///< whole windows only: (window_size - 1) / 2 pixels fewer at each border
};

/// What values are reduced to.
enum {
  FUSED_SSIM_MEAN = 0,    ///< one number
  FUSED_SSIM_SUM = 1,     ///< one number
  FUSED_SSIM_IMAGE = 2,   ///< [batch]: the mean of each image
  FUSED_SSIM_CHANNEL = 3  ///< [batch, channels]: the mean of each plane
};

/// Images [batch, channels, height, width] that are read. Strides are in elements, in any order
/// (planar, interleaved), and may be 0 (one image for a whole batch) or negative (rows from the
/// bottom up).
typedef struct FusedSsimImage {
  const void* data;
  int64_t stride_batch;
  int64_t stride_channel;
  int64_t stride_row;
  int64_t stride_column;
} FusedSsimImage;

/// Images [batch, channels, height, width] that are written. No two pixels may share memory.
typedef struct FusedSsimOutput {
  void* data;
  int64_t stride_batch;
  int64_t stride_channel;
  int64_t stride_row;
  int64_t stride_column;
} FusedSsimOutput;

/// Two images and the definition of SSIM on them. Start from fused_ssim_problem().
typedef struct FusedSsimProblem {
  int64_t struct_size;
  int64_t batch;
  int64_t channels;
  int64_t height;
  int64_t width;
  int32_t dtype;        ///< FUSED_SSIM_FLOAT32, ...: of both images and of the gradients
  int32_t padding;      ///< FUSED_SSIM_SAME or FUSED_SSIM_VALID
  FusedSsimImage img1;  ///< [batch, channels, height, width]
  FusedSsimImage img2;  ///< likewise
  int32_t window_size;  ///< taps of the Gaussian window: odd, 3 to 33; 11 is the fast case
  double sigma;         ///< its standard deviation in pixels
  double c1;            ///< (0.01 * data range)^2, as a rule
  double c2;            ///< (0.03 * data range)^2
} FusedSsimProblem;

/// What to compute; null pointers are not written. Start from fused_ssim_request().
///
/// With f(p) = ssim_weight * SSIM(p) + l1_weight * |img1(p) - img2(p)| at each pixel p that has a
/// value:
///
///     value[i] = offset + mean or sum of f over the pixels of value i
///     map[p]   = SSIM(p)
///     grad1    = d(sum over p of g(p) f(p)) / d(img1), where g = map_gradient, or 1 without one
///     grad2    = the same for img2
///
/// The gradient is that of the sum also where `value` is a mean. For value and gradient of a mean in
/// one go, ask for FUSED_SSIM_SUM and divide the weights by the number of pixels.
typedef struct FusedSsimRequest {
  int64_t struct_size;
  void* value;                  ///< [1], [batch] or [batch, channels], accumulation type
  int32_t reduction;            ///< FUSED_SSIM_MEAN, ...
  double ssim_weight;           ///< 1
  double l1_weight;             ///< 0
  double offset;                ///< 0
  void* map;                    ///< [batch, channels, map height, map width], contiguous,
                                ///< accumulation type; the size is that of fused_ssim_map_size()
  FusedSsimOutput grad1;        ///< [batch, channels, height, width], dtype of the images
  FusedSsimOutput grad2;        ///< likewise
  FusedSsimImage map_gradient;  ///< [batch, channels, map height, map width], accumulation type
} FusedSsimRequest;

/// The chain rule's last step: out = unit * (factor * upstream[value that the plane belongs to]).
/// Start from fused_ssim_scale_request().
typedef struct FusedSsimScaleRequest {
  int64_t struct_size;
  int64_t batch;
  int64_t channels;
  int64_t height;
  int64_t width;
  int32_t dtype;         ///< of `unit` and `out`
  int32_t reduction;     ///< which planes share a number of `upstream`
  FusedSsimImage unit;   ///< [batch, channels, height, width]: a gradient of the sum
  FusedSsimOutput out;   ///< the same shape; may be `unit` itself
  const void* upstream;  ///< [1], [batch] or [batch, channels], accumulation type
  double factor;         ///< 1
} FusedSsimScaleRequest;

// ---- structures to start from -------------------------------------------------------------------

/// Contiguous planes: [batch, channels, height, width].
static inline FusedSsimImage fused_ssim_planar(const void* data, int64_t channels, int64_t height,
                                               int64_t width) {
  FusedSsimImage image;
  image.data = data;
  image.stride_batch = channels * height * width;
  image.stride_channel = height * width;
  image.stride_row = width;
  image.stride_column = 1;
  return image;
}

/// Contiguous pixels of interleaved channels: [batch, height, width, channels].
static inline FusedSsimImage fused_ssim_interleaved(const void* data, int64_t channels,
                                                    int64_t height, int64_t width) {
  FusedSsimImage image;
  image.data = data;
  image.stride_batch = channels * height * width;
  image.stride_channel = 1;
  image.stride_row = channels * width;
  image.stride_column = channels;
  return image;
}

/// Memory laid out like `like`, to be written.
static inline FusedSsimOutput fused_ssim_output(void* data, FusedSsimImage like) {
  FusedSsimOutput output;
  output.data = data;
  output.stride_batch = like.stride_batch;
  output.stride_channel = like.stride_channel;
  output.stride_row = like.stride_row;
  output.stride_column = like.stride_column;
  return output;
}

/// The standard SSIM of float32 images in [0, 1]: 11 taps, sigma 1.5, k1 = 0.01, k2 = 0.03, "same".
static inline FusedSsimProblem fused_ssim_problem(int64_t batch, int64_t channels, int64_t height,
                                                  int64_t width, FusedSsimImage img1,
                                                  FusedSsimImage img2) {
  FusedSsimProblem problem;
  problem.struct_size = (int64_t)sizeof(problem);
  problem.batch = batch;
  problem.channels = channels;
  problem.height = height;
  problem.width = width;
  problem.dtype = FUSED_SSIM_FLOAT32;
  problem.padding = FUSED_SSIM_SAME;
  problem.img1 = img1;
  problem.img2 = img2;
  problem.window_size = 11;
  problem.sigma = 1.5;
  problem.c1 = 0.01 * 0.01;
  problem.c2 = 0.03 * 0.03;
  return problem;
}

/// A request for nothing yet: set `value`, `map`, `grad1` or `grad2`.
static inline FusedSsimRequest fused_ssim_request(void) {
  const FusedSsimOutput no_output = {0, 0, 0, 0, 0};
  const FusedSsimImage no_image = {0, 0, 0, 0, 0};
  FusedSsimRequest request;
  request.struct_size = (int64_t)sizeof(request);
  request.value = 0;
  request.reduction = FUSED_SSIM_MEAN;
  request.ssim_weight = 1.0;
  request.l1_weight = 0.0;
  request.offset = 0.0;
  request.map = 0;
  request.grad1 = no_output;
  request.grad2 = no_output;
  request.map_gradient = no_image;
  return request;
}

/// `unit` times the numbers of `upstream`, in place unless `out` is changed.
static inline FusedSsimScaleRequest fused_ssim_scale_request(int64_t batch, int64_t channels,
                                                             int64_t height, int64_t width,
                                                             FusedSsimOutput unit,
                                                             const void* upstream) {
  FusedSsimScaleRequest request;
  request.struct_size = (int64_t)sizeof(request);
  request.batch = batch;
  request.channels = channels;
  request.height = height;
  request.width = width;
  request.dtype = FUSED_SSIM_FLOAT32;
  request.reduction = FUSED_SSIM_MEAN;
  request.unit.data = unit.data;
  request.unit.stride_batch = unit.stride_batch;
  request.unit.stride_channel = unit.stride_channel;
  request.unit.stride_row = unit.stride_row;
  request.unit.stride_column = unit.stride_column;
  request.out = unit;
  request.upstream = upstream;
  request.factor = 1.0;
  return request;
}

// ---- libfused_ssim_kernels ----------------------------------------------------------------------

/// FUSED_SSIM_KERNELS_ABI of the library that is loaded.
FUSED_SSIM_API int32_t fused_ssim_kernels_abi(void);

/// Why the last call on this thread failed that returned anything but FUSED_SSIM_OK: "expected ...,
/// got ...; what to do". Valid until the next call that fails on this thread; never null.
FUSED_SSIM_API const char* fused_ssim_last_error(void);

/// Checks the problem and tells the size of its map. Reads neither image.
FUSED_SSIM_API FusedSsimStatus fused_ssim_map_size(const FusedSsimProblem* problem, int64_t* height,
                                                   int64_t* width);

/// How many values a reduction gives: 1, batch, or batch * channels.
FUSED_SSIM_API FusedSsimStatus fused_ssim_value_count(int64_t batch, int64_t channels,
                                                      int32_t reduction, int64_t* count);

/// Strings live as long as the library; lists are separated by spaces; null means "none".
typedef struct FusedSsimCpuInfo {
  const char* version;           ///< of the library: "0.1.0"
  const char* levels_compiled;   ///< instruction sets: "baseline avx2 avx512"
  const char* levels_supported;  ///< those that this machine can run
  const char* level_active;      ///< the one in use; the environment's FUSED_SSIM_CPU_LEVEL sets it
  const char* level_error;       ///< why FUSED_SSIM_CPU_LEVEL was not followed, or null
} FusedSsimCpuInfo;
FUSED_SSIM_API const FusedSsimCpuInfo* fused_ssim_cpu_info(void);

/// Computes the request on the CPU, on `threads` threads (1: the calling one alone; 0: as many as the
/// processor has). Results are the same bits for any number.
FUSED_SSIM_API FusedSsimStatus fused_ssim_cpu_run(const FusedSsimProblem* problem,
                                                  const FusedSsimRequest* request, int32_t threads);

/// The backward multiplication, on the calling thread.
FUSED_SSIM_API FusedSsimStatus fused_ssim_cpu_scale(const FusedSsimScaleRequest* request);

/// The same for rows [begin, end) of batch * channels * height: for a thread pool.
FUSED_SSIM_API FusedSsimStatus fused_ssim_cpu_scale_rows(const FusedSsimScaleRequest* request,
                                                         int64_t begin, int64_t end);

/// A request cut into tasks for a thread pool of one's own:
///
///     FusedSsimCpuPlan* plan;
///     fused_ssim_cpu_plan_create(&problem, &request, threads, &plan);
///     n = fused_ssim_cpu_plan_tasks(plan);
///     ... on any thread, every task in 0 .. n once: fused_ssim_cpu_plan_run(plan, i, i + 1, work);
///     ... when all have returned: fused_ssim_cpu_plan_finish(plan);
///     fused_ssim_cpu_plan_destroy(plan);
typedef struct FusedSsimCpuPlan FusedSsimCpuPlan;

/// `threads` is how many will share the tasks: at least 1.
FUSED_SSIM_API FusedSsimStatus fused_ssim_cpu_plan_create(const FusedSsimProblem* problem,
                                                          const FusedSsimRequest* request,
                                                          int32_t threads, FusedSsimCpuPlan** plan);
FUSED_SSIM_API int64_t fused_ssim_cpu_plan_tasks(const FusedSsimCpuPlan* plan);

/// Bytes of scratch memory that each call under way at a time needs, aligned to
/// FUSED_SSIM_CPU_ALIGNMENT bytes.
FUSED_SSIM_API int64_t fused_ssim_cpu_plan_workspace_bytes(const FusedSsimCpuPlan* plan);
#define FUSED_SSIM_CPU_ALIGNMENT 128

/// Runs tasks [begin, end).
FUSED_SSIM_API FusedSsimStatus fused_ssim_cpu_plan_run(FusedSsimCpuPlan* plan, int64_t begin,
                                                       int64_t end, void* workspace);

/// Adds up what the tasks left and writes `value`.
FUSED_SSIM_API FusedSsimStatus fused_ssim_cpu_plan_finish(FusedSsimCpuPlan* plan);

/// Null is allowed.
FUSED_SSIM_API void fused_ssim_cpu_plan_destroy(FusedSsimCpuPlan* plan);

// ---- libfused_ssim_cuda_kernels -----------------------------------------------------------------
// All pointers in problem and request are device pointers of the current device.

/// The tag of cudaStream_t: streams can be passed as they are, and no CUDA header is needed here.
struct CUstream_st;

FUSED_SSIM_API int32_t fused_ssim_cuda_kernels_abi(void);

/// As fused_ssim_last_error(), for the functions below.
FUSED_SSIM_API const char* fused_ssim_cuda_last_error(void);

typedef struct FusedSsimCudaInfo {
  const char* version;        ///< of the library
  const char* toolkit;        ///< that it was built with: "13.0.88"
  const char* architectures;  ///< binary code and PTX: "sm_75 sm_90 compute_90"
} FusedSsimCudaInfo;
/// Asks no GPU.
FUSED_SSIM_API const FusedSsimCudaInfo* fused_ssim_cuda_info(void);

/// Bytes of device memory that fused_ssim_cuda_run() needs as scratch: a few kilobytes, and four maps
/// of the accumulation type where a gradient is wanted of float64 images or with another window than
/// 11 taps of sigma 1.5.
FUSED_SSIM_API FusedSsimStatus fused_ssim_cuda_workspace_bytes(const FusedSsimProblem* problem,
                                                               const FusedSsimRequest* request,
                                                               int64_t* bytes);

/// Enqueues the request on `stream` and returns; no allocation and no synchronisation, so that it can
/// be captured in a CUDA graph. `workspace` is aligned to 256 bytes (cudaMalloc is), and belongs to
/// the request until the stream has passed it.
FUSED_SSIM_API FusedSsimStatus fused_ssim_cuda_run(const FusedSsimProblem* problem,
                                                   const FusedSsimRequest* request, void* workspace,
                                                   int64_t workspace_bytes,
                                                   struct CUstream_st* stream);

/// The backward multiplication, on `stream`.
FUSED_SSIM_API FusedSsimStatus fused_ssim_cuda_scale(const FusedSsimScaleRequest* request,
                                                     struct CUstream_st* stream);

#ifdef __cplusplus
}  // extern "C"

#include <stdexcept>
#include <string>
#include <utility>

/// The same with exceptions.
namespace fused_ssim::kernels {

/// What a failed call throws; `what()` is its message.
class Error : public std::runtime_error {
 public:
  Error(FusedSsimStatus status, const char* message)
      : std::runtime_error(std::string("fused_ssim: ") + message), status_(status) {}
  FusedSsimStatus status() const { return status_; }

 private:
  FusedSsimStatus status_;
};

inline void check(FusedSsimStatus status) {
  if (status != FUSED_SSIM_OK) {
    throw Error(status, fused_ssim_last_error());
  }
}
inline void check_cuda(FusedSsimStatus status) {
  if (status != FUSED_SSIM_OK) {
    throw Error(status, fused_ssim_cuda_last_error());
  }
}

/// Computes the request on the CPU; 0 threads are as many as the processor has.
inline void run(const FusedSsimProblem& problem, const FusedSsimRequest& request,
                int32_t threads = 0) {
  check(fused_ssim_cpu_run(&problem, &request, threads));
}

/// A FusedSsimCpuPlan that frees itself.
class Plan {
 public:
  Plan(const FusedSsimProblem& problem, const FusedSsimRequest& request, int32_t threads) {
    check(fused_ssim_cpu_plan_create(&problem, &request, threads, &plan_));
  }
  Plan(Plan&& other) noexcept : plan_(std::exchange(other.plan_, nullptr)) {}
  Plan& operator=(Plan&& other) noexcept {
    std::swap(plan_, other.plan_);
    return *this;
  }
  ~Plan() { fused_ssim_cpu_plan_destroy(plan_); }

  int64_t tasks() const { return fused_ssim_cpu_plan_tasks(plan_); }
  int64_t workspace_bytes() const { return fused_ssim_cpu_plan_workspace_bytes(plan_); }
  void run(int64_t begin, int64_t end, void* workspace) {
    check(fused_ssim_cpu_plan_run(plan_, begin, end, workspace));
  }
  void finish() { check(fused_ssim_cpu_plan_finish(plan_)); }

 private:
  FusedSsimCpuPlan* plan_ = nullptr;
};

}  // namespace fused_ssim::kernels
#endif
