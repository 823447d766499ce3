// The XLA custom call CondensedBlock: features [N, C, H, W] → features after all layers of a condensed dense block.
//
// The features are followed by each layer's arguments, in the order of `read_layer`. A BatchNorm is scale, bias, mean,
// variance. Everything is checked before use: an invalid call is an error, never an out-of-bounds read.

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "arguments.h"
#include "block.h"
#include "images.h"
#include "layer.h"
#include "map.h"
#include "scratch.h"
#include "team.h"

namespace cdnv2 {
namespace {

Affine read_norm(Arguments& arguments, int64_t channels) {
  const float* gamma = arguments.vector(channels);
  const float* beta = arguments.vector(channels);
  const float* mean = arguments.vector(channels);
  const float* variance = arguments.vector(channels);
  return arguments.failed() ? Affine() : Affine(gamma, beta, mean, variance, channels);
}

DenseLayer read_layer(Arguments& arguments, int64_t inputs, int64_t conv_groups, bool se, bool sfr) {
  DenseLayer layer{};
  layer.inputs = inputs;
  {
    const auto index = arguments.index(inputs);
    const auto kernel = arguments.floats(3);
    arguments.require(kernel[0] == index[0] && kernel[1] == index[1], "kernel and index of LGC do not fit");
    layer.lgc = {index[0], index[1], kernel[2], index.data, kernel.data, read_norm(arguments, index.size())};
  }
  const int64_t hidden = layer.lgc.channels();
  Affine norm = read_norm(arguments, hidden);
  const auto kernel = arguments.floats(4);
  const int64_t growth = kernel[3];
  // In this order: conv_groups may be anything until it is known to divide the growth.
  arguments.require(kernel[0] == 3 && kernel[1] == 3 && growth % conv_groups == 0 && kernel[2] * conv_groups == hidden,
                    "the 3×3 kernel does not fit the groups or the outputs of LGC");
  layer.conv = {conv_groups, kernel[2], growth / conv_groups, kernel.data, std::move(norm)};
  layer.has_se = se;
  if (se) {
    const auto squeeze = arguments.floats(2), excite = arguments.floats(2);
    arguments.require(squeeze[0] == growth && excite[1] == growth && squeeze[1] == excite[0],
                      "kernels of squeeze-and-excitation do not fit");
    layer.se = {growth, squeeze[1], squeeze.data, excite.data};
  }
  layer.has_sfr = sfr;
  if (sfr) {
    const auto index = arguments.index(inputs);
    const auto kernel = arguments.floats(3);
    arguments.require(kernel[0] == index[0] && kernel[2] == index[1] && kernel[0] * kernel[1] == growth,
                      "kernel and index of SFR do not fit");
    layer.sfr = {index[0], kernel[1], index[1], index.data, kernel.data, read_norm(arguments, growth)};
  }
  return layer;
}

// 2×2 average pooling of stride 2, of the block's input or of its output.
enum class Pooling { kNone, kBefore, kAfter };

struct Shapes {
  int64_t batch, channels_in, channels_out, height, width;  // height and width of the input
  Pooling pooling;

  FlatMap map() const { return pooling == Pooling::kBefore ? FlatMap(height / 2, width / 2) : FlatMap(height, width); }
  int64_t out_height() const { return pooling == Pooling::kNone ? height : height / 2; }
  int64_t out_width() const { return pooling == Pooling::kNone ? width : width / 2; }
};

// Processes one image: reads its channels, runs the block, writes all channels.
template <Activation kind>
void run_image(Team& team, const Block<kind>& block, const FlatMap& map, const Shapes& s, const float* from,
               float* to) {
  const Scratch features(s.channels_out * map.stride), work(block.work(team.threads()));
  float* x = features.data();
  team.parallel(s.channels_in, [&](int64_t c) {
    const float* channel = from + c * s.height * s.width;
    if (s.pooling == Pooling::kBefore) {
      map.read_pooled(channel, s.width, x + c * map.stride);
    } else {
      map.read(channel, x + c * map.stride);
    }
  });
  block.run(team, x, work.data());
  team.parallel(s.channels_out, [&](int64_t c) {
    float* channel = to + c * s.out_height() * s.out_width();
    if (s.pooling == Pooling::kAfter) {
      map.write_pooled(x + c * map.stride, channel);
    } else {
      map.write(x + c * map.stride, channel);
    }
  });
}

template <Activation kind>
void run_batch(ffi::ThreadPool& pool, const std::vector<DenseLayer>& layers, const FlatMap& map, const Shapes& s,
               const float* from, float* to) {
  const Block<kind> block(map, layers);
  for_images(pool, s.batch, [&](Team& team, int64_t i) {
    run_image(team, block, map, s, from + i * s.channels_in * s.height * s.width,
              to + i * s.channels_out * s.out_height() * s.out_width());
  });
}

ffi::Error condensed_block(ffi::ThreadPool pool, ffi::BufferR4<ffi::F32> x, ffi::RemainingArgs rest,
                           ffi::Result<ffi::BufferR4<ffi::F32>> out, int64_t layer_count, int64_t conv_groups,
                           bool hard_swish, bool se, bool sfr, std::string_view pooling) {
  const auto in = x.dimensions(), result = out->dimensions();
  Arguments arguments(rest);
  arguments.require(layer_count >= 1 && conv_groups >= 1, "layers and conv_groups must be 1 or more");
  arguments.require(pooling == "none" || pooling == "before" || pooling == "after",
                    "pooling must be none, before or after");
  Shapes s{in[0], in[1], in[1], in[2], in[3],
           pooling == "before" ? Pooling::kBefore : pooling == "after" ? Pooling::kAfter : Pooling::kNone};
  std::vector<DenseLayer> layers;
  for (int64_t i = 0; i < layer_count && !arguments.failed(); ++i) {
    layers.push_back(read_layer(arguments, s.channels_out, conv_groups, se, sfr));
    s.channels_out += layers.back().growth();
  }
  arguments.require(arguments.at_end(), "too many arguments for this number of layers");
  arguments.require(result[0] == s.batch && result[1] == s.channels_out && result[2] == s.out_height() &&
                        result[3] == s.out_width(),
                    "the result has the wrong shape");
  if (arguments.failed()) return arguments.error();
  if (out->element_count() == 0) return ffi::Error::Success();
  const FlatMap map = s.map();
  const auto run = hard_swish ? run_batch<Activation::kHardSwish> : run_batch<Activation::kRelu>;
  run(pool, layers, map, s, x.typed_data(), out->typed_data());
  return ffi::Error::Success();
}

}  // namespace
}  // namespace cdnv2

XLA_FFI_DEFINE_HANDLER_SYMBOL(CondensedBlock, cdnv2::guarded(cdnv2::condensed_block),
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::BufferR4<xla::ffi::F32>>()
                                  .RemainingArgs()
                                  .Ret<xla::ffi::BufferR4<xla::ffi::F32>>()
                                  .Attr<int64_t>("layers")
                                  .Attr<int64_t>("conv_groups")
                                  .Attr<bool>("hard_swish")
                                  .Attr<bool>("se")
                                  .Attr<bool>("sfr")
                                  .Attr<std::string_view>("pooling"));
