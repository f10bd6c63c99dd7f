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
#include <string.h>

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
  FUSED_SSIM_INTERNAL_ERROR = 5,
  FUSED_SSIM_NOT_SERVED = 6  ///< valid, but these kernels do not compute it (yet)
};

/// Types of pixels. Sums are float64 where one of the images is, else float32: the "accumulation type"
/// below.
enum {
  FUSED_SSIM_UINT8 = 0,  ///< has no gradient; stands for the number divided by `uint8_divisor`
  FUSED_SSIM_FLOAT16 = 1,
  FUSED_SSIM_BFLOAT16 = 2,
  FUSED_SSIM_FLOAT32 = 3,
  FUSED_SSIM_FLOAT64 = 4
};

/// What lies beyond the border.
enum {
  FUSED_SSIM_SAME = 0,  ///< zeros: a value for every pixel
  FUSED_SSIM_VALID = 1  ///< whole windows only: half a window fewer pixels at each border
};

/// Which number a pixel gets.
enum {
  FUSED_SSIM_STATISTIC_SSIM = 0,      ///< luminance times contrast
  FUSED_SSIM_STATISTIC_CONTRAST = 1,  ///< contrast times structure
  FUSED_SSIM_STATISTIC_LUMINANCE = 2
};

/// What values are reduced to.
enum {
  FUSED_SSIM_MEAN = 0,    ///< one number
  FUSED_SSIM_SUM = 1,     ///< one number
  FUSED_SSIM_IMAGE = 2,   ///< [batch]: the mean of each image
  FUSED_SSIM_CHANNEL = 3  ///< [batch, channels]: the mean of each plane
};

/// What a mask does; only where FusedSsimProblem::mask is set. In both modes pixels count with their
/// number m of the mask, and those with m = 0 not at all, not even as NaN.
enum {
  FUSED_SSIM_MASK_WEIGHTED = 0,   ///< weights of sums and means over the plain map
  FUSED_SSIM_MASK_NORMALIZED = 1  ///< in windows, too: a mean is E[m x] / E[m], where pixels beyond
                                  ///< the border have m = 1 and are 0; over nothing S is 1
};

/// How an axis of odd size is halved.
enum {
  FUSED_SSIM_ODD_PAD = 0,  ///< a zero in front, which counts in the mean: (size + 1) / 2
  FUSED_SSIM_ODD_CROP = 1  ///< without its last pixel: size / 2
};

/// What a mean m with exponent w has for a factor of MS-SSIM.
enum {
  FUSED_SSIM_NEGATIVE_RELU = 0,   ///< max(m, 0)^w, with derivative 0 where m <= 0
  FUSED_SSIM_NEGATIVE_SMOOTH = 1  ///< below t = 0.01: t^w / (1 + w (t - m) / t)
};

/// The axes of images, in the order of sizes and strides. Of 2D images the depth is 1, of 1D signals
/// the height, too.
enum {
  FUSED_SSIM_AXIS_BATCH = 0,
  FUSED_SSIM_AXIS_CHANNEL = 1,
  FUSED_SSIM_AXIS_DEPTH = 2,
  FUSED_SSIM_AXIS_ROW = 3,
  FUSED_SSIM_AXIS_COLUMN = 4,
  FUSED_SSIM_AXES = 5
};

/// Images [batch, channels, depth, height, width] in memory. Strides are in elements, in any order
/// (planar, interleaved); of images that are only read they may be 0 (one image for a whole batch) or
/// negative (rows from the bottom up), of those that are written no two pixels may share memory.
typedef struct FusedSsimImage {
  void* data;  ///< null: no image
  int64_t strides[FUSED_SSIM_AXES];
  int32_t dtype;  ///< FUSED_SSIM_FLOAT32, ...
} FusedSsimImage;

/// The window along one axis, applied as correlation.
typedef struct FusedSsimWindow {
  const double*
      taps;      ///< [size] in host memory, summing to 1; null for 1 tap, and for the standard 11
  int32_t size;  ///< odd; 1: not filtered along this axis
} FusedSsimWindow;

