// The connections of a masked 1×1 convolution, as dense blocks of inputs and outputs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "map.h"
#include "team.h"
#include "tile.h"

namespace cdnv2 {

// Connects every one of `inputs` with every one of `outputs`.
struct ConnectionBlock {
  std::vector<int64_t> inputs, outputs;
};

// Above this fraction of connections, multiplying by zeros is faster than skipping them.
constexpr double kDense = 0.5;

// The blocks of an [inputs, outputs] kernel. mask [groups, n] marks the channels that each group keeps: inputs if the
// outputs are divided into groups (LGC), outputs if the inputs are (SFR). Channel c is in group c mod groups. A kernel
// with more connections than kDense is a single block.
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

// Floats in a packed matrix of `terms` × `rows` weights.
inline int64_t packed_size(int64_t terms, int64_t rows) { return terms * round_up(rows, kRows); }

// Packs weight(term, row) so that every tile reads its weights sequentially: [rows / kRows][terms][kRows], with zeros
// after the last row.
template <typename Weight>
void pack(Team& team, int64_t terms, int64_t rows, float* packed, const Weight& weight) {
  team.parallel((rows + kRows - 1) / kRows, [&](int64_t panel) {
    float* to = packed + panel * terms * kRows;
    for (int64_t k = 0; k < terms; ++k)
      for (int64_t row = panel * kRows; row < (panel + 1) * kRows; ++row) *to++ = row < rows ? weight(k, row) : 0.0f;
  });
}

// Calls put(row, p, sums) for all rows of a packed block and the positions [0, width).
template <typename Walk, typename Put>
CDNV2_INLINE void packed_product(int64_t terms, int64_t rows, int64_t width, const float* packed, const Walk& walk,
                                 const Put& put) {
  for (int64_t first = 0; first < rows; first += kRows, packed += terms * kRows)
    product(std::min<int64_t>(kRows, rows - first), 0, width, Weights{packed, kRows}, walk,
            [&](int64_t i, int64_t p, auto sums) CDNV2_LAMBDA { put(first + i, p, sums); });
}

// Walks over the given rows of a panel.
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
