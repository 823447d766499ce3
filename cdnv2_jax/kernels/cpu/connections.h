// Which inputs of a masked 1×1 convolution are connected with which outputs, as dense blocks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "map.h"
#include "team.h"
#include "tile.h"

namespace cdnv2 {

// All of `inputs` are connected with all of `outputs`.
struct ConnectionBlock {
  std::vector<int64_t> inputs, outputs;
};

// Above this share of connections, multiplying by zeros is faster than leaving them out.
constexpr double kDense = 0.5;

// The blocks of a [inputs, outputs] kernel. mask [groups, n] says which channels each group has kept: of the inputs,
// if the outputs are what is divided into groups (LGC), or the other way round (SFR); channel c is in group
// c mod groups. A kernel with few zeros is one block.
inline std::vector<ConnectionBlock> connection_blocks(const bool* mask, int64_t groups, bool outputs_grouped,
                                                      int64_t inputs, int64_t outputs) {
  const int64_t choices = outputs_grouped ? inputs : outputs, members = outputs_grouped ? outputs : inputs;
  const int64_t connected = std::count(mask, mask + groups * choices, true);
  std::vector<ConnectionBlock> blocks;
  if (connected > kDense * static_cast<double>(groups * choices)) {
    blocks.emplace_back();
    for (int64_t i = 0; i < inputs; ++i) blocks[0].inputs.push_back(i);
    for (int64_t o = 0; o < outputs; ++o) blocks[0].outputs.push_back(o);
    return blocks;
  }
  for (int64_t g = 0; g < groups; ++g) {
    std::vector<int64_t> kept, group;
    for (int64_t c = 0; c < choices; ++c)
      if (mask[g * choices + c]) kept.push_back(c);
    for (int64_t c = g; c < members; c += groups) group.push_back(c);
    if (outputs_grouped)
      blocks.push_back({kept, group});
    else
      blocks.push_back({group, kept});
  }
  return blocks;
}

// Room for a packed matrix of `terms` × `rows` weights.
inline int64_t packed_size(int64_t terms, int64_t rows) { return terms * round_up(rows, kRows); }

// Weights put so that every tile reads one stream, kRows rows after kRows rows: [rows / kRows][terms][kRows].
// weight(term, row) gives them.
template <typename Weight>
void pack(Team& team, int64_t terms, int64_t rows, float* packed, const Weight& weight) {
  team.parallel((rows + kRows - 1) / kRows, [&](int64_t panel) {
    float* to = packed + panel * terms * kRows;
    for (int64_t k = 0; k < terms; ++k)
      for (int64_t row = panel * kRows; row < (panel + 1) * kRows; ++row) *to++ = row < rows ? weight(k, row) : 0.0f;
  });
}

// put(row, p, sums) for all rows of a packed block and the positions [0, width).
template <typename Walk, typename Put>
CDNV2_INLINE void packed_product(int64_t terms, int64_t rows, int64_t width, const float* packed, const Walk& walk,
                                 const Put& put) {
  for (int64_t first = 0; first < rows; first += kRows, packed += terms * kRows)
    product(std::min<int64_t>(kRows, rows - first), 0, width, Weights{packed, kRows}, walk,
            [&](int64_t i, int64_t p, auto sums) CDNV2_LAMBDA { put(first + i, p, sums); });
}

// Walks over some rows of a panel.
struct ChosenRows {
  const float* first;
  int64_t stride;
  const std::vector<int64_t>& rows;

  template <typename Visit>
  CDNV2_INLINE void operator()(int64_t p, const Visit& visit) const {
    for (const int64_t row : rows) visit(first + row * stride + p);
  }
};

}  // namespace cdnv2
