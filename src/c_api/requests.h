// Checks the structures of the public C interface and completes them to those of core/problem.h: every
// number is checked here, for torch's operators as for other callers, and nowhere else below them.
//
// These functions throw std::invalid_argument, whose message ends up in fused_ssim_last_error().
#pragma once

#include <string>

#include "core/problem.h"
#include "fused_ssim/kernels.h"

namespace fused_ssim::c_api {

// The problem without a look at the images' memory: for questions about sizes.
Problem sizes_of(const FusedSsimProblem* given);

// The problem, complete. Taps stay where the caller has them.
Problem problem_of(const FusedSsimProblem* given);

// Refuses a request that divides by the mask's sums without them.
void check_mask_sums(const Problem& problem, const Request& request);

// Refuses to compute them without a mask, or a place for them.
void check_place_of_mask_sums(const Problem& problem, const void* sums);

Request request_of(const FusedSsimRequest* given, const Problem& problem);

ScaleRequest scale_request_of(const FusedSsimScaleRequest* given);

HalveRequest halve_request_of(const FusedSsimHalveRequest* given);
AccumulateRequest accumulate_request_of(const FusedSsimAccumulateRequest* given);
FactorsRequest factors_request_of(const FusedSsimFactorsRequest* given);

// For messages: "[1, 3, 256, 256]", and with a depth that is not 1 "[1, 1, 64, 256, 256]".
std::string text_of(const int64_t* sizes);

void check_sizes(const int64_t* sizes);
void check_reduction(int32_t reduction);
void check_window_size(const char* name, int32_t size);
void check_positive(const char* name, double value);

}  // namespace fused_ssim::c_api
