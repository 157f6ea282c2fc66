/*
 * durability.cpp -- see durability.hpp. C region.
 */
#include "pg/clock.hpp"
#include "pg/durability.hpp"

#include "pg/compat.hpp"

extern "C" {
#include "access/xlog_internal.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
}

namespace jobqueue {

static XLogRecPtr end_of_log() {
	XLogRecPtr end = GetXLogInsertRecPtr();
	/* If the end is right behind the header of a page that is not begun yet, there is nothing to flush there. */
	if (XLogSegmentOffset(end, wal_segment_size) == SizeOfXLogLongPHD)
		end -= SizeOfXLogLongPHD;
	else if (end % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		end -= SizeOfXLogShortPHD;
	return end;
}

static bool standbys_have(XLogRecPtr position) {
	const int mode = synchronous_commit >= SYNCHRONOUS_COMMIT_REMOTE_APPLY	 ? SYNC_REP_WAIT_APPLY
					 : synchronous_commit >= SYNCHRONOUS_COMMIT_REMOTE_FLUSH ? SYNC_REP_WAIT_FLUSH
																			 : SYNC_REP_WAIT_WRITE;
	LWLockAcquire(SyncRepLock, LW_SHARED);
	const bool reached = WalSndCtl->lsn[mode] >= position;
	LWLockRelease(SyncRepLock);
	return reached;
}

static bool has_synchronous_standbys() {
	return SyncRepRequested() && SyncRepStandbyNames != nullptr && SyncRepStandbyNames[0] != '\0';
}

bool wait_until_safe(SteadyTime deadline) {
	constexpr int64 look_every_ms = 5;
	if (RecoveryInProgress())
		return true;
	const XLogRecPtr end = end_of_log();
	XLogFlush(end);
	/* Does not wait like a commit: that wait could not be cancelled without believing that the commit is done. */
	while (has_synchronous_standbys() && !standbys_have(end)) {
		if (steady_now() >= deadline)
			return false;
		compat::sleep_on_latch(look_every_ms);
		if (ConfigReloadPending) { /* perhaps no standby has to be waited for any more */
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
	return true;
}

} // namespace jobqueue
