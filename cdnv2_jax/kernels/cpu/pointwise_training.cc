// BatchNorm → activation → masked 1×1 convolution in training: LGC and SFR, forward and backward.
//
// Feature maps are [N, C, positions] in FlatMap's layout, padding zero. Activated inputs exist for one tile at a time
// and are recomputed in the backward pass. Removed connections are skipped once at least half are removed.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <vector>

#include "arguments.h"
#include "batch_norm.h"
#include "connections.h"
#include "scratch.h"
#include "slices.h"
#include "transpose.h"

namespace cdnv2 {
namespace {

struct Pointwise {
  const FlatMap& map;
  int64_t batch, inputs, outputs;
  std::vector<ConnectionBlock> blocks;
  const float* kernel;  // [inputs, outputs], zero where there is no connection

  float weight(int64_t input, int64_t output) const { return kernel[input * outputs + output]; }
};

// A packed kernel, block by block.
struct PackedBlocks {
  Scratch memory;
  std::vector<const float*> of_block;

  static int64_t room(const std::vector<ConnectionBlock>& blocks, bool turned) {
    int64_t floats = 0;
    for (const auto& b : blocks)
      floats += turned ? packed_size(b.outputs.size(), b.inputs.size()) : packed_size(b.inputs.size(), b.outputs.size());
    return floats;
  }

  // If turned, inputs are the rows and outputs the terms, as needed for the gradient of the inputs.
  PackedBlocks(Team& team, const Pointwise& op, bool turned) : memory(room(op.blocks, turned)) {
    float* to = memory.data();
    for (const auto& b : op.blocks) {
      of_block.push_back(to);
      const int64_t in = b.inputs.size(), out = b.outputs.size();
      if (turned) {
        pack(team, out, in, to, [&](int64_t k, int64_t row) { return op.weight(b.inputs[row], b.outputs[k]); });
        to += packed_size(out, in);
      } else {
        pack(team, in, out, to, [&](int64_t k, int64_t row) { return op.weight(b.inputs[k], b.outputs[row]); });
        to += packed_size(in, out);
      }
    }
  }
};

template <Activation kind>
void activate_block(const Pointwise& op, const ConnectionBlock& block, const BatchNorm& norm, const float* x,
                    int64_t width, float* panel) {
  for (const int64_t c : block.inputs) {
    norm.forward<kind>(c, x + c * op.map.positions, panel, width);
    panel += kTileWidth;
  }
}

// out [N, outputs, positions] = kernel · activation(norm(x)). With a residual, out [N, outputs + inputs, positions] is
// the next layer's features, concat(residual + the above, x).
template <Activation kind>
void forward(Team& team, const Pointwise& op, const float* x, const BatchNorm& norm, const float* residual, float* out) {
  const int64_t positions = op.map.positions, all = op.outputs + (residual ? op.inputs : 0);
  const PackedBlocks packed(team, op, false);
  const Slices slices(op.map, op.batch, team.threads());
  team.parallel(slices.count, [&](int64_t slice) {
    const Scratch panel(op.inputs * kTileWidth);
    slices.for_tiles(slice, [&](int64_t n, int64_t begin, int64_t width) {
      const float* from = x + n * op.inputs * positions + begin;
      float* to = out + n * all * positions + begin;
      if (residual) {
        const float* old = residual + n * op.outputs * positions + begin;
        for (int64_t c = 0; c < op.outputs; ++c)
          std::memcpy(to + c * positions, old + c * positions, width * sizeof(float));
        for (int64_t c = 0; c < op.inputs; ++c)
          std::memcpy(to + (op.outputs + c) * positions, from + c * positions, width * sizeof(float));
      }
      for (size_t b = 0; b < op.blocks.size(); ++b) {
        const ConnectionBlock& block = op.blocks[b];
        activate_block<kind>(op, block, norm, from, width, panel.data());
        packed_product(block.inputs.size(), block.outputs.size(), width, packed.of_block[b],
                       Rows{panel.data(), kTileWidth, static_cast<int64_t>(block.inputs.size())},
                       [&](int64_t o, int64_t p, auto sums) CDNV2_LAMBDA {
                         float* at = to + block.outputs[o] * positions + p;
                         sums = masked(sums, op.map.inside() + begin + p);
                         if (residual) sums += load<decltype(sums)>(at);
                         store(at, sums);
                       });
      }
    });
  });
}

// The gradient of the kernel, separate for each slice and block; outputs are rounded up to vectors.
class KernelGradient {
 public:
  KernelGradient(const Pointwise& op, int64_t slices) : op_(op), slices_(slices), memory_(slices * per_slice(op)) {
    std::fill_n(memory_.data(), slices * per_slice(op), 0.0f);
  }

