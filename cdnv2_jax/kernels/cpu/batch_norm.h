// Batch normalisation in training, with the activation that follows it: forward and backward, over [N, C, positions].
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "map.h"
#include "team.h"
#include "vector.h"

namespace cdnv2 {

template <typename Vector>
CDNV2_INLINE float sum(Vector v) {
  float total = 0;
  for (unsigned i = 0; i < sizeof(Vector) / sizeof(float); ++i) total += v[i];
  return total;
}

// Sum of f(p, v) over the positions, accumulated lane by lane; v only conveys the vector type.
template <typename F>
CDNV2_INLINE float sum_over(int64_t positions, const F& f) {
  Floats even{}, odd{};
  Float8 rest{};
  int64_t p = 0;
  for (; p + 2 * kLanes <= positions; p += 2 * kLanes) {
    even += f(p, Floats{});
    odd += f(p + kLanes, Floats{});
  }
  for (; p < positions; p += kGrain) rest += f(p, Float8{});
  return sum(even + odd) + sum(rest);
}

// Mean and biased variance of every channel, in two passes, over a batch of maps whose padding is zero.
inline void batch_statistics(Team& team, const FlatMap& map, const float* x, int64_t batch, int64_t channels,
                             float* mean, float* variance) {
  const double count = static_cast<double>(batch * map.height * map.width);
  const int64_t step = channels * map.positions;
  team.parallel(channels, [&](int64_t c) {
    const float* first = x + c * map.positions;
    double total = 0, squares = 0;
    for (int64_t n = 0; n < batch; ++n) {
      const float* row = first + n * step;
      total += sum_over(map.positions, [&](int64_t p, auto v) CDNV2_LAMBDA { return load<decltype(v)>(row + p); });
    }
    const float centre = static_cast<float>(total / count);
    for (int64_t n = 0; n < batch; ++n) {
      const float* row = first + n * step;
      squares += sum_over(map.positions, [&](int64_t p, auto v) CDNV2_LAMBDA {
        const auto d = masked(load<decltype(v)>(row + p) - centre, map.inside() + p);
        return d * d;
      });
    }
    mean[c] = centre;
    variance[c] = static_cast<float>(squares / count);
  });
}

// Normalisation by batch statistics: y = activation(factor · x + shift).
struct BatchNorm {
  int64_t channels;
  double count;  // values per channel
  std::vector<float> mean, inverse, factor, shift;

  BatchNorm(const float* mean_, const float* variance, const float* scale, const float* bias, int64_t channels,
            double count)
      : channels(channels), count(count), mean(mean_, mean_ + channels), inverse(channels), factor(channels),
        shift(channels) {
    for (int64_t c = 0; c < channels; ++c) {
      inverse[c] = 1 / std::sqrt(variance[c] + 1e-5f);
      factor[c] = scale[c] * inverse[c];
      shift[c] = bias[c] - mean[c] * factor[c];
    }
  }

  template <Activation kind>
  CDNV2_INLINE void forward(int64_t c, const float* x, float* to, int64_t width) const {
    normalise<kind>(x, factor[c], shift[c], to, width);
  }
};

// Derivative of the activation. At the kinks of hard-swish either one-sided derivative will do.
template <Activation kind, typename Vector>
CDNV2_INLINE Vector slope(Vector x) {
  const Vector zero{}, one = zero + 1.0f;
  if constexpr (kind == Activation::kRelu) return x > zero ? one : zero;
  const Vector inner = (x + x + 3.0f) * (1.0f / 6.0f);
  return x <= zero - 3.0f ? zero : (x >= zero + 3.0f ? one : inner);
}

// The sums over the batch that the gradient of a normalisation needs for each channel: of dz and of dz · (x − mean),
// where dz is the gradient with respect to the activation's input. Each slice of the work has its own sums, so that
// the result does not depend on the order in which threads finish.
class NormGradient {
 public:
  NormGradient(const BatchNorm& norm, int64_t slices) : norm_(norm), slices_(slices), sums_(slices * norm.channels) {}

  // Computes dz of one row from da, the gradient after the activation. May work in place; padding becomes zero.
  template <Activation kind>
  CDNV2_INLINE void add(int64_t slice, int64_t c, const float* da, const float* x, const int32_t* inside, float* dz,
                        int64_t width) {
    const float factor = norm_.factor[c], shift = norm_.shift[c], mean = norm_.mean[c];
    Floats plain{}, weighted{};
    Float8 plain8{}, weighted8{};
    int64_t p = 0;
    const auto row = [&](auto& s, auto& w) CDNV2_LAMBDA {
      using Vector = std::remove_reference_t<decltype(s)>;
      const Vector value = load<Vector>(x + p);
      const Vector d = masked(load<Vector>(da + p) * slope<kind>(value * factor + shift), inside + p);
      store(dz + p, d);
      s += d;
      w += d * (value - mean);
    };
    for (; p + kLanes <= width; p += kLanes) row(plain, weighted);
    for (; p < width; p += kGrain) row(plain8, weighted8);
    Sums& sums = sums_[slice * norm_.channels + c];
    sums.plain += sum(plain) + sum(plain8);
    sums.weighted += sum(weighted) + sum(weighted8);
  }

  // Computes the gradients of scale and bias, once all rows have been added.
  void reduce(float* dscale, float* dbias) {
    for (int64_t c = 0; c < norm_.channels; ++c) {
      Sums& total = sums_[c];
      for (int64_t i = 1; i < slices_; ++i) {
        total.plain += sums_[i * norm_.channels + c].plain;
        total.weighted += sums_[i * norm_.channels + c].weighted;
      }
      dbias[c] = static_cast<float>(total.plain);
      dscale[c] = static_cast<float>(total.weighted * norm_.inverse[c]);
    }
  }

  // Converts dz of one row to dx in place and adds `direct`, another gradient of x, unless it is null.
  CDNV2_INLINE void finish(int64_t c, const float* x, const float* direct, const int32_t* inside, float* dz,
                           int64_t width) const {
    const double inverse = norm_.inverse[c];
    const float factor = norm_.factor[c], mean = norm_.mean[c];
    const float plain = static_cast<float>(sums_[c].plain / norm_.count);
    const float weighted = static_cast<float>(sums_[c].weighted * inverse * inverse / norm_.count);
    for_vectors(width, [&](int64_t p, auto v) CDNV2_LAMBDA {
      using Vector = decltype(v);
      Vector d = factor * (load<Vector>(dz + p) - plain - (load<Vector>(x + p) - mean) * weighted);
      d = masked(d, inside + p);
      if (direct) d += load<Vector>(direct + p);
      store(dz + p, d);
    });
  }

 private:
  struct Sums {
    double plain = 0, weighted = 0;
  };
  const BatchNorm& norm_;
  const int64_t slices_;
  std::vector<Sums> sums_;
};

}  // namespace cdnv2
