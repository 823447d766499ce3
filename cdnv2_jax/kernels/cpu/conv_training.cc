// BatchNorm → activation → grouped 3×3 convolution in training, forward and backward.
//
// Feature maps are [N, C, positions] in FlatMap's layout, padding zero. The channels of one group are normalised,
// activated and copied into a strip with zeros around them, so that every tap is the whole map shifted by a constant.

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "arguments.h"
#include "batch_norm.h"
#include "scratch.h"
#include "slices.h"

namespace cdnv2 {
namespace {

struct Convolution {
  const FlatMap& map;
  int64_t batch, groups, inputs, outputs;  // inputs and outputs of each group
  const float* kernel;                     // [3, 3, inputs, groups · outputs]

  int64_t channels_in() const { return groups * inputs; }
  int64_t channels_out() const { return groups * outputs; }
  int64_t kernel_at(int64_t tap, int64_t i, int64_t o, int64_t g) const {
    return (tap * inputs + i) * channels_out() + g * outputs + o;
  }
};

constexpr int64_t kTaps = 9;

// Several images of some channels in one strip, each followed by a row of zeros, so that sums over positions are long
// enough to be efficient even for small maps.
class Strip {
 public:
  const int64_t images;

  Strip(const FlatMap& map, int64_t channels, int64_t most_images)
      : images(std::clamp<int64_t>(kWorthwhile / map.positions, 1, std::max<int64_t>(1, most_images))),
        map_(map),
        step_(round_up((map.height + 1) * map.pitch, kLanes)),
        span_(map.lead + images * step_ + round_up(map.pitch + 1, kLanes) + kTileWidth),
        memory_(channels * span_) {
    std::fill_n(memory_.data(), channels * span_, 0.0f);
  }

  float* at(int64_t channel, int64_t image) const {
    return memory_.data() + channel * span_ + map_.lead + image * step_;
  }
  int64_t span() const { return span_; }
  int64_t length(int64_t images) const { return images * step_; }

 private:
  static constexpr int64_t kWorthwhile = 1024;
  const FlatMap& map_;
  const int64_t step_, span_;
  const Scratch memory_;
};

// Writes activation(norm(x)) of group g of image n to the strip.
template <Activation kind>
void fill_strip(const Convolution& op, const BatchNorm& norm, const float* x, int64_t n, int64_t g, const Strip& strip,
                int64_t image) {
  for (int64_t i = 0; i < op.inputs; ++i) {
    const int64_t c = g * op.inputs + i;
    const float* from = x + (n * op.channels_in() + c) * op.map.positions;
    float* to = strip.at(i, image);
    for_vectors(op.map.positions, [&](int64_t p, auto v) CDNV2_LAMBDA {
      v = activate<kind>(load<decltype(v)>(from + p) * norm.factor[c] + norm.shift[c]);
      store(to + p, masked(v, op.map.inside() + p));
    });
  }
}

// Walks over the inputs of a strip and, for each input, the nine taps.
struct StripTaps {
  const float* first;
  int64_t span, pitch, inputs;

