// SSIM of two pictures, without torch.
//
//   compare A.ppm B.ppm [MAP.ppm]
//
// Prints the mean SSIM, that of each channel and the PSNR out of one pass, and optionally writes
// the map, averaged over channels: white where the pictures agree.
#include <fused_ssim/kernels.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <vector>

#include "ppm.h"

namespace {

constexpr int64_t kChannels = 3;

// The pixels as they lie, [height, width, channels] of 8 bits; strides and dtype say so.
FusedSsimImage image_of(const ppm::Picture& picture) {
  FusedSsimImage image =
      fused_ssim_interleaved(picture.pixels.data(), kChannels, picture.height, picture.width);
  image.dtype = FUSED_SSIM_UINT8;
  return image;
}

double mean(const std::array<float, kChannels>& channels) {
  return (channels[0] + channels[1] + channels[2]) / 3;
}

int compare(int argc, char** argv) {
  const ppm::Picture a = ppm::read(argv[1]);
  const ppm::Picture b = ppm::read(argv[2]);
  if (a.height != b.height || a.width != b.width) {
    throw std::runtime_error("expected pictures of one size, got " + std::to_string(a.width) + "x" +
                             std::to_string(a.height) + " and " + std::to_string(b.width) + "x" +
                             std::to_string(b.height));
  }
  FusedSsimProblem problem =
      fused_ssim_problem(/*batch=*/1, kChannels, a.height, a.width, image_of(a), image_of(b));
  std::array<float, kChannels> ssim = {};
  std::array<float, kChannels> mse = {};
  std::vector<float> map(a.pixels.size());  // [channels, height, width]
  FusedSsimRequest request = fused_ssim_request();
  request.value = ssim.data();
  request.mse = mse.data();
  request.reduction = FUSED_SSIM_CHANNEL;
  request.map = argc > 3 ? map.data() : nullptr;
  fused_ssim::kernels::run(problem, request);

  std::printf("SSIM %.6f (red %.6f, green %.6f, blue %.6f), PSNR %.2f dB\n", mean(ssim), ssim[0],
              ssim[1], ssim[2], -10 * std::log10(mean(mse)));
  if (argc > 3) {
    ppm::Picture shown = a;
    const std::size_t plane = map.size() / kChannels;
    for (std::size_t i = 0; i < plane; ++i) {
      const double value = mean({map[i], map[plane + i], map[2 * plane + i]});
      const auto grey = static_cast<uint8_t>(std::lround(255 * std::clamp(value, 0.0, 1.0)));
      std::fill_n(shown.pixels.begin() + static_cast<std::ptrdiff_t>(3 * i), 3, grey);
    }
    ppm::write(argv[3], shown);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    std::fprintf(stderr, "usage: compare A.ppm B.ppm [MAP.ppm]\n");
    return 2;
  }
  try {
    return compare(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "compare: %s\n", error.what());
    return 2;
  }
}