/// Two images and the definition of SSIM on them. Start from fused_ssim_problem().
typedef struct FusedSsimProblem {
  int64_t struct_size;
  int64_t sizes[FUSED_SSIM_AXES];
  FusedSsimImage img1;
  FusedSsimImage img2;
  FusedSsimWindow windows[3];  ///< along depth, height, width
  double c1;                   ///< (0.01 * data range)^2, as a rule
  double c2;  ///< (0.03 * data range)^2; over N / (N - 1) for sample covariance, where
              ///< N is the product of the windows' sizes
  const void* stabilizers;  ///< [batch, 2], accumulation type: C1 and C2 of each image; or null
  int32_t padding;          ///< FUSED_SSIM_SAME or FUSED_SSIM_VALID
  int32_t statistic;        ///< FUSED_SSIM_STATISTIC_SSIM, ...
  int32_t uint8_divisor;    ///< 255 or 1
  int32_t mask_mode;        ///< FUSED_SSIM_MASK_WEIGHTED or FUSED_SSIM_MASK_NORMALIZED
  FusedSsimImage mask;      ///< of the images' sizes, in [0, 1] (less, or NaN, is 0), of any dtype;
                            ///< of FUSED_SSIM_UINT8 all that is not 0 is 1. Null: no mask
  const void* mask_sums;  ///< [values], accumulation type: the mask's sum over the map's pixels of
  ///< each value, by fused_ssim_cpu_mask_sums(); null where no mean is asked
  ///< for, nor its gradient. On CUDA it may always be null: then it is computed, too
} FusedSsimProblem;

/// Requests in a row on a CUDA stream, none of which reads or writes what another of them writes: a GPU
/// may begin one before those ahead of it are done. Each asks for something and has a workspace of its own,
/// and nothing that is enqueued behind the first uses the memory of the others, workspaces included.
enum {
  FUSED_SSIM_GROUP_NONE = 0,
  FUSED_SSIM_GROUP_FIRST = 1,
  FUSED_SSIM_GROUP_NEXT = 2  ///< behind a first, or another next
};

/// What to compute; null pointers are not written. Start from fused_ssim_request().
///
/// With f(p) = statistic_weight * S(p) + l1_weight * |x(p) - y(p)| + l2_weight * (x(p) - y(p))^2 at
/// each pixel p that has a value, where S is the problem's statistic, x and y are the images:
///
///     value[i] = offset + mean or sum of f over the pixels of value i
///     mse[i]   = mean or sum of (x(p) - y(p))^2 over the same
///     map[p]   = S(p)
///     grad1    = d(value)/d(img1); with map_gradient g: d(sum over p of g(p) f(p)) / d(img1)
///     grad2    = the same for img2
///
/// With a mask sums are over m(p) f(p), and means their quotients by mask_sums[i]; over nothing the
/// mean of S is 1 and all else is 0. map[p] is 1 where m(p) = 0, elsewhere S(p); map_gradient's sum is
/// over g(p) f(p) of the pixels where m(p) is not 0.
typedef struct FusedSsimRequest {
  int64_t struct_size;
  int32_t reduction;        ///< FUSED_SSIM_MEAN, ...
  int32_t gradient_of_sum;  ///< 1: gradients are those of the sum also where `value` is a mean, as
                            ///< float16 needs, whose numbers are too coarse for a millionth
  double statistic_weight;  ///< 1
  double l1_weight;         ///< 0
  double l2_weight;         ///< 0
  double offset;            ///< 0
  void* value;              ///< [1], [batch] or [batch, channels], accumulation type
  void* mse;                ///< likewise
  void* map;             ///< [batch, channels, map sizes], contiguous, accumulation type; the sizes
                         ///< are those of fused_ssim_map_sizes()
  FusedSsimImage grad1;  ///< of the images' sizes, in the dtype of img1
  FusedSsimImage grad2;  ///< of the images' sizes, in the dtype of img2
  FusedSsimImage map_gradient;  ///< of the map's sizes, accumulation type
  int32_t group;                ///< FUSED_SSIM_GROUP_NONE, ...; the CPU does not ask
} FusedSsimRequest;

/// The chain rule's last step: out = unit * (factor * upstream[value that the plane belongs to]).
/// Start from fused_ssim_scale_request().
typedef struct FusedSsimScaleRequest {
  int64_t struct_size;
  int64_t sizes[FUSED_SSIM_AXES];
  int32_t reduction;     ///< which planes share a number of `upstream`
  FusedSsimImage unit;   ///< a gradient
  FusedSsimImage out;    ///< the same dtype; may be `unit` itself
  const void* upstream;  ///< [1], [batch] or [batch, channels], accumulation type
  double factor;         ///< 1
} FusedSsimScaleRequest;

