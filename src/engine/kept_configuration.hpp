/*
 * kept_configuration.hpp -- keeps what a backend has read of handlers and queues until they change: reading them at
 * every call would cost as much as a tenth of the call. C++ region.
 */
#pragma once

#include "pg/guard.hpp"
#include "shared/databases.hpp"
#include "shared/transaction_notes.hpp"

namespace jobqueue {

template <typename T> class KeptConfiguration {
public:
	/*
	 * What read() returned, now or before. Reads each time if nobody would tell of a change, or this transaction made
	 * one.
	 */
	template <typename Read> T &get(Read &&read) {
		DatabaseSlot *slot = guard([] { return find_database(MyDatabaseId); });
		const bool keep = slot != nullptr && !own_configuration() && !IsolationUsesXactSnapshot();
		const uint64 configuration = keep ? pg_atomic_read_u64(&slot->configuration) : 0;
		if (!value_ || configuration == 0 || configuration != configuration_) {
			configuration_ = 0; /* read() may fail */
			value_ = read();
			configuration_ = configuration;
		}
		return *value_;
	}

private:
	std::optional<T> value_;
	uint64 configuration_ = 0;
};

/* One KeptConfiguration for each place that calls this, for the life of the backend. */
template <typename T, typename Read> T &kept_configuration(Read &&read) {
	static KeptConfiguration<T> *kept = nullptr;
	if (kept == nullptr)
		kept = new KeptConfiguration<T>;
	return kept->get(read);
}

} // namespace jobqueue
