// Sums in a fixed order, bit for bit the same in every run: threads of a block, then blocks.
#pragma once

#include "cuda/division.cuh"
#include "cuda/kernels.h"
#include "cuda/mask.cuh"
#include "cuda/thread.cuh"

namespace fused_ssim::cuda {

// Of a launch: the blocks that have finished, and where the plan says so their sum (add_to_sum).
static __device__ unsigned long long finished_blocks[2 * kCounterSlots];

// The units of block `block`: [unit_begin(block), unit_begin(block + 1)), which is units * block /
// blocks.
__device__ __forceinline__ int64_t unit_begin(const ReductionPlan& plan, unsigned block) {
  return block * plan.units_per_block +
         quotient(int64_t{block} * plan.units_left, plan.sharing_blocks);
}

// The block that works on `unit`.
__device__ __forceinline__ int64_t block_of_unit(const ReductionPlan& plan, int64_t unit) {
  return quotient((unit + 1) * grid_blocks() - 1, plan.total_units);
}

__device__ __forceinline__ double warp_sum(double sum) {
  reconverge();
#pragma unroll
  for (int distance = 16; distance > 0; distance >>= 1) {
    sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  }
  return sum;
}

// The sums of the block's warps, a lane each, in the first warp. Every thread of the block calls it.
template <int kThreads>
__device__ __forceinline__ double sum_of_warp(double sum) {
  __shared__ double warp_sums[kThreads / 32];
  static_assert(kThreads % 32 == 0 && kThreads <= 1024, "one lane a warp");
  __syncthreads();  // the previous use of warp_sums is over
  sum = warp_sum(sum);
  if (lane_index() == 0) {
    warp_sums[threadIdx.x / 32] = sum;
  }
  __syncthreads();
  return threadIdx.x < kThreads / 32 ? warp_sums[threadIdx.x] : 0.0;
}
// The sum over the block's threads, there.
template <int kThreads>
__device__ __forceinline__ double block_sum(double sum) {
  return warp_sum(sum_of_warp<kThreads>(sum));
}

// Those of ReductionPlan::mse follow.
__device__ __forceinline__ double* mse_partials(const ReductionPlan& plan) {
  return plan.partials + plan.values + grid_blocks();
}

template <int kThreads>
__device__ __forceinline__ void store_partial(double* partials, int64_t value, double thread_sum) {
  const double total = block_sum<kThreads>(thread_sum);
  if (threadIdx.x == 0) {
    partials[value + blockIdx.x] = total;
  }
}
// Where the threads of the upper half of the block have sums of squares, for the mean squared error.
template <int kThreads>
__device__ __forceinline__ void store_partials_apart(const ReductionPlan& plan, int64_t value,
                                                     double thread_sum) {
  const double of_warp = sum_of_warp<kThreads>(thread_sum);
  if (threadIdx.x < 32) {
    const bool is_lower = threadIdx.x < kThreads / 64;
    const double lower = warp_sum(is_lower ? of_warp : 0.0);
    const double upper = warp_sum(is_lower ? 0.0 : of_warp);
    if (threadIdx.x == 0) {
      plan.partials[value + blockIdx.x] = lower;
      mse_partials(plan)[value + blockIdx.x] = upper;
    }
  }
}

// kDivides: by ReductionPlan::divisors.
template <class T, bool kDivides>
__device__ __forceinline__ double divided(const ReductionPlan& plan, int64_t value, double sum) {
  if constexpr (kDivides) {
    if (plan.divisors != nullptr) {
      return sum / load_divisor(static_cast<const T*>(plan.divisors), value);
    }
  }
  return sum;
}
template <class T, bool kDivides>
__device__ __forceinline__ T value_of(const ReductionPlan& plan, int64_t value, double sum) {
  return static_cast<T>(plan.offset + plan.factor * divided<T, kDivides>(plan, value, sum));
}

// The sum of partials[0 .. count) whatever their order, by one thread: as multiples of 2^-50 of the
// largest.
inline __device__ double sum_of_large(const double* partials, unsigned count) {
  double largest = 0.0;
  double plain_sum = 0.0;
#pragma unroll 1
  for (unsigned i = 0; i < count; ++i) {
    const double partial = __ldcg(partials + i);
    largest = fmax(largest, fabs(partial));
    plain_sum += partial;
  }
  if (!isfinite(plain_sum) || largest == 0.0) {
    return plain_sum;  // the same in any order
  }
  const int exponent = 50 - ilogb(largest);
  long long sum = 0;
#pragma unroll 1
  for (unsigned i = 0; i < count; ++i) {
    sum += __double2ll_rn(scalbn(__ldcg(partials + i), exponent));
  }
  return scalbn(static_cast<double>(sum), -exponent);
}

// Instead, where the plan has a fixed point: integers, which have the same sum in any order and
// take less time.

// Of magnitudes up to 2^48, or of 16 up to 2^53.
__device__ __forceinline__ long long warp_sum(long long sum) {
#if __CUDA_ARCH__ >= 800
  constexpr int kLowBits = 27;  // 32 of them fit 32 bits
  const auto low = static_cast<unsigned>(sum) & ((1u << kLowBits) - 1);
  const auto high = static_cast<int>(sum >> kLowBits);
  const long long low_sum = __reduce_add_sync(0xffffffffu, low);
  return static_cast<long long>(__reduce_add_sync(0xffffffffu, high)) * (1 << kLowBits) + low_sum;
#else
#pragma unroll
  for (int distance = 16; distance > 0; distance >>= 1) {
    sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  }
  return sum;
#endif
}

// Sums of a block's warps, in shared memory: multiples of 2^-kFineBits / fixed_point, or kNoInteger
// where that of a thread is too large, or no number.
template <int kWarps>
struct WarpSums {
  static_assert(kWarps <= 16, "as warp_sum() says");
  static constexpr int kFineBits = 10;
  static constexpr double kFine = 1 << kFineBits;
  static constexpr double kLargestOfThread = static_cast<double>(1ll << 48);
  static constexpr long long kNoInteger = 1ll << 62;
  long long fine[kWarps];
  double plain[kWarps];  // where there is no integer

