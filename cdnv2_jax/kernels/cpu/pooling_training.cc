// The 2×2 average pool of stride 2 between dense blocks in training, forward and backward.
//
// Feature maps are [N, C, positions] in FlatMap's layout, padding zero. An odd last row or column is dropped.

#include <cstdint>

#include "arguments.h"
#include "map.h"
#include "slices.h"
#include "team.h"

namespace cdnv2 {
namespace {

using Maps = ffi::BufferR3<ffi::F32>;

void unpool(const FlatMap& large, const FlatMap& small, const float* from, float* to) {
  std::fill_n(to, large.positions, 0.0f);
  for (int64_t y = 0; y < small.height; ++y) {
    const float* row = from + y * small.pitch;
    float *above = to + 2 * y * large.pitch, *below = above + large.pitch;
    for (int64_t x = 0; x < small.width; ++x)
      above[2 * x] = above[2 * x + 1] = below[2 * x] = below[2 * x + 1] = 0.25f * row[x];
  }
}

template <typename F>
ffi::Error for_maps(ffi::ThreadPool& pool, Maps& from, ffi::Result<Maps>& to, int64_t from_positions,
                    int64_t to_positions, const F& f) {
  const auto in = from.dimensions(), out = to->dimensions();
  if (in[2] != from_positions || out[2] != to_positions || in[0] != out[0] || in[1] != out[1])
    return ffi::Error::InvalidArgument("maps of the wrong shape");
  Team team(pool, threads_of(pool));
  for_each(team, in[0] * in[1], [&](int64_t i) {
    f(from.typed_data() + i * from_positions, to->typed_data() + i * to_positions);
  });
  return ffi::Error::Success();
}

ffi::Error pool_forward(ffi::ThreadPool threads, Maps x, ffi::Result<Maps> out, int64_t height, int64_t width) {
  const FlatMap large = map_of(height, width, x.dimensions()[2]), small(height / 2, width / 2);
  return for_maps(threads, x, out, large.positions, small.positions,
                  [&](const float* from, float* to) { small.read_pooled(from, large.pitch, to); });
}

ffi::Error pool_backward(ffi::ThreadPool threads, Maps dy, ffi::Result<Maps> dx, int64_t height, int64_t width) {
  const FlatMap large = map_of(height, width, dx->dimensions()[2]), small(height / 2, width / 2);
  return for_maps(threads, dy, dx, small.positions, large.positions,
                  [&](const float* from, float* to) { unpool(large, small, from, to); });
}

}  // namespace
}  // namespace cdnv2

XLA_FFI_DEFINE_HANDLER_SYMBOL(PoolForward, cdnv2::guarded(cdnv2::pool_forward),
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<cdnv2::Maps>()
                                  .Ret<cdnv2::Maps>()
                                  .Attr<int64_t>("height")
                                  .Attr<int64_t>("width"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(PoolBackward, cdnv2::guarded(cdnv2::pool_backward),
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<cdnv2::Maps>()
                                  .Ret<cdnv2::Maps>()
                                  .Attr<int64_t>("height")
                                  .Attr<int64_t>("width"));
