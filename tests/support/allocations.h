#pragma once

#include <algorithm>
#include <cstdint>

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

namespace kvsmith {

/// Counts what LibTorch's own allocator hands out on this thread while it lives, independently of
/// what any class claims to hold.
class AllocationCounter {
 public:
  AllocationCounter()
      : report_(std::make_shared<Report>()), guard_(c10::DebugInfoKind::PROFILER_STATE, report_) {}

  int64_t live_bytes() const { return report_->live; }
  int64_t peak_bytes() const { return report_->peak; }

 private:
  struct Report : c10::MemoryReportingInfoBase {
    void reportMemoryUsage(void*, int64_t alloc_size, size_t, size_t, c10::Device) override {
      live += alloc_size;
      peak = std::max(peak, live);
    }
    bool memoryProfilingEnabled() const override { return true; }
    int64_t live = 0, peak = 0;
  };

  std::shared_ptr<Report> report_;
  c10::DebugInfoGuard guard_;
};

}  // namespace kvsmith
