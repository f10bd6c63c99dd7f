// Declares torch.ops.fused_ssim.
#include <torch/csrc/stable/library.h>

#include "operators/schemas.h"

STABLE_TORCH_LIBRARY(fused_ssim, library) {
  for (const char* schema : fused_ssim::kOperatorSchemas) {
    library.def(schema);
  }
}
