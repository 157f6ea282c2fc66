/*
 * row_policies.hpp -- which rows of our tables a role reaches in plain SQL, as conditions. server/row_security.cpp
 * makes policies of them.
 */
#pragma once

#include "pg/server.hpp"

#include <string>

namespace jobqueue {

/* Tables, by the kind of condition that they have. Nobody but the owner writes internal ones. */
enum class PolicyTable { not_ours, tasks, configuration, schedules, internal };

/* C region. */
PolicyTable policy_table_of(Oid relation);
/* Which rows the current user may reach with the command; "owner" of the table. C++ region; outside of any Session. */
std::string policy_condition(CmdType command, Oid owner, Oid table, PolicyTable kind);
/* May the current user read all rows, because it may read all data of the database? C region. */
bool reads_all_data();
/* Must be called when this table was changed: if access depends on it, plans of other sessions do, too. C region. */
void forget_policies(Relation changed);

} // namespace jobqueue
