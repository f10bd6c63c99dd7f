// The CPU backend: plan a request, run any range of its tasks on any thread, reduce the sums.
#pragma once

#include <cstdint>

#include "core/problem.h"
#include "cpu/plan.h"

namespace fused_ssim::cpu {

// Bytes of workspace, aligned to kWorkspaceAlignment, that one thread needs for `run_tasks`.
inline constexpr int64_t kWorkspaceAlignment = 128;
int64_t workspace_bytes(const Problem& problem, const Request& request, const Plan& plan);

// Runs the tasks [begin, end). Tasks are independent; each writes its own rows and slots.
void run_tasks(const Problem& problem, const Request& request, const Plan& plan, int64_t begin,
               int64_t end, ChunkSums* slots, unsigned char* workspace);

// Once all tasks ran: adds the slots in their order and writes request.value and request.mse.
void reduce(const Problem& problem, const Request& request, const Plan& plan,
            const ChunkSums* slots);

// The mask's sum over the pixels of each value: Problem::mask_sums.
void mask_sums(const Problem& problem, int32_t reduction, void* sums);

// Rows of all planes and depths, numbered through: [begin, end) of planes * depth * height.
void scale_rows(const ScaleRequest& request, int64_t begin, int64_t end);

// What fused_ssim/kernels.h says of the functions of these names.
void halve_rows(const HalveRequest& request, int64_t begin, int64_t end);
void accumulate_rows(const AccumulateRequest& request, int64_t begin, int64_t end);

}  // namespace fused_ssim::cpu
