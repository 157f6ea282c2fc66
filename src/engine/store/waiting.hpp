/*
 * waiting.hpp -- how many tasks of a role wait, by an index that exists if limit_role() has limited this for any role.
 *
 * C++ region. Needs a Session and throws PgError.
 */
#pragma once

#include "pg/session.hpp"

namespace jobqueue::store {

/* What was counted of a role's waiting tasks, in the order of their ids. */
struct Counted {
	int64 count = 0;
	int64 last_id = PG_INT64_MIN; /* the next ones come after it */
	bool all = true;
};

/*
 * Counts waiting tasks after an id, up to "most", however much else waits. Tasks that other transactions have added and
 * not committed count, prepared ones included: they may yet come.
 */
Counted count_waiting_after(const std::string &role, int64 id, int64 most);
/* All waiting tasks of the role; counts up to "most" + 1. */
int64 count_waiting_by_role(const std::string &role, int64 most);
/* The index is not part of a dump. */
void index_waiting();

/* Tasks of a role that wait; counts up to "most" + 1. */
int64 count_waiting(std::string_view created_by, int64 most);

} // namespace jobqueue::store
