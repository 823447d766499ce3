// The XLA custom call Stem: images [N, H, W, channels] → 3×3 convolution, padding 1 → features [N, C, H', W'].
//
// Each image row is first split into planes, one for each channel and each column modulo the stride, so that every tap
// reads adjacent values for adjacent outputs.

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "arguments.h"
#include "scratch.h"
#include "team.h"
#include "tile.h"

namespace cdnv2 {
namespace {

struct Stem {
  int64_t height, width, channels, stride, outputs, out_height, out_width;
  const float* kernel;  // [3, 3, channels, outputs]

  // Output rows that are computed together; they need the planes of all image rows that they read.
  static constexpr int64_t kRowsTogether = 4;
  int64_t bands() const { return (out_height + kRowsTogether - 1) / kRowsTogether; }
  int64_t plane() const { return (out_width + kGrain - 1) / kGrain * kGrain + kGrain; }
  int64_t row() const { return stride * channels * plane(); }
  int64_t work() const { return ((kRowsTogether - 1) * stride + 3) * row(); }

  void run(const float* image, float* features, int64_t band, float* planes) const {
    const int64_t first = band * kRowsTogether, last = std::min(first + kRowsTogether, out_height);
    for (int64_t i = 0; i < (last - 1 - first) * stride + 3; ++i) {
      take_apart(image, first * stride + i - 1, planes + i * row());
    }
    for (int64_t y = first; y < last; ++y) convolve(planes + (y - first) * stride * row(), features, y);
  }

 private:
  // Splits image row y: column x of the padded row, where x = 0 is padding, goes to plane x mod stride.
  void take_apart(const float* image, int64_t y, float* planes) const {
    std::memset(planes, 0, row() * sizeof(float));
    if (y < 0 || y >= height) return;
    const float* pixel = image + y * width * channels;
    for (int64_t x = 1; x <= width; ++x, pixel += channels) {
      float* to = planes + x % stride * channels * plane() + x / stride;
      if (x / stride < plane())  // with a large stride the last columns may be unused
        for (int64_t c = 0; c < channels; ++c) to[c * plane()] = pixel[c];
    }
  }

  void convolve(const float* planes, float* features, int64_t y) const {
    const auto taps = [&](int64_t p, const auto& visit) __attribute__((always_inline)) {
      for (int64_t dy = 0; dy < 3; ++dy)
        for (int64_t dx = 0; dx < 3; ++dx) {
          const float* from = planes + dy * row() + dx % stride * channels * plane() + dx / stride + p;
          for (int64_t c = 0; c < channels; ++c, from += plane()) visit(from);
        }
    };
    const int64_t end = plane() - kGrain;
    const auto put = [&](int64_t o, int64_t p, auto sums) __attribute__((always_inline)) {
      const int64_t left = (out_width - p) * static_cast<int64_t>(sizeof(float));
      std::memcpy(features + (o * out_height + y) * out_width + p, &sums, std::min<int64_t>(sizeof sums, left));
    };
    product(outputs, 0, end, Weights{kernel, outputs}, taps, put);
  }
};

ffi::Error stem(ffi::ThreadPool pool, ffi::BufferR4<ffi::F32> images, ffi::BufferR4<ffi::F32> kernel,
                ffi::Result<ffi::BufferR4<ffi::F32>> out, int64_t stride) {
  const auto in = images.dimensions(), taps = kernel.dimensions(), result = out->dimensions();
  if (out->element_count() == 0) return ffi::Error::Success();
  constexpr int64_t most = 64;  // working memory is in proportion to the stride
  if (stride < 1 || stride > most || taps[0] != 3 || taps[1] != 3 || taps[2] != in[3] || in[3] < 1 || result[0] != in[0] ||
      result[1] != taps[3] || result[2] != (in[1] - 1) / stride + 1 || result[3] != (in[2] - 1) / stride + 1)
    return ffi::Error::InvalidArgument("images, kernel, stride and result of the stem do not fit");
  const Stem s{in[1], in[2], in[3], stride, taps[3], result[2], result[3], kernel.typed_data()};
  const float* from = images.typed_data();
  float* to = out->typed_data();
  Team team(pool, threads_of(pool));
  team.parallel(in[0] * s.bands(), [&](int64_t i) {
    const int64_t image = i / s.bands();
    const Scratch planes(s.work());
    s.run(from + image * s.height * s.width * s.channels, to + image * s.outputs * s.out_height * s.out_width,
          i % s.bands(), planes.data());
  });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace cdnv2

XLA_FFI_DEFINE_HANDLER_SYMBOL(Stem, cdnv2::guarded(cdnv2::stem),
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::BufferR4<xla::ffi::F32>>()
                                  .Arg<xla::ffi::BufferR4<xla::ffi::F32>>()
                                  .Ret<xla::ffi::BufferR4<xla::ffi::F32>>()
                                  .Attr<int64_t>("stride"));
