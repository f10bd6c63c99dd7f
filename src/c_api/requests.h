// From the structures of the public C interface to those of the kernels: every argument is checked
// here, for torch's operators as for other callers, and nowhere else below them.
//
// These functions throw std::invalid_argument, whose message ends up in fused_ssim_last_error().
#pragma once

#include "core/problem.h"
#include "fused_ssim/kernels.h"

namespace fused_ssim::c_api {

// The problem, checked, without taps: for questions about sizes.
Problem checked_problem(const FusedSsimProblem* given);

// The problem, checked, as the kernels take it.
Problem problem_of(const FusedSsimProblem* given);

Request request_of(const FusedSsimRequest* given, const Problem& problem);

ScaleRequest scale_request_of(const FusedSsimScaleRequest* given);

Reduction reduction_of(int32_t code);

}  // namespace fused_ssim::c_api
