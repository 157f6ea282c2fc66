/*
 * waiters.hpp -- sessions in wait_for(), which the end of a task wakes. noexcept, any region.
 */
#pragma once

#include "shared/state.hpp"

namespace jobqueue {

/* From now on the end of this task wakes this process; null if there is no room. The caller frees the slot. */
WaiterSlot *take_waiter(int64 task) noexcept;
void free_waiter(WaiterSlot *slot) noexcept;

} // namespace jobqueue