/// A scale of MS-SSIM to the next: images of half the size, made of the means of 2 pixels along each
/// spatial axis.
typedef struct FusedSsimHalveRequest {
  int64_t struct_size;
  int64_t sizes[FUSED_SSIM_AXES];  ///< of the images
  int32_t spatial_dims;      ///< 1: the width is halved, 2: the height, too, 3: the depth, too
  int32_t odd_sizes;         ///< FUSED_SSIM_ODD_PAD or FUSED_SSIM_ODD_CROP
  int32_t uint8_divisor;     ///< 255 or 1
  int32_t dtype;             ///< of the halves: FUSED_SSIM_FLOAT32 or FUSED_SSIM_FLOAT64
  FusedSsimImage images[2];  ///< the second may be null
  void* halves[2];           ///< contiguous; sizes by fused_ssim_halved_size()
} FusedSsimHalveRequest;

/// The way back: the gradient of a scale's image,
///
///     out = unit * (factor * upstream[plane] * derivatives[plane]) + adjoint of the halving(coarser)
typedef struct FusedSsimAccumulateRequest {
  int64_t struct_size;
  int64_t sizes[FUSED_SSIM_AXES];  ///< of unit and out
  int32_t spatial_dims;            ///< as in FusedSsimHalveRequest
  int32_t odd_sizes;               ///< likewise
  FusedSsimImage unit;             ///< the gradient of this scale's own value
  FusedSsimImage out;              ///< the same dtype; may be `unit` itself
  const void* upstream;            ///< [batch, channels], accumulation type
  const double* derivatives;       ///< [batch, channels]: one scale's of FusedSsimFactorsRequest
  const void* coarser;  ///< the next scale's `out`, contiguous, accumulation type; null at the last
  double factor;        ///< 1
} FusedSsimAccumulateRequest;

/// The means of all scales to their product: prod over s of factor(means[s], exponents[s]), computed
/// in float64. Finite numbers give finite ones.
typedef struct FusedSsimFactorsRequest {
  int64_t struct_size;
  int64_t scales;
  int64_t planes;
  int32_t dtype;            ///< of means and products: FUSED_SSIM_FLOAT32 or FUSED_SSIM_FLOAT64
  int32_t negative;         ///< FUSED_SSIM_NEGATIVE_RELU or FUSED_SSIM_NEGATIVE_SMOOTH
  const double* exponents;  ///< [scales] in host memory, not negative
  const double*
      divisors;         ///< [scales] in host memory: what the derivatives are divided by, or null
  const void* means;    ///< [scales, planes]
  void* products;       ///< [planes]
  double* derivatives;  ///< [scales, planes]: d(product) / d(mean); or null
} FusedSsimFactorsRequest;

// ---- structures to start from -------------------------------------------------------------------

/// Contiguous float32 planes: [batch, channels, height, width].
static inline FusedSsimImage fused_ssim_planar(const void* data, int64_t channels, int64_t height,
                                               int64_t width) {
  FusedSsimImage image;
  image.data = (void*)data;
  image.strides[FUSED_SSIM_AXIS_BATCH] = channels * height * width;
  image.strides[FUSED_SSIM_AXIS_CHANNEL] = height * width;
  image.strides[FUSED_SSIM_AXIS_DEPTH] = height * width;
  image.strides[FUSED_SSIM_AXIS_ROW] = width;
  image.strides[FUSED_SSIM_AXIS_COLUMN] = 1;
  image.dtype = FUSED_SSIM_FLOAT32;
  return image;
}

/// Contiguous float32 pixels of interleaved channels: [batch, height, width, channels].
static inline FusedSsimImage fused_ssim_interleaved(const void* data, int64_t channels,
                                                    int64_t height, int64_t width) {
  FusedSsimImage image = fused_ssim_planar(data, channels, height, width);
  image.strides[FUSED_SSIM_AXIS_CHANNEL] = 1;
  image.strides[FUSED_SSIM_AXIS_ROW] = channels * width;
  image.strides[FUSED_SSIM_AXIS_COLUMN] = channels;
  return image;
}

/// Memory laid out like `like`, and of its dtype.
static inline FusedSsimImage fused_ssim_output(void* data, FusedSsimImage like) {
  like.data = data;
  return like;
}

