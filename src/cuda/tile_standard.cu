// Tiles with the standard window; tells the tiles' sizes in shared memory.
#include "cuda/tile.cuh"

namespace fused_ssim::cuda {

template cudaError_t find_tile_kernel<StandardWindow>(const DeviceFacts&, StripKind, StripLoader,
                                                      int, StripKernel*);

int tile_shared_bytes(StripKind kind, int rows) {
  static constexpr auto kEntries = make_entries<Schedule::kTile, MakeTileEntry, StandardWindow>();
  return kEntries[entry_index(kind, StripLoader::kFloatQuads)].shared_bytes(rows);
}

}  // namespace fused_ssim::cuda
