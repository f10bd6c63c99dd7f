// A problem on a device -> the schedule and the sizes of its work, as plain values.
#include <algorithm>

#include "cuda/kernels.h"
#include "cuda/policy.h"

namespace fused_ssim::cuda {
namespace {

// The tiles that finish soonest on this device by a count of instructions; none where strips serve
// better.
void choose_tiles(const DeviceFacts& device, StripKind kind, const Problem& problem,
                  StripChoice* choice) {
  const int64_t* sizes = problem.sizes;
  const bool bytes =
      problem.img1.dtype == FUSED_SSIM_UINT8 && problem.img2.dtype == FUSED_SSIM_UINT8;
  const bool gradient = has_gradient(kind);
  const int64_t height = sizes[FUSED_SSIM_AXIS_ROW];
  const int64_t planes = plane_count(sizes);
  const int64_t tiles_across = ceil_divide(sizes[FUSED_SSIM_AXIS_COLUMN], kMaxTileColumns);
  choice->tile_rows = 0;
  if (planes * plane_pixels(sizes) > max_tiled_pixels(kind, bytes, device.architecture)) {
    return;
  }
  double best_cost = 0.0;
  int64_t last_down = 0;
  for (int rows = 4; rows <= kMaxTileRows; ++rows) {
    if (tile_shared_bytes(kind, rows) > device.shared_per_block - kTileStaticShared) {
      break;
    }
    const int64_t down = ceil_divide(height, rows);
    if (down == last_down) {
      continue;  // as many tiles as with fewer rows
    }
    last_down = down;
    const int64_t tiles = tiles_across * down * planes;
    const int64_t rounds = ceil_divide(tiles, device.multiprocessors);
    const double cost = static_cast<double>(rounds) * tile_cost(rows, gradient);
    if (choice->tile_rows == 0 || cost < best_cost) {
      choice->tile_rows = rows;
      best_cost = cost;
    }
  }
}

}  // namespace

// Those that finish soonest by the chunks that the blocks of a multiprocessor go through together:
// ranges that cross to the next strip, in as many blocks as there is room for, or whole blocks to a
// strip. `whole_image`: strips begin and end with the image, so that their first and last block may
// have less to do for a row.
MarchShares share_strips(const DeviceFacts& device, StripKind kind, StripLoader loader,
                         int own_rows, int64_t strips, int capacity, const StripChoice& choice,
                         bool whole_image) {
  const bool gradient = has_gradient(kind);
  const MarchLayout layout = march_layout(device.architecture);
  MarchShares best = {0, 0, 0};
  double best_cost = 0.0;
  const auto consider = [&](int resident, int64_t blocks, int change_rows, int units_per_strip) {
    const int64_t units = strips * units_per_strip;
    const double cost = march_cost(resident, strip_chunks(ceil_divide(units, blocks), gradient));
    if (best.blocks == 0 || cost < best_cost) {
      best = {static_cast<int>(blocks), change_rows, units_per_strip};
      best_cost = cost;
    }
  };
  const int change_rows = march_change_rows(gradient);
  const int64_t most = std::max<int64_t>(1, strips * (own_rows + change_rows) / kMinRows);
  const int all = std::max(1, capacity / device.multiprocessors);
  for (const int resident : {1, all}) {
    if (choice.resident != 0 && choice.resident != resident) {
      continue;
    }
    // Fewer blocks than there is room for may come together on one multiprocessor, unless each has
    // the same number.
    const int64_t room =
        std::min<int64_t>(resident == all ? capacity : device.multiprocessors, most);
    const int64_t per_strip = std::min<int64_t>(room / strips, std::max(1, own_rows / kMinRows));
    const int64_t whole = per_strip * strips;
    if (whole > 0 && (resident == all || whole == room)) {
      const int instance = resident == 1 && has_single_block_instance(layout, kind, loader)
                               ? 1
                               : march_blocks_per_multiprocessor(layout, kind, loader);
      const bool spares = whole_image && per_strip > 1 && spares_rows(gradient, instance);
      const int top = spares ? spared_top_rows(gradient) : 0;
      for (int bottom = 0; bottom <= (spares ? spared_bottom_rows(gradient) : 0); ++bottom) {
        consider(resident, whole, -top, own_rows - top - bottom);
      }
    }
    consider(resident, room, change_rows, own_rows + change_rows);
  }
  return best;
}

// The best for these types.
StripLoader choose_loader(DType dtype1, DType dtype2, bool quads, bool boxes) {
  if (dtype1 != dtype2) {
    return quads ? StripLoader::kAnyQuads : StripLoader::kAnyWords;
  }
  if (dtype1 == DType::kFloat32) {
    return quads ? StripLoader::kFloatQuads : StripLoader::kWords;
  }
  if (dtype1 == DType::kUInt8) {
    return !quads  ? StripLoader::kAnyWords
           : boxes ? StripLoader::kByteBoxes
                   : StripLoader::kAnyQuads;
  }
  return !quads  ? StripLoader::kHalfWords
         : boxes ? StripLoader::kHalfBoxes
                 : StripLoader::kHalfQuads;
}

StripChoice choose_strips(const DeviceFacts& device, StripKind kind, const Problem& problem) {
  StripChoice choice;
  choose_tiles(device, kind, problem, &choice);
  return choice;
}

}  // namespace fused_ssim::cuda
