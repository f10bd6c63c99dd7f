// The CPU backend behind the operators: workspaces and threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <memory>
#include <new>

#include "fused_ssim/kernels.h"
#include "torch/operators.h"

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

struct CpuBackend {
  static void run(const FusedSsimProblem& problem, const FusedSsimRequest& request, const Tensor&) {
    kernels::Plan plan(problem, request, static_cast<int32_t>(torch::stable::get_num_threads()));
    torch::stable::parallel_for(0, plan.tasks(), plan.grain(), [&](int64_t begin, int64_t end) {
      const Workspace workspace = allocate_workspace(plan.workspace_bytes());
      plan.run(begin, end, workspace.get());
    });
    plan.finish();
  }

  static void mask_sums(const FusedSsimProblem& problem, int32_t reduction, void* sums) {
    kernels::check(fused_ssim_cpu_mask_sums(&problem, reduction, sums));
  }

  static void scale(const FusedSsimScaleRequest& request, const Tensor&) {
    // Enough elements for a thread to be worth waking.
    constexpr int64_t kElementsPerTask = 1 << 16;
    int64_t rows = 1;
    for (int axis = 0; axis < FUSED_SSIM_AXIS_COLUMN; ++axis) {
      rows *= request.sizes[axis];
    }
    const int64_t grain = 1 + kElementsPerTask / request.sizes[FUSED_SSIM_AXIS_COLUMN];
    torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
      kernels::check(fused_ssim_cpu_scale_rows(&request, begin, end));
    });
  }
};

}  // namespace
}  // namespace fused_ssim::torch_ops

STABLE_TORCH_LIBRARY_IMPL(fused_ssim, CPU, library) {
  fused_ssim::torch_ops::register_operators<fused_ssim::torch_ops::CpuBackend>(library);
}
