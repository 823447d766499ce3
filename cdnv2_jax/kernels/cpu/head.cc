// The XLA custom call Head: features [N, C, H, W] → BatchNorm, ReLU, mean over the map → [N, C].

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "arguments.h"
#include "layer.h"
#include "team.h"
#include "vector.h"

namespace cdnv2 {
namespace {

// Adds eight partial sums in a fixed order, so that the result depends only on the map.
float mean_of_channel(const float* x, int64_t size, float scale, float shift) {
  Float8 sums{};
  int64_t p = 0;
  for (; p + kGrain <= size; p += kGrain) sums += activate<Activation::kRelu>(load<Float8>(x + p) * scale + shift);
  for (; p < size; ++p) {
    const float y = x[p] * scale + shift;
    sums[p % kGrain] += y < 0 ? 0 : y;
  }
  float sum = 0;
  for (int i = 0; i < kGrain; ++i) sum += sums[i];
  return sum / static_cast<float>(size);
}

using Floats1 = ffi::BufferR1<ffi::F32>;

ffi::Error head(ffi::ThreadPool pool, ffi::BufferR4<ffi::F32> x, Floats1 gamma, Floats1 beta, Floats1 mean,
                Floats1 variance, ffi::Result<ffi::BufferR2<ffi::F32>> out) {
  const auto in = x.dimensions(), result = out->dimensions();
  const int64_t channels = in[1], size = in[2] * in[3];
  for (const Floats1* values : {&gamma, &beta, &mean, &variance})
    if (values->dimensions()[0] != channels) return ffi::Error::InvalidArgument("BatchNorm does not fit the features");
  if (result[0] != in[0] || result[1] != channels || size < 1)
    return ffi::Error::InvalidArgument("the result has the wrong shape, or the map is empty");
  const Affine norm(gamma.typed_data(), beta.typed_data(), mean.typed_data(), variance.typed_data(), channels);
  const float* from = x.typed_data();
  float* to = out->typed_data();
  constexpr int64_t kTogether = 256;  // channels per task: about as much work as waking a thread
  const int64_t all = in[0] * channels, tasks = (all + kTogether - 1) / kTogether;
  Team team(pool, std::clamp<int64_t>(pool.num_threads(), 1, std::max<int64_t>(1, tasks)));
  team.parallel(tasks, [&](int64_t task) {
    for (int64_t i = task * kTogether; i < std::min(all, (task + 1) * kTogether); ++i)
      to[i] = mean_of_channel(from + i * size, size, norm.scale[i % channels], norm.shift[i % channels]);
  });
  return ffi::Error::Success();
}

}  // namespace
}  // namespace cdnv2

XLA_FFI_DEFINE_HANDLER_SYMBOL(Head, cdnv2::guarded(cdnv2::head),
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::BufferR4<xla::ffi::F32>>()
                                  .Arg<xla::ffi::BufferR1<xla::ffi::F32>>()
                                  .Arg<xla::ffi::BufferR1<xla::ffi::F32>>()
                                  .Arg<xla::ffi::BufferR1<xla::ffi::F32>>()
                                  .Arg<xla::ffi::BufferR1<xla::ffi::F32>>()
                                  .Ret<xla::ffi::BufferR2<xla::ffi::F32>>());
