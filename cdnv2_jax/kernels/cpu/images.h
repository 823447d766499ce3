// Shares the images of a batch out among threads.
#pragma once

#include <cstdint>

#include "team.h"

namespace cdnv2 {

// f(team, i) for every image i < batch. As long as there is one for every thread, each works on its own; the rest,
// fewer images than threads, get several threads each.
template <typename F>
void for_images(xla::ffi::ThreadPool& pool, int64_t batch, const F& f) {
  const int64_t threads = threads_of(pool);
  const int64_t alone = batch / threads * threads, shared = batch - alone;
  if (alone) {
    Team team(pool, threads);
    team.parallel(alone, [&](int64_t i) {
      Team one;
      f(one, i);
    });
  }
  if (shared) {
    Team team(pool, shared);
    team.parallel(shared, [&](int64_t i) {
      Team several(pool, threads / shared);
      f(several, alone + i);
    });
  }
}

}  // namespace cdnv2
