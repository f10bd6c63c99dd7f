// The CPU backend behind the operators: workspaces and threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <memory>
#include <new>
#include <vector>

#include "cpu/dispatch.h"
#include "torch/operators.h"

namespace fused_ssim::torch_ops {
namespace {

struct FreeWorkspace {
  void operator()(unsigned char* workspace) const {
    ::operator delete[](workspace, std::align_val_t(cpu::kWorkspaceAlignment));
  }
};
using Workspace = std::unique_ptr<unsigned char[], FreeWorkspace>;

Workspace allocate_workspace(int64_t bytes) {
  return Workspace(static_cast<unsigned char*>(::operator new[](
      static_cast<std::size_t>(bytes), std::align_val_t(cpu::kWorkspaceAlignment))));
}

struct CpuBackend {
  static void run(const Problem& problem, const Request& request, const Tensor&) {
    const cpu::Plan plan(problem, static_cast<int>(torch::stable::get_num_threads()));
    std::vector<cpu::ChunkSums> slots(static_cast<std::size_t>(plan.slots()));
    const int64_t workspace_bytes = cpu::workspace_bytes(problem, request, plan);
    torch::stable::parallel_for(0, plan.tasks(), 1, [&](int64_t begin, int64_t end) {
      const Workspace workspace = allocate_workspace(workspace_bytes);
      cpu::run_tasks(problem, request, plan, begin, end, slots.data(), workspace.get());
    });
    if (request.value != nullptr) {
      cpu::reduce(problem, request, plan, slots.data());
    }
  }

  static void scale(const ScaleRequest& request, const Tensor&) {
    // Enough elements for a thread to be worth waking.
    constexpr int64_t kElementsPerTask = 1 << 16;
    const int64_t rows = request.shape.planes() * request.shape.height;
    const int64_t grain = 1 + kElementsPerTask / request.shape.width;
    torch::stable::parallel_for(
        0, rows, grain, [&](int64_t begin, int64_t end) { cpu::scale_rows(request, begin, end); });
  }
};

}  // namespace
}  // namespace fused_ssim::torch_ops

STABLE_TORCH_LIBRARY_IMPL(fused_ssim, CPU, library) {
  fused_ssim::torch_ops::register_operators<fused_ssim::torch_ops::CpuBackend>(library);
}
