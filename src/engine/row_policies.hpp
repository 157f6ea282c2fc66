/*
 * row_policies.hpp -- which rows of our tables a role reaches in plain SQL, as conditions. server/row_security.cpp
 * makes policies of them.
 */
#pragma once

#include "pg/server.hpp"

#include <string>

namespace jobqueue {

/* Our tables, by the kind of condition that they have. */
enum class PolicyTable { other, tasks, configuration, schedules };

/* C region. */
PolicyTable policy_table_of(Relation relation);
/* Which rows the current user may reach with the command; "owner" of the table. C++ region; outside of any Session. */
std::string policy_condition(CmdType command, Oid owner, Oid table, PolicyTable kind);
/* Must be called when this table was changed: if access depends on it, plans of other sessions do, too. C region. */
void forget_policies(Relation changed);

} // namespace jobqueue
