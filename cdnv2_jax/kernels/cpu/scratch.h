// Working memory that is reused between calls: fresh pages from the system cost more than the computation in them.
//
// With AddressSanitizer it is not, and blocks are of exactly the size asked for, so that it sees every step beyond.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace cdnv2 {

// `floats` uninitialised floats, aligned to cache lines; std::bad_alloc if there is no memory.
class Scratch {
 public:
  explicit Scratch(int64_t floats) {
    if (floats < 0 || floats > std::numeric_limits<int64_t>::max() / 8) throw std::bad_alloc();
    const size_t bytes = static_cast<size_t>(floats) * sizeof(float);
    block_ = kReused ? shelf().take(bytes) : Block();
    if (!block_.data && posix_memalign(&block_.data, kLine, block_.bytes = bytes)) throw std::bad_alloc();
  }
  ~Scratch() { shelf().put_back(block_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  float* data() const { return static_cast<float*>(block_.data); }

 private:
  static constexpr size_t kLine = 64;
#if defined(__SANITIZE_ADDRESS__)
  static constexpr bool kReused = false;
#else
  static constexpr bool kReused = true;
#endif

  struct Block {
    void* data = nullptr;
    size_t bytes = 0;
  };

  // Blocks that are not in use, at most 64 MiB in total.
  class Shelf {
   public:
    // Takes the smallest block that is large enough and not far too large; an empty one if there is none.
    Block take(size_t bytes) {
      std::lock_guard<std::mutex> lock(mutex_);
      Block* best = nullptr;
      for (Block& block : blocks_)
        if (block.bytes >= bytes && block.bytes <= 4 * bytes && (!best || block.bytes < best->bytes)) best = &block;
      if (!best) return {};
      std::swap(*best, blocks_.back());
      const Block found = blocks_.back();
      blocks_.pop_back();
      kept_ -= found.bytes;
      return found;
    }

    void put_back(Block block) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (kReused && block.data && block.bytes <= kMost) {
        try {
          blocks_.push_back(block);
          kept_ += block.bytes;
          block = {};
        } catch (const std::bad_alloc&) {  // no room for the list: the block is freed
        }
      }
      std::free(block.data);
      while (kept_ > kMost) {  // the oldest go first
        kept_ -= blocks_.front().bytes;
        std::free(blocks_.front().data);
        blocks_.erase(blocks_.begin());
      }
    }

   private:
    static constexpr size_t kMost = size_t{64} << 20;
    std::mutex mutex_;
    std::vector<Block> blocks_;
    size_t kept_ = 0;
  };

  static Shelf& shelf() {
    static Shelf* one = new Shelf;  // never destroyed: pool threads may outlive static objects
    return *one;
  }

  Block block_;
};

}  // namespace cdnv2
