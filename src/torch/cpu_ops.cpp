// The CPU backend behind the operators: workspaces and threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <exception>
#include <memory>
#include <mutex>
#include <new>

#include "fused_ssim/kernels.h"
#include "torch/operators.h"
#include "torch/scales.h"

namespace fused_ssim::torch_ops {
namespace {

struct FreeWorkspace {
  void operator()(unsigned char* workspace) const {
    ::operator delete[](workspace, std::align_val_t(FUSED_SSIM_CPU_ALIGNMENT));
  }
};
using Workspace = std::unique_ptr<unsigned char[], FreeWorkspace>;

Workspace allocate_workspace(int64_t bytes) {
  return Workspace(static_cast<unsigned char*>(::operator new[](
      static_cast<std::size_t>(bytes), std::align_val_t(FUSED_SSIM_CPU_ALIGNMENT))));
}

// torch's parallel_for, out of which an exception comes as it was thrown: not every torch hands on its
// words, and none its type.
template <class Work>
void parallel_for(int64_t tasks, int64_t grain, const Work& work) {
  std::exception_ptr error;
  std::mutex mutex;
  torch::stable::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) {
    try {
      work(begin, end);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      error = std::current_exception();
    }
  });
  if (error) {
    std::rethrow_exception(error);
  }
}

struct CpuBackend {
  static Tensor workspace(const FusedSsimProblem&, const FusedSsimRequest&, const Tensor&) {
    return {};  // each thread has its own
  }
  static void run_in(const Tensor&, const FusedSsimProblem& problem,
                     const FusedSsimRequest& request, const Tensor& like) {
    run(problem, request, like);
  }
  static void run(const FusedSsimProblem& problem, const FusedSsimRequest& request, const Tensor&) {
    kernels::Plan plan(problem, request, static_cast<int32_t>(torch::stable::get_num_threads()));
    parallel_for(plan.tasks(), plan.grain(), [&](int64_t begin, int64_t end) {
      const Workspace workspace = allocate_workspace(plan.workspace_bytes());
      plan.run(begin, end, workspace.get());
    });
    plan.finish();
  }

  static constexpr bool kRunSumsMasks = false;
  static void mask_sums(const FusedSsimProblem& problem, int32_t reduction, void* sums) {
    kernels::check(fused_ssim_cpu_mask_sums(&problem, reduction, sums));
  }

  static void scale(const FusedSsimScaleRequest& request, const Tensor&) {
    for_rows(row_count(request.sizes), request.sizes[FUSED_SSIM_AXIS_COLUMN],
             [&](int64_t begin, int64_t end) {
               kernels::check(fused_ssim_cpu_scale_rows(&request, begin, end));
             });
  }

  static void halve(const std::vector<FusedSsimHalveRequest>& requests, const Tensor&) {
    for (const FusedSsimHalveRequest& request : requests) {
      halve(request);
    }
  }
  static void halve(const FusedSsimHalveRequest& request) {
    int64_t sizes[FUSED_SSIM_AXES];
    for (int axis = 0; axis < FUSED_SSIM_AXES; ++axis) {
      const bool halved = axis >= FUSED_SSIM_AXES - request.spatial_dims;
      sizes[axis] = halved ? fused_ssim_halved_size(request.sizes[axis], request.odd_sizes)
                           : request.sizes[axis];
    }
    // Each row is made of 2 or more that are twice as long.
    for_rows(2 * row_count(sizes), request.sizes[FUSED_SSIM_AXIS_COLUMN] * 2,
             [&](int64_t begin, int64_t end) {
               kernels::check(fused_ssim_cpu_halve_rows(&request, begin, end));
             });
  }

  static void accumulate(const FusedSsimAccumulateRequest& request, const Tensor&) {
    for_rows(row_count(request.sizes), request.sizes[FUSED_SSIM_AXIS_COLUMN],
             [&](int64_t begin, int64_t end) {
               kernels::check(fused_ssim_cpu_accumulate_rows(&request, begin, end));
             });
  }

  static void factors(const FusedSsimFactorsRequest& request, const Tensor&) {
    kernels::check(fused_ssim_cpu_factors(&request));
  }

 private:
  static int64_t row_count(const int64_t* sizes) {
    int64_t rows = 1;
    for (int axis = 0; axis < FUSED_SSIM_AXIS_COLUMN; ++axis) {
      rows *= sizes[axis];
    }
    return rows;
  }

  // work(begin, end) of as many rows as make it worth to wake a thread.
  template <class Work>
  static void for_rows(int64_t rows, int64_t elements_per_row, const Work& work) {
    constexpr int64_t kElementsPerTask = 1 << 16;
    parallel_for(rows, 1 + kElementsPerTask / elements_per_row, work);
  }
};

}  // namespace
}  // namespace fused_ssim::torch_ops

STABLE_TORCH_LIBRARY_IMPL(fused_ssim, CPU, library) {
  fused_ssim::torch_ops::register_operators<fused_ssim::torch_ops::CpuBackend>(library);
  fused_ssim::torch_ops::register_scale_operators<fused_ssim::torch_ops::CpuBackend>(library);
}
