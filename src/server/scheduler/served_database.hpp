/*
 * served_database.hpp -- what all chores know of the database that they serve, and how they run their transactions.
 * C++ region.
 */
#pragma once

#include "engine/throttling.hpp"
#include "pg/session.hpp"
#include "pg/transaction.hpp"
#include "server/processes.hpp"
#include "server/scheduler/complaints.hpp"

namespace jobqueue::scheduler {

/* Is the extension installed, as far as can be told at the moment? With a valid OID: is it the one with this OID? */
bool is_installed(Oid extension);

class ServedDatabase {
public:
	explicit ServedDatabase(DatabaseSlot *database_slot) : slot(database_slot) {}

	/*
	 * Runs fn in a transaction, as superuser, or in a Session of the extension's owner, in which nothing is deferred to
	 * the commit. Returns what went wrong. Throws if the extension has been dropped: then there is nothing to try
	 * again.
	 */
	template <typename Fn> std::optional<PgError> try_as_superuser(Fn &&fn, Durability = Durability::asynchronous);
	template <typename Fn> std::optional<PgError> try_in_session(Fn &&fn, Durability = Durability::asynchronous);
	/* Does the same, and reports what goes wrong: "jobqueue could not <what>". True if nothing did. */
	template <typename Fn> bool attempt_as_superuser(const char *what, Fn &&fn, Durability = Durability::asynchronous);
	template <typename Fn> bool attempt(const char *what, Fn &&fn, Durability = Durability::asynchronous);

	DatabaseSlot *const slot;
	Oid extension = InvalidOid, owner = InvalidOid; /* valid once the configuration has been read */
	Conditions conditions;
	uint64 roles_read = 0; /* roles_generation() as of the configuration */
	bool configuration_is_failing = false;
	SteadyTime busy_at = at_once; /* when there was something to do last */
	Complaints complaints;

private:
	bool report(const char *what, const std::optional<PgError> &error);
};

template <typename Fn> std::optional<PgError> ServedDatabase::try_as_superuser(Fn &&fn, Durability durability) {
	std::exception_ptr problem;
	try {
		in_transaction(durability, fn);
		return std::nullopt;
	} catch (...) {
		problem = std::current_exception();
	}
	const PgError error = as_pg_error(problem);
	if (error.sqlerrcode() == ERRCODE_UNDEFINED_TABLE || error.sqlerrcode() == ERRCODE_UNDEFINED_SCHEMA)
		if (!is_installed(extension))
			std::rethrow_exception(problem);
	return error;
}

template <typename Fn> std::optional<PgError> ServedDatabase::try_in_session(Fn &&fn, Durability durability) {
	return try_as_superuser(
		[&] {
			const Session session(owner);
			guard(detail::defer_nothing);
			fn();
		},
		durability);
}

inline bool ServedDatabase::report(const char *what, const std::optional<PgError> &error) {
	if (error)
		complaints.failed(what, *error);
	else
		complaints.succeeded(what);
	return !error;
}

template <typename Fn> bool ServedDatabase::attempt_as_superuser(const char *what, Fn &&fn, Durability durability) {
	return report(what, try_as_superuser(fn, durability));
}

template <typename Fn> bool ServedDatabase::attempt(const char *what, Fn &&fn, Durability durability) {
	return report(what, try_in_session(fn, durability));
}

} // namespace jobqueue::scheduler
