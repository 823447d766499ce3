// Divides the positions of a batch of maps into fixed slices.
#pragma once

#include <algorithm>
#include <cstdint>

#include "map.h"
#include "team.h"
#include "tile.h"

namespace cdnv2 {

// Calls f(i) for i in [0, count), many per task: claiming each i separately can take longer than its work.
template <typename F>
void for_each(Team& team, int64_t count, const F& f) {
  const int64_t chunks = std::min(count, 8 * team.threads());
  team.parallel(chunks, [&](int64_t chunk) {
    for (int64_t i = count * chunk / chunks; i < count * (chunk + 1) / chunks; ++i) f(i);
  });
}

// One slice per thread, if there are enough tiles. The positions of a slice are fixed and sums are kept per slice, so
// results do not depend on which thread is faster.
class Slices {
 public:
  const int64_t count;

  Slices(const FlatMap& map, int64_t batch, int64_t threads)
      : count(std::max<int64_t>(1, std::min(threads, batch * tiles_of(map)))), map_(map), batch_(batch) {}

  // Calls f(image, first position, width) for every tile of a slice.
  template <typename F>
  void for_tiles(int64_t slice, const F& f) const {
    const int64_t tiles = tiles_of(map_), all = batch_ * tiles;
    for (int64_t i = all * slice / count; i < all * (slice + 1) / count; ++i) {
      const int64_t begin = i % tiles * kTileWidth;
      f(i / tiles, begin, std::min<int64_t>(kTileWidth, map_.positions - begin));
    }
  }

 private:
  static int64_t tiles_of(const FlatMap& map) { return (map.positions + kTileWidth - 1) / kTileWidth; }

  const FlatMap& map_;
  const int64_t batch_;
};

}  // namespace cdnv2
