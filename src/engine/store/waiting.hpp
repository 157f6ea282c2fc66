/*
 * waiting.hpp -- how many tasks of a role wait, by an index that is there where limit_role() has limited that for
 * anybody.
 *
 * C++ region. Needs a Session and throws PgError.
 */
#pragma once

#include "pg/session.hpp"

namespace jobqueue::store {

/* What was counted of a role's waiting tasks, in the order of their ids. */
struct Counted {
	int64 count = 0;
	int64 last_id = PG_INT64_MIN; /* they go on after it */
	bool all = true;
};

/*
 * Those after an id, "most" at most, however much else waits. What other transactions have added and not committed
 * counts, prepared ones included: it may yet come.
 */
Counted count_waiting_after(const std::string &role, int64 id, int64 most);
/* All of them; counts up to "most" + 1. */
int64 count_waiting_by_role(const std::string &role, int64 most);
/* The index is not part of a dump. */
void index_waiting();

/* Tasks of a role that wait; counts up to "most" + 1. */
int64 count_waiting(std::string_view created_by, int64 most);

} // namespace jobqueue::store
