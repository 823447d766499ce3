// A condensed dense block on one image.
//
// All features of the block are in one buffer, channel by channel. Reactivation adds to earlier features in place, and
// each layer appends its new ones, so nothing is concatenated.
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
    gates_ = round_up(gates_, kLanes);  // aligns the panels to vectors
    panel_ *= kTileWidth;
  }

  // Floats of working memory that one image needs besides its features, with this number of threads.
  int64_t work(int64_t threads) const {
    int64_t panels = chunks(threads);
    for (const DenseLayer& layer : layers_)
      if (!wide(threads)) panels = std::max(panels, layer.lgc.groups * parts(threads, layer.lgc.groups));
    return hidden_ * map_.padded_stride + gates_ + panels * panel_;
  }

  // Computes all features x after the inputs of the first layer, which are already there.
  void run(Team& team, float* x, float* work) const {
    float *hidden = work, *gates = hidden + hidden_ * map_.padded_stride, *panels = gates + gates_;
    map_.clear_borders(hidden, hidden_);
    const DenseLayer* before = nullptr;
    for (const DenseLayer& layer : layers_) {
      read(team, before, layer, x, hidden, gates, panels);
      float* features = x + layer.inputs * map_.stride;
      over_groups(team, layer.conv.groups, [&](int64_t, int64_t g, int64_t begin, int64_t end) {
        conv3x3(map_, layer.conv, hidden, features, g, begin, end);
      });
      if (layer.has_se) squeeze_excite(map_, layer.se, features, gates, gates + layer.se.channels);
      before = &layer;
    }
    over_positions(team, [&](int64_t chunk, int64_t begin, int64_t end) {
      finish(*before, x, gates, begin, end, panels + chunk * panel_);
    });
  }

 private:
  // Finishes the previous layer, then computes this one's learned group convolution. Neither reads neighbouring
  // positions, so a chunk of positions goes through both while it is in the cache. Small maps have too few positions
  // for all threads: there the convolution's groups are divided among them instead, and with the groups the weights.
  void read(Team& team, const DenseLayer* before, const DenseLayer& layer, float* x, float* hidden, const float* gates,
            float* panels) const {
    const bool together = wide(team.threads());
    const int64_t groups = layer.lgc.groups;
    if (together || before)
      over_positions(team, [&](int64_t chunk, int64_t begin, int64_t end) {
        float* panel = panels + chunk * panel_;
        if (before) finish(*before, x, gates, begin, end, panel);
        if (together)
          learned_group_conv<kind>(map_, layer.lgc, layer.conv.norm, x, hidden, 0, groups, begin, end, panel);
      });
    if (!together)
      over_groups(team, groups, [&](int64_t task, int64_t g, int64_t begin, int64_t end) {
        learned_group_conv<kind>(map_, layer.lgc, layer.conv.norm, x, hidden, g, g + 1, begin, end,
                                 panels + task * panel_);
      });
  }

  // The steps after the 3×3 convolution: scaling by SE's gates, and reactivation.
  void finish(const DenseLayer& layer, float* x, const float* gates, int64_t begin, int64_t end, float* panel) const {
    float* features = x + layer.inputs * map_.stride;
    if (layer.has_se) scale_features(map_, layer.growth(), gates, features, begin, end);
    if (layer.has_sfr) reactivate<kind>(map_, layer.sfr, features, x, begin, end, panel);
  }

  // Calls f(chunk, begin, end) for chunks of positions.
  template <typename F>
  void over_positions(Team& team, const F& f) const {
    const int64_t count = chunks(team.threads());
    team.parallel(count, [&](int64_t i) { f(i, cut(i, count), cut(i + 1, count)); });
  }

  // Calls f(task, group, begin, end) for every group and, if there are few groups, parts of the map.
  template <typename F>
  void over_groups(Team& team, int64_t groups, const F& f) const {
    const int64_t count = parts(team.threads(), groups);
    team.parallel(groups * count,
                  [&](int64_t i) { f(i, i / count, cut(i % count, count), cut(i % count + 1, count)); });
  }

  // Whether there are enough positions to keep all threads equally busy.
  bool wide(int64_t threads) const { return threads == 1 || tiles() >= 8 * threads; }
  int64_t chunks(int64_t threads) const {
    if (threads == 1) return 1;
    const int64_t each = wide(threads) ? 4 : tiles() >= 2 * threads ? 2 : 1;
    return std::min(each * threads, map_.positions / kGrain);
  }
  int64_t parts(int64_t threads, int64_t groups) const {
    if (threads == 1) return 1;
    return std::min((4 * threads + groups - 1) / groups, map_.positions / kGrain);
  }
  int64_t tiles() const { return (map_.positions + kTileWidth - 1) / kTileWidth; }

  // First position of the i-th of `count` equal parts.
  int64_t cut(int64_t i, int64_t count) const { return map_.positions / kGrain * i / count * kGrain; }

  const FlatMap& map_;
  const std::vector<DenseLayer>& layers_;
  int64_t hidden_ = 0, panel_ = 1, gates_ = 0;
};

}  // namespace cdnv2