  __device__ __forceinline__ void leave(const ReductionPlan& plan, double thread_sum) {
    const double scaled = thread_sum * (kFine * plan.fixed_point);
    const bool fits = fabs(scaled) <= kLargestOfThread;
    long long sum = warp_sum(fits ? __double2ll_rn(scaled) : 0ll);
    if (__any_sync(0xffffffffu, !fits)) {
      sum = kNoInteger;
      const double plain_sum = warp_sum(thread_sum);
      if (lane_index() == 0) {
        plain[threadIdx.x / 32] = plain_sum;
      }
    }
    if (lane_index() == 0) {
      fine[threadIdx.x / 32] = sum;
    }
  }
};

// When all warps of a block have left their sums, one of them adds these to that of the value. The
// word counts blocks in its lowest kCountBits bits; its highest hold the sum. So one atomic
// operation tells the last block all that it has to know. The bits between count the blocks whose
// sum is too large, or no number: those leave it as a partial.
// kOneValue: of the launch, for kernels that have no register to spare.
template <class T, bool kOneValue = false, bool kDivides = false, int kWarps>
__device__ __forceinline__ void add_to_sum(const ReductionPlan& plan,
                                           const WarpSums<kWarps>* shared) {
  using Sums = WarpSums<kWarps>;
  const bool has_sum = lane_index() < kWarps;
  const long long of_warp = has_sum ? shared->fine[lane_index()] : 0ll;
  const long long fine = warp_sum(of_warp);
  const unsigned blocks = kOneValue ? grid_blocks() : plan.blocks_per_value;
  const bool fits = !__any_sync(0xffffffffu, of_warp == Sums::kNoInteger) &&
                    fabs(static_cast<double>(fine)) * blocks <= Sums::kFine * kLargestFixedSum;
  double sum = 0.0;
  if (__builtin_expect(!fits, false)) {
    sum = warp_sum(of_warp == Sums::kNoInteger
                       ? shared->plain[lane_index()]
                       : static_cast<double>(of_warp) * (plan.fixed_unit / Sums::kFine));
  }
  if (lane_index() != 0) {
    return;
  }
  constexpr unsigned kCount = (1u << kCountBits) - 1;
  const unsigned value = kOneValue || plan.values == 1 ? 0u : blockIdx.x / blocks;
  unsigned long long* word = &finished_blocks[plan.counter_slot + value];
  double* large_sums = plan.partials + value * blocks;
  unsigned long long part = 1ull;
  if (__builtin_expect(fits, true)) {
    const long long rounded = (fine + (1 << (Sums::kFineBits - 1))) >> Sums::kFineBits;
    part |= static_cast<unsigned long long>(rounded) << 2 * kCountBits;
  } else {
    const unsigned long long before = atomicAdd(word, 1ull << kCountBits);
    large_sums[before >> kCountBits & kCount] = sum;
    __threadfence();
  }
  const unsigned long long all = atomicAdd(word, part) + part;
  if ((all & kCount) == blocks) {
    *word = 0;
    double whole =
        static_cast<double>(static_cast<long long>(all) >> 2 * kCountBits) * plan.fixed_unit;
    const auto large = static_cast<unsigned>(all >> kCountBits) & kCount;
    if (large != 0) {
      __threadfence();
      whole += sum_of_large(large_sums, large);
    }
    static_cast<T*>(plan.value)[value] = value_of<T, kDivides>(plan, value, whole);
  }
}

// The same by every thread of every block.
template <class T, bool kOneValue = false, bool kDivides = false, int kWarps>
__device__ __forceinline__ void add_to_sum(const ReductionPlan& plan, WarpSums<kWarps>* shared,
                                           double thread_sum) {
  shared->leave(plan, thread_sum);
  __syncthreads();
  if (threadIdx.x < 32) {
    add_to_sum<T, kOneValue, kDivides>(plan, shared);
  }
}

// Called by every thread of every block after its partials: the last block writes the values; as
// they are, in float64, where it `carries` them to the next launch.
template <int kThreads, class T, bool kHasMse = false, bool kDivides = false>
__device__ __forceinline__ void finish_reduction(const ReductionPlan& plan, bool carries = false) {
  __shared__ bool is_last;
  if (threadIdx.x == 0) {
    __threadfence();
    auto* count = reinterpret_cast<unsigned*>(&finished_blocks[plan.counter_slot]);
    is_last = atomicInc(count, grid_blocks() - 1) == grid_blocks() - 1;
  }
  __syncthreads();
  if (!is_last) {
    return;
  }
  __threadfence();
  // A value is added up by the block, by a warp, or by a thread. One loop for all three, since this
  // code stands in every kernel.
  const int64_t blocks = grid_blocks();
  const bool by_block = plan.values == 1;
  const int together = by_block ? kThreads : blocks > 4 * plan.values ? 32 : 1;
  const int lane = static_cast<int>(threadIdx.x) & (together - 1);
  static_assert((kThreads & (kThreads - 1)) == 0, "a power of two");
  const int sums = kHasMse && plan.mse != nullptr ? 2 : 1;
#pragma unroll 1
  for (int i = 0; i < sums; ++i) {
    const double* partials = i == 0 ? plan.partials : mse_partials(plan);
#pragma unroll 1
    for (int64_t value = static_cast<int>(threadIdx.x) / together; value < plan.values;
         value += kThreads / together) {
      int64_t first = 0;
      int64_t end = blocks;
      if (!by_block) {
        first = value + block_of_unit(plan, value * plan.units_per_value);
        end = value + block_of_unit(plan, (value + 1) * plan.units_per_value - 1) + 1;
      }
      double sum = 0.0;
#pragma unroll 4
      for (int64_t part = first + lane; part < end; part += together) {
        sum += __ldcg(partials + part);
      }
      if (by_block) {
        sum = block_sum<kThreads>(sum);
      } else if (together > 1) {
        sum = warp_sum(sum);
      }
      if (lane != 0) {
        continue;
      }
      if (i == 1) {
        static_cast<T*>(plan.mse)[value] = static_cast<T>(plan.mse_factor * sum);
      } else if (carries) {
        static_cast<double*>(plan.value)[value] = sum;
      } else {
        static_cast<T*>(plan.value)[value] = value_of<T, kDivides>(plan, value, sum);
      }
    }
  }
}

}  // namespace fused_ssim::cuda