  float* of_block(int64_t slice, size_t b) const {
    float* at = memory_.data() + slice * per_slice(op_);
    for (size_t i = 0; i < b; ++i) at += size(op_.blocks[i]);
    return at;
  }

  static int64_t columns(const ConnectionBlock& b) { return round_up(b.outputs.size(), kGrain); }

  // Adds up all slices: [inputs, outputs].
  void reduce(Team& team, float* gradient) const {
    std::fill_n(gradient, op_.inputs * op_.outputs, 0.0f);
    for (size_t b = 0; b < op_.blocks.size(); ++b) {
      const ConnectionBlock& block = op_.blocks[b];
      for_each(team, block.inputs.size(), [&](int64_t i) {
        float* to = gradient + block.inputs[i] * op_.outputs;
        for (int64_t slice = 0; slice < slices_; ++slice) {
          const float* from = of_block(slice, b) + i * columns(block);
          for (size_t o = 0; o < block.outputs.size(); ++o) to[block.outputs[o]] += from[o];
        }
      });
    }
  }

 private:
  static int64_t size(const ConnectionBlock& b) { return b.inputs.size() * columns(b); }
  static int64_t per_slice(const Pointwise& op) {
    int64_t floats = 0;
    for (const auto& b : op.blocks) floats += size(b);
    return floats;
  }

