// A condensed dense block on one image.
//
// All features of the block lie in one buffer, channel by channel: reactivation adds to old ones in place, and a layer
// puts its new ones after them. Nothing is ever concatenated.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "layer.h"
#include "map.h"
#include "scratch.h"
#include "steps.h"
#include "team.h"

namespace cdnv2 {

template <Activation kind>
class Block {
 public:
  Block(const FlatMap& map, const std::vector<DenseLayer>& layers) : map_(map), layers_(layers) {
    for (const DenseLayer& layer : layers) {
      hidden_ = std::max(hidden_, layer.lgc.channels());
      panel_ = std::max({panel_, layer.lgc.kept, layer.has_sfr ? layer.sfr.members : 0});
      if (layer.has_se) gates_ = std::max(gates_, 2 * layer.se.channels + layer.se.hidden);
    }
    gates_ = round_up(gates_, kLanes);  // so that the panels begin where vectors do
    panel_ *= kTileWidth;
  }

  // Floats of working memory that one image takes beside its features, done by so many threads.
  int64_t work(int64_t threads) const { return hidden_ * map_.padded_stride + gates_ + panels(threads) * panel_; }

  // The features x: those of the first layer's inputs are there, all others are filled in.
  void run(Team& team, float* x, float* work) const {
    float *hidden = work, *gates = hidden + hidden_ * map_.padded_stride, *panel = gates + gates_;
    map_.clear_borders(hidden, hidden_);
    const DenseLayer* before = nullptr;
    for (const DenseLayer& layer : layers_) {
      over_positions(team, [&](int64_t chunk, int64_t begin, int64_t end) {
        if (before) finish(*before, x, gates, begin, end, panel + chunk * panel_);
        learned_group_conv<kind>(map_, layer.lgc, layer.conv.norm, x, hidden, 0, layer.lgc.groups, begin, end,
                                 panel + chunk * panel_);
      });
      float* features = x + layer.inputs * map_.stride;
      over_groups(team, layer.conv.groups, [&](int64_t g, int64_t begin, int64_t end) {
        conv3x3(map_, layer.conv, hidden, features, g, begin, end);
      });
      if (layer.has_se) squeeze_excite(map_, layer.se, features, gates, gates + layer.se.channels);
      before = &layer;
    }
    over_positions(team, [&](int64_t chunk, int64_t begin, int64_t end) {
      finish(*before, x, gates, begin, end, panel + chunk * panel_);
    });
  }

 private:
  // What follows the 3×3 convolution: SE's factors, reactivation.
  void finish(const DenseLayer& layer, float* x, const float* gates, int64_t begin, int64_t end, float* panel) const {
    float* features = x + layer.inputs * map_.stride;
    if (layer.has_se) scale_features(map_, layer.growth(), gates, features, begin, end);
    if (layer.has_sfr) reactivate<kind>(map_, layer.sfr, features, x, begin, end, panel);
  }

  // How many chunks of positions there are work for: a few per thread, so that all finish together.
  int64_t panels(int64_t threads) const {
    return threads == 1 ? 1 : std::min(4 * threads, (map_.positions + kTileWidth - 1) / kTileWidth);
  }

  // f(chunk, begin, end) for chunks of positions.
  template <typename F>
  void over_positions(Team& team, const F& f) const {
    const int64_t chunks = panels(team.threads());
    team.parallel(chunks, [&](int64_t i) { f(i, cut(i, chunks, kLanes), cut(i + 1, chunks, kLanes)); });
  }

  // f(group, begin, end) for groups and, where there are few, parts of the map.
  template <typename F>
  void over_groups(Team& team, int64_t groups, const F& f) const {
    const int64_t parts = team.threads() == 1 ? 1 : std::max<int64_t>(1, 4 * team.threads() / groups);
    team.parallel(groups * parts, [&](int64_t i) {
      f(i / parts, cut(i % parts, parts, kGrain), cut(i % parts + 1, parts, kGrain));
    });
  }

  // Where the i-th of `parts` equal parts of the positions begins, up to a multiple of `unit`.
  int64_t cut(int64_t i, int64_t parts, int64_t unit) const {
    return std::min(map_.positions, round_up(map_.positions, unit) / unit * i / parts * unit);
  }

  const FlatMap& map_;
  const std::vector<DenseLayer>& layers_;
  int64_t hidden_ = 0, panel_ = 1, gates_ = 0;
};

}  // namespace cdnv2
