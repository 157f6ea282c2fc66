/*
 * scope.hpp -- what a claimer may take: types and queues, as a handler's role or a caller of claim() has a right to
 * them.
 *
 * Types under limits have scopes of their own: while they are held back, the others are read on. C++ region; no Session
 * is needed.
 */
#pragma once

#include "engine/access.hpp"
#include "engine/throttling.hpp"
#include "engine/store/handlers.hpp"
#include "engine/store/type_filter.hpp"

#include <map>

namespace jobqueue {

/* Its key stands for it in shared memory. */
struct Scope {
	store::TypeFilter filter;
	uint64 key = 0;
	uint64 types = ~0ULL;  /* type_mask: news of other types do not concern it */
	Oid role = InvalidOid; /* whose handlers */
	/* The filter is for these queues ... */
	Queues queues = {};
	store::TypeFilter elsewhere = {}; /* ... and this one for the others */
	bool is_limited = false;		  /* it is for one type, which is under limits */
	bool by_handler = false;		  /* it takes the tasks of handlers, for them */
	std::vector<Scope> limited = {};  /* one for each type under limits; the filters above are without them */
	/* Queues that have a filter of their own, because there are handlers that have a say there only. */
	std::map<std::string, store::TypeFilter, std::less<>> special = {};

	/* The filter for this queue with the types under limits. */
	store::TypeFilter whole_filter_for(std::string_view queue) const;
	const store::TypeFilter &filter_for(std::string_view queue) const noexcept {
		if (!special.empty())
			if (const auto found = special.find(queue); found != special.end())
				return found->second;
		return queues.contains(queue) ? filter : elsewhere;
	}
	/* Whose tasks it takes. */
	Claims claims() const noexcept { return by_handler ? Claims::by_handler : Claims::outside; }
	/* Of a limited scope: its type. */
	std::string_view limited_type() const noexcept {
		if (!is_limited)
			return {};
		if (!special.empty())
			return special.begin()->second.types.front();
		return filter.types.empty() ? elsewhere.types.front() : filter.types.front();
	}
	void ask_for_rows(const std::string &claimant) {
		filter.rows_for = elsewhere.rows_for = claimant;
		for (auto &[queue, one] : special)
			one.rows_for = claimant;
		for (Scope &scope : limited)
			scope.ask_for_rows(claimant);
	}
};
/* The scope of a set of types, in any order. */
Scope scope_of_types(std::vector<std::string> types);
/* Of the handlers of one role, and the queues in which it has access. */
Scope scope_of_handlers(std::span<const store::Handler> handlers, Queues allowed);
/*
 * Types under limits get scopes of their own, and all get their keys: the last thing to do to a scope. "queue": for
 * claims from this one only.
 */
void separate_limited(Scope &scope, const Throttling &throttling, const std::optional<std::string> &queue = {});
/* In this queue, the scope does not take these types (sorted): they have handlers there. After limit_scope(). */
void leave_to_handlers(Scope &scope, const std::string &queue, std::span<const std::string> types);
/* In queues that are not allowed, only the types in "elsewhere" (sorted) remain. */
void limit_scope(Scope &scope, Queues allowed, std::vector<std::string> elsewhere = {});
/*
 * Of a call of claim(): these types, or all that no handler serves; of one queue, or of all that the caller may have.
 */
Scope scope_of_claim(const std::optional<std::vector<std::string>> &types, const std::optional<std::string> &queue,
					 Queues allowed, const Conditions &conditions, std::span<const store::HandledType> handled_types);

} // namespace jobqueue