/// The standard SSIM of images [batch, channels, height, width] in [0, 1]: 11 taps, sigma 1.5,
/// k1 = 0.01, k2 = 0.03, "same".
static inline FusedSsimProblem fused_ssim_problem(int64_t batch, int64_t channels, int64_t height,
                                                  int64_t width, FusedSsimImage img1,
                                                  FusedSsimImage img2) {
  FusedSsimProblem problem;
  memset(&problem, 0, sizeof(problem));
  problem.struct_size = (int64_t)sizeof(problem);
  problem.sizes[FUSED_SSIM_AXIS_BATCH] = batch;
  problem.sizes[FUSED_SSIM_AXIS_CHANNEL] = channels;
  problem.sizes[FUSED_SSIM_AXIS_DEPTH] = 1;
  problem.sizes[FUSED_SSIM_AXIS_ROW] = height;
  problem.sizes[FUSED_SSIM_AXIS_COLUMN] = width;
  problem.img1 = img1;
  problem.img2 = img2;
  problem.windows[0].size = 1;
  problem.windows[1].size = 11;
  problem.windows[2].size = 11;
  problem.c1 = 0.01 * 0.01;
  problem.c2 = 0.03 * 0.03;
  problem.padding = FUSED_SSIM_SAME;
  problem.statistic = FUSED_SSIM_STATISTIC_SSIM;
  problem.uint8_divisor = 255;
  return problem;
}

/// A request for nothing yet: set `value`, `mse`, `map`, `grad1` or `grad2`.
static inline FusedSsimRequest fused_ssim_request(void) {
  FusedSsimRequest request;
  memset(&request, 0, sizeof(request));
  request.struct_size = (int64_t)sizeof(request);
  request.reduction = FUSED_SSIM_MEAN;
  request.statistic_weight = 1.0;
  return request;
}

/// `unit` times the numbers of `upstream`, in place unless `out` is changed. `like` tells the sizes.
static inline FusedSsimScaleRequest fused_ssim_scale_request(const FusedSsimProblem* like,
                                                             FusedSsimImage unit,
                                                             const void* upstream) {
  FusedSsimScaleRequest request;
  int axis;
  memset(&request, 0, sizeof(request));
  request.struct_size = (int64_t)sizeof(request);
  for (axis = 0; axis < FUSED_SSIM_AXES; ++axis) {
    request.sizes[axis] = like->sizes[axis];
  }
  request.reduction = FUSED_SSIM_MEAN;
  request.unit = unit;
  request.out = unit;
  request.upstream = upstream;
  request.factor = 1.0;
  return request;
}

/// The size of an axis after it is halved.
static inline int64_t fused_ssim_halved_size(int64_t size, int32_t odd_sizes) {
  return (size + (odd_sizes == FUSED_SSIM_ODD_PAD ? 1 : 0)) / 2;
}

// ---- libfused_ssim_kernels ----------------------------------------------------------------------

/// FUSED_SSIM_KERNELS_ABI of the library that is loaded.
FUSED_SSIM_API int32_t fused_ssim_kernels_abi(void);

/// Why the last call on this thread failed that returned anything but FUSED_SSIM_OK: "expected ...,
/// got ...; what to do". Valid until the next call that fails on this thread; never null.
FUSED_SSIM_API const char* fused_ssim_last_error(void);

/// The Gaussian window of `size` taps (odd), summing to 1; 11 taps of sigma 1.5 are the standard.
FUSED_SSIM_API FusedSsimStatus fused_ssim_gaussian_taps(int32_t size, double sigma, double* taps);

/// Checks the problem and tells the sizes of its map, batch and channels included. Reads no image.
FUSED_SSIM_API FusedSsimStatus fused_ssim_map_sizes(const FusedSsimProblem* problem,
                                                    int64_t sizes[FUSED_SSIM_AXES]);

/// How many values a reduction gives: 1, batch, or batch * channels; and how many pixels of the map
/// each is made of (1 for FUSED_SSIM_SUM, which divides by nothing). Either may be null.
FUSED_SSIM_API FusedSsimStatus fused_ssim_reduction(const int64_t map_sizes[FUSED_SSIM_AXES],
                                                    int32_t reduction, int64_t* values,
                                                    int64_t* divisor);

/// Strings live as long as the library; lists are separated by spaces; null means "none".
typedef struct FusedSsimCpuInfo {
  const char* version;           ///< of the library: "0.1.0"
  const char* levels_compiled;   ///< instruction sets: "baseline avx2 avx512"
  const char* levels_supported;  ///< those that this machine can run
  const char* level_active;      ///< the one in use; the environment's FUSED_SSIM_CPU_LEVEL sets it
  const char* level_error;       ///< why FUSED_SSIM_CPU_LEVEL was not followed, or null
  const char* compiler;          ///< that the kernels were built with: "GNU 12.2.0"
} FusedSsimCpuInfo;
FUSED_SSIM_API const FusedSsimCpuInfo* fused_ssim_cpu_info(void);

