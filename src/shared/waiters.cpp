/*
 * waiters.cpp -- see waiters.hpp. C region.
 */
#include "shared/waiters.hpp"

#include "pg/compat.hpp"
#include "shared/shares.hpp"

namespace jobqueue {

/*
 * A role with many slots must leave some to others: a session without a slot looks at the table again and again, which
 * costs CPU.
 */
static bool may_wait(Oid role) noexcept {
	constexpr Capacity capacity = {max_waiters, 4};
	int64 used = 0, of_database = 0, of_role = 0;
	for (WaiterSlot &slot : shared()->waiter) {
		const Oid database = pg_atomic_read_u32(&slot.database);
		used += database != InvalidOid;
		if (database != MyDatabaseId)
			continue;
		of_database++;
		of_role += compat::role_of(static_cast<int>(pg_atomic_read_u32(&slot.procno))) == role;
	}
	return of_role < capacity.share(used, of_database, of_role, of_role);
}

WaiterSlot *take_waiter(int64 task) noexcept {
	if (!may_wait(compat::role_of(compat::my_procno())))
		return nullptr;
	for (WaiterSlot &slot : shared()->waiter) {
		uint32 nobody = 0;
		if (!pg_atomic_compare_exchange_u32(&slot.database, &nobody, 1))
			continue; /* 1 is no database: the slot is taken, but is not woken yet */
		pg_atomic_write_u32(&slot.procno, static_cast<uint32>(compat::my_procno()));
		pg_atomic_write_u64(&slot.task, static_cast<uint64>(task));
		pg_write_barrier();
		pg_atomic_write_u32(&slot.database, MyDatabaseId);
		pg_atomic_fetch_add_u32(&shared()->waiters, 1);
		return &slot;
	}
	return nullptr;
}

void free_waiter(WaiterSlot *slot) noexcept {
	pg_atomic_fetch_sub_u32(&shared()->waiters, 1);
	pg_atomic_write_u32(&slot->database, 0);
}

} // namespace jobqueue
