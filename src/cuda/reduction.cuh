// Sums in a fixed order, bit for bit the same in every run: threads of a block, then blocks.
#pragma once

#include "cuda/kernels.h"

namespace fused_ssim::cuda {

static __device__ unsigned finished_blocks[2 * kCounterSlots];

// The units of block `block`: [unit_begin(block), unit_begin(block + 1)), which is units * block / blocks
// by a division of 32 bits.
__device__ __forceinline__ int64_t unit_begin(const ReductionPlan& plan, unsigned block) {
  return block * plan.units_per_block + block * plan.units_left / plan.sharing_blocks;
}

// The block that works on `unit`.
__device__ __forceinline__ int64_t block_of_unit(const ReductionPlan& plan, int64_t unit) {
  return ((unit + 1) * gridDim.x - 1) / plan.total_units;
}

__device__ __forceinline__ double warp_sum(double sum) {
#pragma unroll
  for (int distance = 16; distance > 0; distance >>= 1) {
    sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  }
  return sum;
}

// The sum over the block's threads, in thread 0. Every thread of the block calls it.
template <int kThreads>
__device__ __forceinline__ double block_sum(double sum) {
  __shared__ double warp_sums[kThreads / 32];
  sum = warp_sum(sum);
  __syncthreads();  // the previous use of warp_sums is over
  if (threadIdx.x % 32 == 0) {
    warp_sums[threadIdx.x / 32] = sum;
  }
  __syncthreads();
  double total = 0.0;
  if (threadIdx.x == 0) {
#pragma unroll
    for (int i = 0; i < kThreads / 32; ++i) {
      total += warp_sums[i];
    }
  }
  return total;
}

template <int kThreads>
__device__ __forceinline__ void store_partial(const ReductionPlan& plan, int64_t value,
                                              double thread_sum) {
  const double total = block_sum<kThreads>(thread_sum);
  if (threadIdx.x == 0) {
    plan.partials[value + blockIdx.x] = total;
  }
}

template <class T>
__device__ __forceinline__ void write_value(const ReductionPlan& plan, int64_t value, double sum) {
  static_cast<T*>(plan.value)[value] = static_cast<T>(plan.offset + plan.factor * sum);
}

// Called by every thread of every block after its partials: the last block writes the values.
template <int kThreads, class T>
__device__ __forceinline__ void finish_reduction(const ReductionPlan& plan) {
  __shared__ bool is_last;
  if (threadIdx.x == 0) {
    __threadfence();
    const unsigned before = atomicInc(&finished_blocks[plan.counter_slot], gridDim.x - 1);
    is_last = before == gridDim.x - 1;
  }
  __syncthreads();
  if (!is_last) {
    return;
  }
  __threadfence();
  const int64_t blocks = gridDim.x;
  const auto first_partial = [&](int64_t value) {
    return value + block_of_unit(plan, value * plan.units_per_value);
  };
  const auto last_partial = [&](int64_t value) {
    return value + block_of_unit(plan, (value + 1) * plan.units_per_value - 1);
  };
  if (plan.values == 1) {
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < blocks; i += kThreads) {
      sum += __ldcg(plan.partials + i);
    }
    sum = block_sum<kThreads>(sum);
    if (threadIdx.x == 0) {
      write_value<T>(plan, 0, sum);
    }
  } else if (blocks > 4 * plan.values) {
    for (int64_t value = threadIdx.x / 32; value < plan.values; value += kThreads / 32) {
      double sum = 0.0;
      for (int64_t i = first_partial(value) + threadIdx.x % 32; i <= last_partial(value); i += 32) {
        sum += __ldcg(plan.partials + i);
      }
      sum = warp_sum(sum);
      if (threadIdx.x % 32 == 0) {
        write_value<T>(plan, value, sum);
      }
    }
  } else {
    for (int64_t value = threadIdx.x; value < plan.values; value += kThreads) {
      double sum = 0.0;
      for (int64_t i = first_partial(value); i <= last_partial(value); ++i) {
        sum += __ldcg(plan.partials + i);
      }
      write_value<T>(plan, value, sum);
    }
  }
}

}  // namespace fused_ssim::cuda