  template <typename Visit>
  CDNV2_INLINE void operator()(int64_t p, const Visit& visit) const {
    const float* channel = first + p - pitch - 1;
    for (int64_t i = 0; i < inputs; ++i, channel += span)
      for (int64_t y = 0; y < 3; ++y)
        for (int64_t x = 0; x < 3; ++x) visit(channel + y * pitch + x);
  }
};

template <Activation kind>
void forward(Team& team, const Convolution& op, const float* x, const BatchNorm& norm, float* out) {
  const int64_t positions = op.map.positions;
  team.parallel(op.batch * op.groups, [&](int64_t task) {
    const int64_t n = task / op.groups, g = task % op.groups;
    const Strip strip(op.map, op.inputs, 1);
    const Scratch weights(op.inputs * kTaps * op.outputs);
    float* weight = weights.data();
    for (int64_t i = 0; i < op.inputs; ++i)
      for (int64_t tap = 0; tap < kTaps; ++tap)
        for (int64_t o = 0; o < op.outputs; ++o) *weight++ = op.kernel[op.kernel_at(tap, i, o, g)];
    fill_strip<kind>(op, norm, x, n, g, strip, 0);
    float* to = out + (n * op.channels_out() + g * op.outputs) * positions;
    product(op.outputs, 0, positions, Weights{weights.data(), op.outputs},
            StripTaps{strip.at(0, 0), strip.span(), op.map.pitch, op.inputs},
            [&](int64_t o, int64_t p, auto sums) CDNV2_LAMBDA {
              store(to + o * positions + p, masked(sums, op.map.inside() + p));
            });
  });
}

// Adds Σ_p x[i][p + tap] · dy[o][p] for O outputs to `gradient`, [inputs, 9, outputs].
template <int O>
void add_kernel_gradient(const Convolution& op, const Strip& x, const Strip& dy, int64_t first, int64_t length,
                         float* gradient) {
  for (int64_t i = 0; i < op.inputs; ++i) {
    Floats sums[kTaps][O];
#pragma GCC unroll 9
    for (int tap = 0; tap < kTaps; ++tap)
#pragma GCC unroll 2
      for (int o = 0; o < O; ++o) sums[tap][o] = Floats{};
    const float* from = x.at(i, 0) - op.map.pitch - 1;
    for (int64_t p = 0; p < length; p += kLanes) {
      Floats d[O];
#pragma GCC unroll 2
      for (int o = 0; o < O; ++o) d[o] = load<Floats>(dy.at(first + o, 0) + p);
#pragma GCC unroll 9
      for (int tap = 0; tap < kTaps; ++tap) {
        const Floats v = load<Floats>(from + p + tap / 3 * op.map.pitch + tap % 3);
#pragma GCC unroll 2
        for (int o = 0; o < O; ++o) sums[tap][o] += v * d[o];
      }
    }
#pragma GCC unroll 9
    for (int tap = 0; tap < kTaps; ++tap)
#pragma GCC unroll 2
      for (int o = 0; o < O; ++o) gradient[(i * kTaps + tap) * op.outputs + first + o] += sum(sums[tap][o]);
  }
}

#if defined(__AVX512F__)
constexpr int kOutputsAtOnce = 2;  // 18 sums in 32 registers
#else
constexpr int kOutputsAtOnce = 1;
#endif

// The backward pass of group g over the images [first, last): writes dz to dx, and adds the kernel's gradient,
// [inputs, 9, outputs], to `gradient`.
template <Activation kind>
void backward_group(const Convolution& op, const float* dy, const float* x, const BatchNorm& norm, int64_t g,
                    int64_t slice, int64_t first, int64_t last, NormGradient& norm_gradient, float* dx,
                    float* gradient) {
  const int64_t positions = op.map.positions;
  const Strip strip(op.map, op.inputs, last - first), dstrip(op.map, op.outputs, last - first);
  const Scratch weights(op.outputs * kTaps * op.inputs), da(op.inputs * positions);
  float* weight = weights.data();
  for (int64_t o = 0; o < op.outputs; ++o)
    for (int64_t tap = 0; tap < kTaps; ++tap)  // transposed convolution: the taps are reversed
      for (int64_t i = 0; i < op.inputs; ++i) *weight++ = op.kernel[op.kernel_at(kTaps - 1 - tap, i, o, g)];
  for (int64_t start = first; start < last; start += strip.images) {
    const int64_t count = std::min(strip.images, last - start);
    for (int64_t j = 0; j < count; ++j) {
      fill_strip<kind>(op, norm, x, start + j, g, strip, j);
      for (int64_t o = 0; o < op.outputs; ++o) {
        const float* from = dy + ((start + j) * op.channels_out() + g * op.outputs + o) * positions;
        float* to = dstrip.at(o, j);
        for_vectors(positions, [&](int64_t p, auto v) CDNV2_LAMBDA {
          store(to + p, masked(load<decltype(v)>(from + p), op.map.inside() + p));
        });
      }
    }
    int64_t o = 0;
    for (; o + kOutputsAtOnce <= op.outputs; o += kOutputsAtOnce)
      add_kernel_gradient<kOutputsAtOnce>(op, strip, dstrip, o, strip.length(count), gradient);
    for (; o < op.outputs; ++o) add_kernel_gradient<1>(op, strip, dstrip, o, strip.length(count), gradient);
    for (int64_t j = 0; j < count; ++j) {
      product(op.inputs, 0, positions, Weights{weights.data(), op.inputs},
              StripTaps{dstrip.at(0, j), dstrip.span(), op.map.pitch, op.outputs},
              [&](int64_t i, int64_t p, auto sums) CDNV2_LAMBDA { store(da.data() + i * positions + p, sums); });
      for (int64_t i = 0; i < op.inputs; ++i) {
        const int64_t c = g * op.inputs + i, row = ((start + j) * op.channels_in() + c) * positions;
        norm_gradient.add<kind>(slice, c, da.data() + i * positions, x + row, op.map.inside(), dx + row, positions);
      }
    }
  }
}

template <Activation kind>
void backward(Team& team, const Convolution& op, const float* dy, const float* x, const BatchNorm& norm, float* dx,
              float* dscale, float* dbias, float* dkernel) {
  const int64_t slices = std::clamp<int64_t>(op.batch, 1, team.threads()), size = op.inputs * kTaps * op.outputs;
  const Scratch gradients(slices * op.groups * size);
  std::fill_n(gradients.data(), slices * op.groups * size, 0.0f);
  NormGradient norm_gradient(norm, slices);
  team.parallel(slices * op.groups, [&](int64_t task) {
    const int64_t slice = task / op.groups, g = task % op.groups;
    backward_group<kind>(op, dy, x, norm, g, slice, op.batch * slice / slices, op.batch * (slice + 1) / slices,
                         norm_gradient, dx, gradients.data() + task * size);
  });
  norm_gradient.reduce(dscale, dbias);
  for_each(team, op.batch * op.channels_in(), [&](int64_t row) {
    const int64_t at = row * op.map.positions;
    norm_gradient.finish(row % op.channels_in(), x + at, nullptr, op.map.inside(), dx + at, op.map.positions);
  });
  for (int64_t g = 0; g < op.groups; ++g)
    for (int64_t i = 0; i < op.inputs; ++i)
      for (int64_t tap = 0; tap < kTaps; ++tap)
        for (int64_t o = 0; o < op.outputs; ++o) {
          float total = 0;
          for (int64_t slice = 0; slice < slices; ++slice)
            total += gradients.data()[(slice * op.groups + g) * size + (i * kTaps + tap) * op.outputs + o];
          dkernel[op.kernel_at(tap, i, o, g)] = total;
        }
}

using Vector = ffi::BufferR1<ffi::F32>;
using Maps = ffi::BufferR3<ffi::F32>;
using Kernel = ffi::BufferR4<ffi::F32>;

Convolution convolution(const FlatMap& map, const Maps& x, const Kernel& kernel, int64_t groups) {
  const auto shape = kernel.dimensions();
  return {map, x.dimensions()[0], groups, shape[2], shape[3] / groups, kernel.typed_data()};
}

// Whether the shapes fit: x is the input, y the output, and every vector has one value per input channel.
bool fit(const FlatMap& map, const Maps& x, const Maps& y, const Kernel& kernel, int64_t groups,
         std::initializer_list<const Vector*> vectors) {
  const auto in = x.dimensions(), out = y.dimensions(), k = kernel.dimensions();
  return k[0] == 3 && k[1] == 3 && 1 <= groups && groups <= k[3] && k[3] % groups == 0 && in[1] % groups == 0 &&
         in[1] / groups == k[2] && out[1] == k[3] &&
         in[0] == out[0] && in[2] == map.positions && out[2] == map.positions &&
         std::all_of(vectors.begin(), vectors.end(), [&](const Vector* v) { return v->dimensions()[0] == in[1]; });
}

ffi::Error wrong_shapes() { return ffi::Error::InvalidArgument("grouped convolution: shapes do not fit together"); }

ffi::Error conv_forward(ffi::ThreadPool pool, Maps x, Vector scale, Vector bias, Kernel kernel, ffi::Result<Maps> out,
                        ffi::Result<Vector> mean, ffi::Result<Vector> variance, int64_t height, int64_t width,
                        bool hard_swish, int64_t groups) {
  const FlatMap map = map_of(height, width, x.dimensions()[2]);
  if (!fit(map, x, *out, kernel, groups, {&scale, &bias, &*mean, &*variance})) return wrong_shapes();
  const Convolution op = convolution(map, x, kernel, groups);
  Team team(pool, threads_of(pool));
  batch_statistics(team, map, x.typed_data(), op.batch, op.channels_in(), mean->typed_data(), variance->typed_data());
  const BatchNorm norm(mean->typed_data(), variance->typed_data(), scale.typed_data(), bias.typed_data(),
                       op.channels_in(), static_cast<double>(op.batch * height * width));
  const auto run = hard_swish ? forward<Activation::kHardSwish> : forward<Activation::kRelu>;
  run(team, op, x.typed_data(), norm, out->typed_data());
  return ffi::Error::Success();
}

ffi::Error conv_backward(ffi::ThreadPool pool, Maps dy, Maps x, Vector mean, Vector variance, Vector scale,
                         Vector bias, Kernel kernel, ffi::Result<Maps> dx, ffi::Result<Vector> dscale,
                         ffi::Result<Vector> dbias, ffi::Result<Kernel> dkernel, int64_t height, int64_t width,
                         bool hard_swish, int64_t groups) {
  const FlatMap map = map_of(height, width, x.dimensions()[2]);
  if (!fit(map, x, dy, kernel, groups, {&mean, &variance, &scale, &bias, &*dscale, &*dbias}) ||
      !same_shape(*dx, x) || !same_shape(*dkernel, kernel))
    return wrong_shapes();
  const Convolution op = convolution(map, x, kernel, groups);
  Team team(pool, threads_of(pool));
  const BatchNorm norm(mean.typed_data(), variance.typed_data(), scale.typed_data(), bias.typed_data(),
                       op.channels_in(), static_cast<double>(op.batch * height * width));
  const auto run = hard_swish ? backward<Activation::kHardSwish> : backward<Activation::kRelu>;
  run(team, op, dy.typed_data(), x.typed_data(), norm, dx->typed_data(), dscale->typed_data(), dbias->typed_data(),
      dkernel->typed_data());
  return ffi::Error::Success();
}

}  // namespace
}  // namespace cdnv2

