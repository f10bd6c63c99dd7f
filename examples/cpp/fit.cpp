// Fits an image of noise to a photograph by maximising SSIM with Adam, on libtorch.
//
//   fit PHOTO.ppm OUT.ppm [STEPS [DEVICE]]     300 steps on the CPU; DEVICE: cpu, cuda, cuda:1
#include <fused_ssim/fused_ssim.h>
#include <torch/torch.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <string>

#include "ppm.h"

namespace {

// [1, 3, H, W] in [0, 1], as a view of pixels that lie as [H, W, 3].
torch::Tensor to_tensor(const ppm::Picture& picture) {
  auto pixels = torch::empty({picture.height, picture.width, 3}, torch::kByte);
  std::memcpy(pixels.data_ptr(), picture.pixels.data(), picture.pixels.size());
  return pixels.to(torch::kFloat).div(255).permute({2, 0, 1}).unsqueeze(0);
}

ppm::Picture to_picture(const torch::Tensor& image) {
  const auto pixels =
      image.detach()[0].permute({1, 2, 0}).mul(255).round().clamp(0, 255).to(torch::kCPU);
  const auto bytes = pixels.to(torch::kByte).contiguous();
  ppm::Picture picture = {bytes.size(0), bytes.size(1), {}};
  const auto* data = bytes.const_data_ptr<uint8_t>();
  picture.pixels.assign(data, data + bytes.numel());
  return picture;
}

void fit(const std::string& photo, const std::string& out, int steps, const torch::Device& device) {
  const auto target = to_tensor(ppm::read(photo)).to(device);
  torch::manual_seed(0);
  auto image = torch::rand_like(target).requires_grad_();
  torch::optim::Adam optimizer({image}, torch::optim::AdamOptions(0.02));

  const auto start = std::chrono::steady_clock::now();
  for (int step = 0; step <= steps; ++step) {
    optimizer.zero_grad();
    const auto ssim = fused_ssim::fused_ssim(image, target);
    if (step % std::max(1, steps / 10) == 0 || step == steps) {
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
      std::printf("step %4d  SSIM %.4f  %.1f s\n", step, ssim.item<float>(), elapsed.count());
      std::fflush(stdout);
    }
    if (step < steps) {
      (1 - ssim).backward();
      optimizer.step();
    }
  }
  ppm::write(out, to_picture(image));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3 || argc > 5) {
    std::fprintf(stderr, "usage: fit PHOTO.ppm OUT.ppm [STEPS [DEVICE]]\n");
    return 2;
  }
  try {
    fit(argv[1], argv[2], argc > 3 ? std::stoi(argv[3]) : 300,
        torch::Device(argc > 4 ? argv[4] : "cpu"));
    return 0;
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "fit: %s\n", error.what_without_backtrace());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "fit: %s\n", error.what());
  }
  return 2;
}