/// Computes the request on the CPU, on `threads` threads (1: the calling one alone; 0: as many as the
/// processor has). Results are the same bits for any number.
FUSED_SSIM_API FusedSsimStatus fused_ssim_cpu_run(const FusedSsimProblem* problem,
                                                  const FusedSsimRequest* request, int32_t threads);

/// The sums of the problem's mask for `reduction`, FusedSsimProblem::mask_sums, on the calling thread.
FUSED_SSIM_API FusedSsimStatus fused_ssim_cpu_mask_sums(const FusedSsimProblem* problem,
                                                        int32_t reduction, void* sums);

/// The backward multiplication, on the calling thread.
FUSED_SSIM_API FusedSsimStatus fused_ssim_cpu_scale(const FusedSsimScaleRequest* request);

/// The same for rows [begin, end) of batch * channels * depth * height: for a thread pool.
FUSED_SSIM_API FusedSsimStatus fused_ssim_cpu_scale_rows(const FusedSsimScaleRequest* request,
                                                         int64_t begin, int64_t end);

/// Rows [begin, end) of batch * channels * halved depth * halved height of the first half and then
/// of the second.
FUSED_SSIM_API FusedSsimStatus fused_ssim_cpu_halve_rows(const FusedSsimHalveRequest* request,
                                                         int64_t begin, int64_t end);

/// Rows [begin, end) of batch * channels * depth * height.
FUSED_SSIM_API FusedSsimStatus fused_ssim_cpu_accumulate_rows(
    const FusedSsimAccumulateRequest* request, int64_t begin, int64_t end);

FUSED_SSIM_API FusedSsimStatus fused_ssim_cpu_factors(const FusedSsimFactorsRequest* request);

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

/// Tasks that are worth waking a thread for: with no more than these, stay on one.
FUSED_SSIM_API int64_t fused_ssim_cpu_plan_grain(const FusedSsimCpuPlan* plan);

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

/// Bytes of device memory that fused_ssim_cuda_run() needs as scratch: a few kilobytes, with a mask
/// without mask_sums some more (16 bytes a plane where there are many), and where a
/// gradient is wanted of float64 images, or with a window of more than 11 taps or not symmetric,
/// three or four maps of the accumulation type, of as many pixels as keep the GPU busy (some 100 MB
/// on an H200). Of volumes it is four maps, with a gradient 12 to 20, of as many slices, but at least
/// 8. For a gradient under a normalized mask of bytes it may be 4 bytes for each of the mask's pixels, and for
/// 300 columns and 50 rows around them. As a rule at most 256 MB. FUSED_SSIM_NOT_SERVED where it would
/// not run.
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

/// Gives `bytes` of device memory, at least 1, aligned to 256 bytes, that belong to the request until
/// the stream has passed it; null where there are none. An exception of it becomes
/// FUSED_SSIM_INTERNAL_ERROR with its message.
typedef void* (*FusedSsimCudaAllocate)(void* context, int64_t bytes);

/// fused_ssim_cuda_run() that asks allocate(context, bytes) for its workspace, once and only where it
/// needs one: for callers with an allocator, since a request is then checked only once.
FUSED_SSIM_API FusedSsimStatus fused_ssim_cuda_run_allocating(const FusedSsimProblem* problem,
                                                              const FusedSsimRequest* request,
                                                              FusedSsimCudaAllocate allocate,
                                                              void* context,
                                                              struct CUstream_st* stream);

/// The backward multiplication, on `stream`.
FUSED_SSIM_API FusedSsimStatus fused_ssim_cuda_scale(const FusedSsimScaleRequest* request,
                                                     struct CUstream_st* stream);

/// MS-SSIM from scale to scale, on `stream`. Of FusedSsimFactorsRequest, `exponents` and `divisors` are
/// in host memory here, too, and read before the call returns; there are at most 32 scales. Of `count`
/// requests to halve each may read the halves of the one before; some of them then take one pass. Halves
/// of one lie in no memory that another reads or writes but so.
FUSED_SSIM_API FusedSsimStatus fused_ssim_cuda_halve(const FusedSsimHalveRequest* requests,
                                                     int32_t count, struct CUstream_st* stream);
FUSED_SSIM_API FusedSsimStatus fused_ssim_cuda_accumulate(const FusedSsimAccumulateRequest* request,
                                                          struct CUstream_st* stream);
FUSED_SSIM_API FusedSsimStatus fused_ssim_cuda_factors(const FusedSsimFactorsRequest* request,
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
  int64_t grain() const { return fused_ssim_cpu_plan_grain(plan_); }
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