  const Pointwise& op_;
  const int64_t slices_;
  const Scratch memory_;
};

// Transposes [outputs of the block, width] to [width, columns], so that outputs are contiguous.
inline void turn(const ConnectionBlock& block, const float* dy, int64_t positions, int64_t width, float* turned) {
  static const float zeros[kTileWidth] = {};
  const int64_t columns = KernelGradient::columns(block), count = block.outputs.size();
  for (int64_t o = 0; o < columns; o += kGrain) {
    const float* rows[kGrain];
    for (int64_t i = 0; i < kGrain; ++i) rows[i] = o + i < count ? dy + block.outputs[o + i] * positions : zeros;
    for (int64_t p = 0; p < width; p += kGrain) transpose8(rows, p, turned + p * columns + o, columns);
  }
}

// Working memory of one slice.
struct Panels {
  Scratch activated, gradient, turned;
  explicit Panels(const Pointwise& op)
      : activated(op.inputs * kTileWidth),
        gradient(op.inputs * kTileWidth),
        turned(round_up(op.outputs, kGrain) * kTileWidth) {}
};

// Processes one tile: adds to the kernel's gradient, and writes the activated inputs' gradient to panels.gradient.
template <Activation kind>
void backward_tile(const Pointwise& op, const PackedBlocks& packed, const BatchNorm& norm, const float* x,
                   const float* dy, int64_t width, const KernelGradient& dkernel, int64_t slice, const Panels& panels) {
  const int64_t positions = op.map.positions;
  const bool partial = op.blocks.size() > 1 || static_cast<int64_t>(op.blocks[0].inputs.size()) < op.inputs;
  if (partial) std::fill_n(panels.gradient.data(), op.inputs * kTileWidth, 0.0f);
  for (size_t b = 0; b < op.blocks.size(); ++b) {
    const ConnectionBlock& block = op.blocks[b];
    const int64_t inputs = block.inputs.size(), columns = KernelGradient::columns(block);
    activate_block<kind>(op, block, norm, x, width, panels.activated.data());
    turn(block, dy, positions, width, panels.turned.data());
    float* part = dkernel.of_block(slice, b);
    for (int64_t o = 0; o < columns; o += kTileWidth)
      product(inputs, 0, std::min<int64_t>(kTileWidth, columns - o), Weights{panels.activated.data(), 1, kTileWidth},
              Rows{panels.turned.data() + o, columns, width}, [&](int64_t i, int64_t p, auto sums) CDNV2_LAMBDA {
                float* at = part + i * columns + o + p;
                store(at, load<decltype(sums)>(at) + sums);
              });
    packed_product(block.outputs.size(), inputs, width, packed.of_block[b], ChosenRows{dy, positions, block.outputs},
                   [&](int64_t i, int64_t p, auto sums) CDNV2_LAMBDA {
                     float* at = panels.gradient.data() + block.inputs[i] * kTileWidth + p;
                     if (partial) sums += load<decltype(sums)>(at);
                     store(at, sums);
                   });
  }
}

// Incoming gradients. dy [N, dy_channels, positions]: the first `outputs` channels are the gradient of the result.
// direct [N, direct_channels, positions] or null: from channel `from` on, another gradient of x.
struct Incoming {
  const float* dy;
  int64_t dy_channels;
  const float* direct;
  int64_t direct_channels, from;
};

template <Activation kind>
void backward(Team& team, const Pointwise& op, const Incoming& in, const float* x, const BatchNorm& norm, float* dx,
              float* dscale, float* dbias, float* dkernel) {
  const int64_t positions = op.map.positions;
  const PackedBlocks packed(team, op, true);
  const Slices slices(op.map, op.batch, team.threads());
  const KernelGradient kernel_gradient(op, slices.count);
  NormGradient norm_gradient(norm, slices.count);
  team.parallel(slices.count, [&](int64_t slice) {
    const Panels panels(op);
    slices.for_tiles(slice, [&](int64_t n, int64_t begin, int64_t width) {
      const float* from = x + n * op.inputs * positions + begin;
      const float* dy = in.dy + n * in.dy_channels * positions + begin;
      float* to = dx + n * op.inputs * positions + begin;
      backward_tile<kind>(op, packed, norm, from, dy, width, kernel_gradient, slice, panels);
      for (int64_t c = 0; c < op.inputs; ++c)
        norm_gradient.add<kind>(slice, c, panels.gradient.data() + c * kTileWidth, from + c * positions,
                                op.map.inside() + begin, to + c * positions, width);
    });
  });
  norm_gradient.reduce(dscale, dbias);
  kernel_gradient.reduce(team, dkernel);
  for_each(team, op.batch * op.inputs, [&](int64_t row) {
    const int64_t n = row / op.inputs, c = row % op.inputs;
    const float* direct = in.direct ? in.direct + (n * in.direct_channels + in.from + c) * positions : nullptr;
    norm_gradient.finish(c, x + row * positions, direct, op.map.inside(), dx + row * positions, positions);
  });
}

using Vector = ffi::BufferR1<ffi::F32>;
using Kernel = ffi::BufferR2<ffi::F32>;
using Mask = ffi::BufferR2<ffi::PRED>;
using Maps = ffi::BufferR3<ffi::F32>;

bool fit(const FlatMap& map, const Maps& x, const Kernel& kernel, const Mask& mask, bool outputs_grouped) {
  const auto m = mask.dimensions(), k = kernel.dimensions();
  const int64_t chosen = outputs_grouped ? k[0] : k[1], grouped = outputs_grouped ? k[1] : k[0];
  return x.dimensions()[1] == k[0] && x.dimensions()[2] == map.positions && m[0] > 0 && m[1] == chosen &&
         grouped % m[0] == 0;
}

bool all_have(int64_t length, std::initializer_list<const Vector*> vectors) {
  return std::all_of(vectors.begin(), vectors.end(), [&](const Vector* v) { return v->dimensions()[0] == length; });
}

bool is(const Maps& x, int64_t batch, int64_t channels, int64_t positions) {
  const auto shape = x.dimensions();
  return shape[0] == batch && shape[1] == channels && shape[2] == positions;
}

Pointwise pointwise(const FlatMap& map, const Maps& x, const Kernel& kernel, const Mask& mask, bool outputs_grouped) {
  const auto k = kernel.dimensions();
  return {map, x.dimensions()[0], k[0], k[1],
          connection_blocks(mask.typed_data(), mask.dimensions()[0], outputs_grouped, k[0], k[1]),
          kernel.typed_data()};
}

ffi::Error wrong_shapes() { return ffi::Error::InvalidArgument("pointwise convolution: shapes do not fit together"); }

ffi::Error pointwise_forward(ffi::ThreadPool pool, Maps x, Vector scale, Vector bias, Kernel kernel, Mask mask,
                             ffi::RemainingArgs optional, ffi::Result<Maps> out, ffi::Result<Vector> mean,
                             ffi::Result<Vector> variance, int64_t height, int64_t width, bool hard_swish,
                             bool outputs_grouped) {
  const FlatMap map = map_of(height, width, x.dimensions()[2]);
  if (!fit(map, x, kernel, mask, outputs_grouped)) return wrong_shapes();
  const Pointwise op = pointwise(map, x, kernel, mask, outputs_grouped);
  const float* residual = nullptr;
  if (optional.size()) {
    const auto buffer = optional.get<Maps>(0);
    if (!buffer.has_value() || !is(*buffer, op.batch, op.outputs, map.positions)) return wrong_shapes();
    residual = buffer->typed_data();
  }
  if (!all_have(op.inputs, {&scale, &bias, &*mean, &*variance}) ||
      !is(*out, op.batch, op.outputs + (residual ? op.inputs : 0), map.positions))
    return wrong_shapes();
  Team team(pool, threads_of(pool));
  batch_statistics(team, map, x.typed_data(), op.batch, op.inputs, mean->typed_data(), variance->typed_data());
  const BatchNorm norm(mean->typed_data(), variance->typed_data(), scale.typed_data(), bias.typed_data(), op.inputs,
                       static_cast<double>(op.batch * height * width));
  const auto run = hard_swish ? forward<Activation::kHardSwish> : forward<Activation::kRelu>;
  run(team, op, x.typed_data(), norm, residual, out->typed_data());
  return ffi::Error::Success();
}

ffi::Error pointwise_backward(ffi::ThreadPool pool, Maps dy, Maps x, Vector mean, Vector variance, Vector scale,
                              Vector bias, Kernel kernel, Mask mask, ffi::RemainingArgs optional,
                              ffi::Result<Maps> dx, ffi::Result<Vector> dscale, ffi::Result<Vector> dbias,
                              ffi::Result<Kernel> dkernel, int64_t height, int64_t width, bool hard_swish,
                              bool outputs_grouped, int64_t direct_from) {
  const FlatMap map = map_of(height, width, x.dimensions()[2]);
  if (!fit(map, x, kernel, mask, outputs_grouped)) return wrong_shapes();
  const Pointwise op = pointwise(map, x, kernel, mask, outputs_grouped);
  Incoming in{dy.typed_data(), dy.dimensions()[1], nullptr, 0, direct_from};
  if (optional.size()) {
    const auto buffer = optional.get<Maps>(0);
    if (!buffer.has_value()) return wrong_shapes();
    in.direct = buffer->typed_data();
    in.direct_channels = buffer->dimensions()[1];
    if (!is(*buffer, op.batch, in.direct_channels, map.positions) || direct_from < 0 ||
        direct_from > in.direct_channels - op.inputs)
      return wrong_shapes();
  }
  if (!all_have(op.inputs, {&mean, &variance, &scale, &bias, &*dscale, &*dbias}) ||
      !is(dy, op.batch, in.dy_channels, map.positions) || in.dy_channels < op.outputs ||
      !is(*dx, op.batch, op.inputs, map.positions) || !same_shape(*dkernel, kernel))
    return wrong_shapes();
  Team team(pool, threads_of(pool));
  const BatchNorm norm(mean.typed_data(), variance.typed_data(), scale.typed_data(), bias.typed_data(), op.inputs,
                       static_cast<double>(op.batch * height * width));
  const auto run = hard_swish ? backward<Activation::kHardSwish> : backward<Activation::kRelu>;
  run(team, op, in, x.typed_data(), norm, dx->typed_data(), dscale->typed_data(), dbias->typed_data(),
      dkernel->typed_data());
  return ffi::Error::Success();
}

}  // namespace
}  // namespace cdnv2