XLA_FFI_DEFINE_HANDLER_SYMBOL(ConvForward, cdnv2::guarded(cdnv2::conv_forward),
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<cdnv2::Maps>()
                                  .Arg<cdnv2::Vector>()
                                  .Arg<cdnv2::Vector>()
                                  .Arg<cdnv2::Kernel>()
                                  .Ret<cdnv2::Maps>()
                                  .Ret<cdnv2::Vector>()
                                  .Ret<cdnv2::Vector>()
                                  .Attr<int64_t>("height")
                                  .Attr<int64_t>("width")
                                  .Attr<bool>("hard_swish")
                                  .Attr<int64_t>("groups"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(ConvBackward, cdnv2::guarded(cdnv2::conv_backward),
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<cdnv2::Maps>()
                                  .Arg<cdnv2::Maps>()
                                  .Arg<cdnv2::Vector>()
                                  .Arg<cdnv2::Vector>()
                                  .Arg<cdnv2::Vector>()
                                  .Arg<cdnv2::Vector>()
                                  .Arg<cdnv2::Kernel>()
                                  .Ret<cdnv2::Maps>()
                                  .Ret<cdnv2::Vector>()
                                  .Ret<cdnv2::Vector>()
                                  .Ret<cdnv2::Kernel>()
                                  .Attr<int64_t>("height")
                                  .Attr<int64_t>("width")
                                  .Attr<bool>("hard_swish")
                                  .Attr<int64_t>("groups"));
