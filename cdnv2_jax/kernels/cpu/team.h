// Threads of XLA's pool that work together through one phase after another.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <thread>

#include "xla/ffi/api/ffi.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace cdnv2 {

// Waits for something that will happen soon: spins first, then yields the core.
class Patience {
 public:
  void wait() {
    if (++waited_ > kSpins) {
      std::this_thread::yield();
      return;
    }
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

 private:
  static constexpr int kSpins = 2000;
  int waited_ = 0;
};

inline int64_t threads_of(const xla::ffi::ThreadPool& pool) { return std::max<int64_t>(1, pool.num_threads()); }

// The caller and up to threads − 1 helpers. Helpers that start late or never are not waited for: the caller runs all
// tasks that no helper has claimed, so that a busy pool costs time but cannot deadlock.
class Team {
 public:
  Team() : threads_(1) {}  // the caller alone
  Team(xla::ffi::ThreadPool& pool, int64_t threads) : threads_(threads) {
    try {
      for (int64_t i = 1; i < threads; ++i)
        pool.Schedule([shared = shared_, caller = std::this_thread::get_id()] {
          // A pool whose queue is full runs the function at once in the caller, which would then wait for itself.
          if (std::this_thread::get_id() != caller) help(*shared);
        });
    } catch (const std::bad_alloc&) {  // the helpers that there are will do
    }
  }
  ~Team() { shared_->number.store(kOver); }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int64_t threads() const { return threads_; }

  // Calls f(i) for i in [0, tasks), in any order and on any thread; returns once all are done. Once one has thrown an
  // exception no further ones start, and the first exception is thrown here.
  template <typename F>
  void parallel(int64_t tasks, const F& f) {
    if (threads_ == 1 || tasks <= 1) {
      for (int64_t i = 0; i < tasks; ++i) f(i);
      return;
    }
    Phase phase{[](const void* f, int64_t i) { (*static_cast<const F*>(f))(i); }, &f, tasks};
    shared_->phase.store(&phase);
    shared_->number.fetch_add(1);
    phase.work();
    // From here on no helper enters; those inside finish the tasks they have claimed.
    shared_->phase.store(nullptr);
    for (Patience patience; shared_->inside.load() != 0;) patience.wait();
    if (phase.error) std::rethrow_exception(phase.error);
  }

 private:
  struct Phase {
    void (*call)(const void* f, int64_t task);
    const void* f;
    int64_t tasks;
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    std::exception_ptr error;  // read once all helpers have left

    void work() {
      try {
        for (int64_t i; (i = next.fetch_add(1)) < tasks && !failed;) call(f, i);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
      }
    }
  };

  // Outlives the team: a helper may start after the team is gone.
  struct Shared {
    std::atomic<Phase*> phase{nullptr};
    std::atomic<int64_t> number{0}, inside{0};
  };

  static constexpr int64_t kOver = -1;

  static void help(Shared& shared) {
    Patience patience;
    for (int64_t seen = 0;;) {
      const int64_t number = shared.number.load();
      if (number == kOver) return;
      if (number == seen) {
        patience.wait();
        continue;
      }
      seen = number;
      patience = Patience();
      // Enter before reading the phase: the caller either sees a helper inside or has already withdrawn the phase.
      shared.inside.fetch_add(1);
      if (Phase* phase = shared.phase.load()) phase->work();
      shared.inside.fetch_sub(1);
    }
  }

  const int64_t threads_;
  std::shared_ptr<Shared> shared_ = std::make_shared<Shared>();
};

}  // namespace cdnv2