XLA_FFI_DEFINE_HANDLER_SYMBOL(PointwiseForward, cdnv2::guarded(cdnv2::pointwise_forward),
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<cdnv2::Maps>()
                                  .Arg<cdnv2::Vector>()
                                  .Arg<cdnv2::Vector>()
                                  .Arg<cdnv2::Kernel>()
                                  .Arg<cdnv2::Mask>()
                                  .RemainingArgs()
                                  .Ret<cdnv2::Maps>()
                                  .Ret<cdnv2::Vector>()
                                  .Ret<cdnv2::Vector>()
                                  .Attr<int64_t>("height")
                                  .Attr<int64_t>("width")
                                  .Attr<bool>("hard_swish")
                                  .Attr<bool>("outputs_grouped"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(PointwiseBackward, cdnv2::guarded(cdnv2::pointwise_backward),
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<cdnv2::Maps>()
                                  .Arg<cdnv2::Maps>()
                                  .Arg<cdnv2::Vector>()
                                  .Arg<cdnv2::Vector>()
                                  .Arg<cdnv2::Vector>()
                                  .Arg<cdnv2::Vector>()
                                  .Arg<cdnv2::Kernel>()
                                  .Arg<cdnv2::Mask>()
                                  .RemainingArgs()
                                  .Ret<cdnv2::Maps>()
                                  .Ret<cdnv2::Vector>()
                                  .Ret<cdnv2::Vector>()
                                  .Ret<cdnv2::Kernel>()
                                  .Attr<int64_t>("height")
                                  .Attr<int64_t>("width")
                                  .Attr<bool>("hard_swish")
                                  .Attr<bool>("outputs_grouped")
                                  .Attr<int64_t>("direct_from"));
