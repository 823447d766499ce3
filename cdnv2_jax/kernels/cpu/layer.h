// The parts of a condensed dense layer.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace cdnv2 {

// BatchNorm with frozen statistics, folded: x ↦ scale · x + shift.
struct Affine {
  std::vector<float> scale, shift;

  Affine() = default;
  Affine(const float* gamma, const float* beta, const float* mean, const float* variance, int64_t channels)
      : scale(channels), shift(channels) {
    for (int64_t c = 0; c < channels; ++c) scale[c] = gamma[c] / std::sqrt(variance[c] + 1e-5f);
    for (int64_t c = 0; c < channels; ++c) shift[c] = beta[c] - mean[c] * scale[c];
  }
};

// Learned group convolution: group g reads inputs index[g · kept …] and computes outputs o · groups + g, o < outputs.
struct GroupConv {
  int64_t groups, kept, outputs;
  const int32_t* index;
  const float* kernel;  // [groups, kept, outputs]
  Affine norm;          // over the groups · kept inputs that are read

  int64_t channels() const { return groups * outputs; }
};

// Grouped 3×3 convolution.
struct Conv3x3 {
  int64_t groups, inputs, outputs;  // inputs and outputs of each group
  const float* kernel;              // [3, 3, inputs, groups · outputs]
  Affine norm;

  int64_t channels() const { return groups * outputs; }
};

// Squeeze-and-excitation.
struct SqueezeExcite {
  int64_t channels, hidden;
  const float *squeeze, *excite;  // [channels, hidden], [hidden, channels]
};

// Sparse feature reactivation: group g reads features m · groups + g, m < members, and adds to index[g · kept …].
struct Reactivation {
  int64_t groups, members, kept;
  const int32_t* index;
  const float* kernel;  // [groups, members, kept]
  Affine norm;
};

struct DenseLayer {
  int64_t inputs;
  GroupConv lgc;
  Conv3x3 conv;
  bool has_se, has_sfr;
  SqueezeExcite se;
  Reactivation sfr;

  int64_t growth() const { return conv.channels(); }
};

}  // namespace cdnv2
