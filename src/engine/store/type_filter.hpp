/*
 * type_filter.hpp -- which types of tasks a claimer takes, and how the statements that look for tasks ask it.
 *
 * C++ region.
 */
#pragma once

#include "pg/server.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace jobqueue::store {

/* Types that only enqueue_sql() makes: each belongs to one role. */
inline constexpr std::string_view sql_type_prefix = "sql:";
inline bool is_sql_type(std::string_view type) noexcept {
	return type.starts_with(sql_type_prefix);
}

/* What a claimer takes: these types, or all but these. Dead letters only if it asks for them. */
struct TypeFilter {
	bool others = false; /* every type but these, and dead letters of any type */
	bool dead_letters = false;
	std::vector<std::string> types; /* sorted */
	bool lets_nothing_through() const noexcept { return types.empty() && !others && !dead_letters; }
	std::string rows_for; /* if not empty, candidates come with their rows as a claim by this worker would leave them */
};

/* Does the filter let such a task through? */
bool wants(const TypeFilter &filter, std::string_view type, bool dead_letter);

/*
 * While this object lives, jobqueue._is_wanted() asks this filter: SQL would compare each task with each type, or look
 * each up.
 */
struct FilterInForce {
	explicit FilterInForce(const TypeFilter &filter) noexcept;
	~FilterInForce();
	FilterInForce(const FilterInForce &) = delete;
	FilterInForce &operator=(const FilterInForce &) = delete;
};

/* For the SQL function, called for each task that a claim meets: does the filter in force let the task through? */
bool is_wanted(std::string_view type, bool dead_letter);

} // namespace jobqueue::store
