/* kernels.h from C99: SSIM of two images that are known, an error, and the CUDA kernels' library,
   which must load and answer on a machine without a GPU. */
#include <fused_ssim/kernels.h>
#include <fused_ssim/version.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define HEIGHT 24
#define WIDTH 40

static int failures = 0;

static void expect(int ok, const char* what) {
  if (!ok) {
    printf("failed: %s (%s)\n", what, fused_ssim_last_error());
    ++failures;
  }
}

static float x[HEIGHT * WIDTH], y[HEIGHT * WIDTH], gradient[HEIGHT * WIDTH];

int main(void) {
  FusedSsimImage image = fused_ssim_planar(x, 1, HEIGHT, WIDTH);
  FusedSsimProblem problem = fused_ssim_problem(1, 1, HEIGHT, WIDTH, image, image);
  FusedSsimRequest request = fused_ssim_request();
  float value = 0.0f;
  double step = 1e-2, rise = 0.0, slope = 0.0;
  int i;

  for (i = 0; i < HEIGHT * WIDTH; ++i) {
    x[i] = (float)(0.5 + 0.4 * sin(0.7 * i) * cos(0.1 * i));
    y[i] = 0.8f * x[i] + 0.1f;
  }

  expect(fused_ssim_kernels_abi() == FUSED_SSIM_KERNELS_ABI, "the interface's version");
  expect(strcmp(fused_ssim_cpu_info()->version, FUSED_SSIM_VERSION) == 0, "the version");

  request.value = &value;
  expect(fused_ssim_cpu_run(&problem, &request, 0) == FUSED_SSIM_OK, "a run");
  expect(value == 1.0f, "1 for identical images");

  problem.img2.data = y;
  request.reduction = FUSED_SSIM_SUM;
  request.grad1 = fused_ssim_output(gradient, image);
  expect(fused_ssim_cpu_run(&problem, &request, 1) == FUSED_SSIM_OK, "a run with gradient");
  expect(value > 0.0f && value < 0.999f * HEIGHT * WIDTH, "less for different ones");

  /* The gradient against a step along it. */
  for (i = 0; i < HEIGHT * WIDTH; ++i) {
    slope += (double)gradient[i] * gradient[i];
  }
  slope = sqrt(slope);
  request.grad1.data = 0;
  for (i = 0; i < HEIGHT * WIDTH; ++i) {
    x[i] += (float)(step * gradient[i] / slope);
  }
  fused_ssim_cpu_run(&problem, &request, 1);
  rise = value;
  for (i = 0; i < HEIGHT * WIDTH; ++i) {
    x[i] -= (float)(2 * step * gradient[i] / slope);
  }
  fused_ssim_cpu_run(&problem, &request, 1);
  rise = (rise - value) / (2 * step);
  expect(fabs(rise / slope - 1) < 0.02, "the gradient is that of the value");

  problem.windows[2].size = 4;
  expect(fused_ssim_cpu_run(&problem, &request, 1) == FUSED_SSIM_INVALID_ARGUMENT, "an error");
  expect(strstr(fused_ssim_last_error(), "taps along the width") != NULL, "its message");
  problem.windows[2].size = 11;

#ifdef WITH_CUDA_KERNELS
  {
    int64_t bytes = -1;
    FusedSsimStatus status = fused_ssim_cuda_workspace_bytes(&problem, &request, &bytes);
    expect(fused_ssim_cuda_kernels_abi() == FUSED_SSIM_KERNELS_ABI,
           "CUDA: the interface's version");
    expect(strstr(fused_ssim_cuda_info()->architectures, "sm_") != NULL, "CUDA: architectures");
    if (status == FUSED_SSIM_OK) {
      expect(bytes > 0, "CUDA: a workspace");
    } else { /* no GPU, or no driver: an error like others */
      expect(status == FUSED_SSIM_CUDA_ERROR, "CUDA: an error without a GPU");
      expect(strlen(fused_ssim_cuda_last_error()) > 0, "CUDA: its message");
      printf("without a GPU: %s\n", fused_ssim_cuda_last_error());
    }
    problem.sizes[FUSED_SSIM_AXIS_CHANNEL] = (int64_t)1 << 31;
    request.grad1.data = NULL;
    expect(fused_ssim_cuda_run(&problem, &request, 0, 0, 0) == FUSED_SSIM_NOT_SERVED,
           "CUDA: what it does not serve");
    problem.sizes[FUSED_SSIM_AXIS_CHANNEL] = 1;
    problem.windows[2].size = 4;
    expect(fused_ssim_cuda_run(&problem, &request, 0, 0, 0) == FUSED_SSIM_INVALID_ARGUMENT,
           "CUDA: a bad argument");
    expect(strstr(fused_ssim_cuda_last_error(), "along the width") != NULL, "CUDA: its message");
  }
#endif
  printf("%d failures\n", failures);
  return failures != 0;
}
