#include "cache/block_store.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include "cache/slot_store.h"
#include "tests/cache/managed_cases.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

/// Two columns of `seq` rows for 2 sequences of 3 heads.
std::vector<at::Tensor> rows_of(int64_t seq) {
  return {torch::randn({2, 3, seq, 5}),
          torch::randint(0, 99, {2, 3, seq, 1}, torch::dtype(torch::kInt))};
}

/// What both stores hold in the slots that are taken.
void expect_alike(const RowStore& blocks, const RowStore& slots) {
  ASSERT_EQ(blocks.rows(), slots.rows());
  EXPECT_EQ(blocks.total(), slots.total());
  auto taken = slots.taken();
  if (!taken.defined()) taken = torch::ones({2, 3, slots.rows()}, torch::kBool);
  for (size_t column = 0; column < 2; ++column) {
    const auto there = taken.unsqueeze(3);
    EXPECT_TRUE(torch::equal(blocks.column(column).mul(there), slots.column(column).mul(there)));
    EXPECT_EQ(blocks.row_bytes(column), slots.row_bytes(column));
  }
}

/// Rows of slots [0, n), n by sequence and head.
at::Tensor first_slots(const std::vector<int64_t>& counts) {
  const auto slot = torch::arange(8);
  return torch::where(slot.lt(torch::tensor(counts).view({2, 3, 1})), slot, -1);
}

TEST(BlockStore, HoldsWhatASlotStoreHoldsAfterAnyOperations) {
  torch::manual_seed(1);
  BlockStore blocks(2, 3, 4);
  SlotStore slots(2, 3, 1);
  const auto both = [&](const auto& operation) {
    operation(static_cast<RowStore&>(blocks));
    operation(static_cast<RowStore&>(slots));
    expect_alike(blocks, slots);
  };
  const auto prompt = rows_of(8), next = rows_of(1), more = rows_of(3);
  both([&](RowStore& store) { store.append(prompt, Positions::range(0, 8)); });
  both([&](RowStore& store) { store.keep(first_slots({8, 3, 5, 4, 8, 1})); });
  both([&](RowStore& store) { store.append(next, Positions::range(8, 1)); });
  both([&](RowStore& store) {
    store.drop_one(torch::tensor({0, 1, 5, 2, 3, 0}).view({2, 3}),
                   torch::tensor({true, true, true, false, true, true}).view({2, 3}));
  });
  both([&](RowStore& store) { store.append(more, Positions::ragged({{9, 3}, {9, 2}})); });
  both([&](RowStore& store) { store.set_column(0, slots.column(0) * 2); });
  both([&](RowStore& store) { store.truncate(1, 2); });
  both([&](RowStore& store) { store.append(more, Positions::ragged({{12, 0}, {2, 3}})); });
  blocks.clear();
  EXPECT_TRUE(blocks.empty());
}

TEST(BlockStore, ReservesBlocksOfTheRowsThatEachHeadHas) {
  BlockStore store(2, 3, 4);
  store.append(rows_of(8), Positions::range(0, 8));
  store.keep(first_slots({8, 3, 5, 4, 8, 1}));
  // 2 + 1 + 2 + 1 + 2 + 1 blocks, and one that stands for those a head lacks
  const int64_t block = 4 * (5 * 4 + 4);
  EXPECT_EQ(store.bytes_reserved(), 9 * (block + 16) + block);
  EXPECT_EQ(store.total(), 29);
}

TEST(BlockStore, SharesBlocksWithACloneUntilOneWrites) {
  BlockStore store(2, 3, 4);
  store.append(rows_of(10), Positions::range(0, 10));
  const auto before = store.column(0).clone();
  auto clone = store.clone();
  const int64_t block = 4 * (5 * 4 + 4);
  EXPECT_EQ(store.bytes_shared(), 6 * 3 * block);
  // the last block of each head is half full, and written to
  clone->append(rows_of(1), Positions::range(10, 1));
  EXPECT_EQ(store.bytes_shared(), 6 * 2 * block);
  EXPECT_TRUE(store.column(0).equal(before));
  EXPECT_TRUE(clone->column(0).narrow(2, 0, 10).equal(before));
  store.set_column(0, before * 2);
  EXPECT_EQ(store.bytes_shared(), 0);
  EXPECT_TRUE(clone->column(0).narrow(2, 0, 10).equal(before));
}

}  // namespace
}  // namespace kvsmith
