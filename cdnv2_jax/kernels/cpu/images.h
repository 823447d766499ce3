// Divides the images of a batch among threads.
#pragma once

#include <cstdint>

#include "team.h"

namespace cdnv2 {

// Calls f(team, i) for every image i < batch. While there is an image for every thread, each image has one thread. The
// remaining images, fewer than threads, share the threads equally.
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
