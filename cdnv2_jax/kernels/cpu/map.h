// The layout of feature maps inside the kernels: row by row, each row followed by one column of padding.
//
// Position (y, x) of an H × W map is at y · (W + 1) + x. The padding column is the right neighbour of the last column
// and the left neighbour of the next row's first, so that each of the nine taps of a 3×3 convolution is the whole map
// shifted by a constant.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "vector.h"

namespace cdnv2 {

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

class FlatMap {
 public:
  // positions: size of the map with its padding, rounded up to whole vectors. stride: from one channel to the next.
  const int64_t height, width, pitch, positions, stride;
  // For maps that are read with taps, with room around them: lead is the room before a map, padded_stride the stride.
  const int64_t lead, padded_stride;

  FlatMap(int64_t height, int64_t width)
      : height(height),
        width(width),
        pitch(width + 1),
        positions(positions_of(height, width)),
        stride(round_up(positions, kLine)),
        lead(round_up(pitch + 1, kLine)),
        padded_stride(round_up(lead + positions + pitch + 1, kLine)),
        inside_(positions, 0) {
    for (int64_t y = 0; y < height; ++y)
      std::fill_n(inside_.begin() + y * pitch, width, int32_t{-1});
  }

  static int64_t positions_of(int64_t height, int64_t width) { return round_up(height * (width + 1), kGrain); }

  // For every position, −1 if it belongs to the map, 0 if it is padding.
  const int32_t* inside() const { return inside_.data(); }

  // Converts one channel [H, W] to the flat layout; padding becomes zero.
  void read(const float* from, float* to) const {
    for (int64_t y = 0; y < height; ++y, from += width) {
      std::memcpy(to + y * pitch, from, width * sizeof(float));
      to[y * pitch + width] = 0;
    }
    std::fill(to + height * pitch, to + positions, 0.0f);
  }

  // Averages the 2 × 2 squares of one channel with rows `source_width` apart, and writes it in the flat layout.
  void read_pooled(const float* from, int64_t source_width, float* to) const {
    for (int64_t y = 0; y < height; ++y) {
      const float *above = from + 2 * y * source_width, *below = above + source_width;
      float* row = to + y * pitch;
      for (int64_t x = 0; x < width; ++x) row[x] = mean_of_square(above + 2 * x, below + 2 * x);
      row[width] = 0;
    }
    std::fill(to + height * pitch, to + positions, 0.0f);
  }

  // Averages the 2 × 2 squares of one flat channel: [H / 2, W / 2].
  void write_pooled(const float* from, float* to) const {
    for (int64_t y = 0; y < height / 2; ++y) {
      const float *above = from + 2 * y * pitch, *below = above + pitch;
      for (int64_t x = 0; x < width / 2; ++x) *to++ = mean_of_square(above + 2 * x, below + 2 * x);
    }
  }

  // Converts one flat channel to [H, W].
  void write(const float* from, float* to) const {
    for (int64_t y = 0; y < height; ++y) std::memcpy(to + y * width, from + y * pitch, width * sizeof(float));
  }

  // Zeroes the room before and after the map of every padded channel, but not the map itself.
  void clear_borders(float* padded, int64_t channels) const {
    for (int64_t c = 0; c < channels; ++c, padded += padded_stride) {
      std::fill(padded, padded + lead, 0.0f);
      std::fill(padded + lead + positions, padded + padded_stride, 0.0f);
    }
  }

 private:
  static float mean_of_square(const float* above, const float* below) {
    return 0.25f * (above[0] + above[1] + below[0] + below[1]);
  }

  static constexpr int64_t kLine = 16;  // floats in a cache line
  std::vector<int32_t> inside_;
};

}  // namespace cdnv2
