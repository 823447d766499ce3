// The steps of a condensed dense layer, each over a range of positions [begin, end), multiples of kGrain.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "layer.h"
#include "map.h"
#include "tile.h"

namespace cdnv2 {

// Computes groups [first, last): features x (flat) → hidden (padded), normalised and activated for the 3×3 convolution.
// Padding becomes zero. `panel` has room for kept · kTileWidth floats.
template <Activation kind>
void learned_group_conv(const FlatMap& map, const GroupConv& lgc, const Affine& next_norm, const float* x,
                        float* hidden, int64_t first, int64_t last, int64_t begin, int64_t end, float* panel) {
  for (int64_t p0 = begin; p0 < end; p0 += kTileWidth) {
    const int64_t width = std::min<int64_t>(kTileWidth, end - p0);
    const int32_t* inside = map.inside() + p0;
    for (int64_t g = first; g < last; ++g) {
      if (p0 == begin) prefetch(lgc.kernel + g * lgc.kept * lgc.outputs, lgc.kept * lgc.outputs);
      for (int64_t j = 0, c = g * lgc.kept; j < lgc.kept; ++j, ++c)
        normalise<kind>(x + lgc.index[c] * map.stride + p0, lgc.norm.scale[c], lgc.norm.shift[c],
                        panel + j * kTileWidth, width);
      const auto put = [&](int64_t o, int64_t p, auto sums) __attribute__((always_inline)) {
        const int64_t c = o * lgc.groups + g;
        sums = activate<kind>(sums * next_norm.scale[c] + next_norm.shift[c]);
        store(hidden + c * map.padded_stride + map.lead + p0 + p, masked(sums, inside + p));
      };
      product(lgc.outputs, 0, width, Weights{lgc.kernel + g * lgc.kept * lgc.outputs, lgc.outputs},
              Rows{panel, kTileWidth, lgc.kept}, put);
    }
  }
}

// Walks over the nine taps and, for each tap, the inputs of a group.
struct Taps {
  const float* first;  // the first input's map
  int64_t pitch, stride, inputs;

  template <typename Visit>
  CDNV2_INLINE void operator()(int64_t p, const Visit& visit) const {
    for (int dy = -1; dy <= 1; ++dy)
      for (int dx = -1; dx <= 1; ++dx) {
        const float* from = first + p + dy * pitch + dx;
        for (int64_t i = 0; i < inputs; ++i, from += stride) visit(from);
      }
  }
};

// Computes group g's new features (flat) from hidden (padded); padding becomes zero.
inline void conv3x3(const FlatMap& map, const Conv3x3& conv, const float* hidden, float* features, int64_t g,
                    int64_t begin, int64_t end) {
  const float* first = hidden + g * conv.inputs * map.padded_stride + map.lead;
  float* to = features + g * conv.outputs * map.stride;
  for (int64_t row = 0; row < 9 * conv.inputs; ++row)
    prefetch(conv.kernel + row * conv.channels() + g * conv.outputs, conv.outputs);
  product(conv.outputs, begin, end, Weights{conv.kernel + g * conv.outputs, conv.channels()},
          Taps{first, map.pitch, map.padded_stride, conv.inputs},
          [&](int64_t o, int64_t p, auto sums) __attribute__((always_inline)) {
            store(to + o * map.stride + p, masked(sums, map.inside() + p));
          });
}

// Computes each channel's gate from the new features (flat, padding zero). `work` has channels + hidden floats.
inline void squeeze_excite(const FlatMap& map, const SqueezeExcite& se, const float* features, float* gates,
                           float* work) {
  float *means = work, *hidden = work + se.channels;
  for (int64_t c = 0; c < se.channels; ++c) {
    Float8 sums{};
    for (int64_t p = 0; p < map.positions; p += kGrain) sums += load<Float8>(features + c * map.stride + p);
    means[c] = 0;
    for (int i = 0; i < kGrain; ++i) means[c] += sums[i];
    means[c] /= static_cast<float>(map.height * map.width);
  }
  std::fill(hidden, hidden + se.hidden, 0.0f);
  for (int64_t c = 0; c < se.channels; ++c)
    for (int64_t h = 0; h < se.hidden; ++h) hidden[h] += means[c] * se.squeeze[c * se.hidden + h];
  std::fill(gates, gates + se.channels, 0.0f);
  for (int64_t h = 0; h < se.hidden; ++h) {
    const float active = hidden[h] < 0 ? 0 : hidden[h];
    for (int64_t c = 0; c < se.channels; ++c) gates[c] += active * se.excite[h * se.channels + c];
  }
  for (int64_t c = 0; c < se.channels; ++c) gates[c] = 1 / (1 + std::exp(-gates[c]));
}

// Multiplies features (flat) by their gates, in place.
inline void scale_features(const FlatMap& map, int64_t channels, const float* gates, float* features, int64_t begin,
                           int64_t end) {
  for (int64_t c = 0; c < channels; ++c) {
    float* row = features + c * map.stride + begin;
    for_vectors(end - begin, [&](int64_t p, auto v) __attribute__((always_inline)) {
      store(row + p, load<decltype(v)>(row + p) * gates[c]);
    });
  }
}

// Adds the contributions of the new features (flat) to the old ones, x (flat). `panel` has members · kTileWidth floats.
template <Activation kind>
void reactivate(const FlatMap& map, const Reactivation& sfr, const float* features, float* x, int64_t begin,
                int64_t end, float* panel) {
  for (int64_t p0 = begin; p0 < end; p0 += kTileWidth) {
    const int64_t width = std::min<int64_t>(kTileWidth, end - p0);
    for (int64_t g = 0; g < sfr.groups; ++g) {
      if (p0 == begin) prefetch(sfr.kernel + g * sfr.members * sfr.kept, sfr.members * sfr.kept);
      for (int64_t m = 0, c = g; m < sfr.members; ++m, c += sfr.groups)
        normalise<kind>(features + c * map.stride + p0, sfr.norm.scale[c], sfr.norm.shift[c],
                        panel + m * kTileWidth, width);
      const int32_t* updated = sfr.index + g * sfr.kept;
      const auto add = [&](int64_t o, int64_t p, auto sums) __attribute__((always_inline)) {
        float* row = x + updated[o] * map.stride + p0 + p;
        store(row, load<decltype(sums)>(row) + sums);
      };
      product(sfr.kept, 0, width, Weights{sfr.kernel + g * sfr.members * sfr.kept, sfr.kept},
              Rows{panel, kTileWidth, sfr.members}, add);
    }
  }
}

}  // namespace cdnv2
