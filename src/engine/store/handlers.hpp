/*
 * handlers.hpp -- the statements about handlers.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "pg/session.hpp"

namespace jobqueue::store {

/* A function that was registered. */
struct Function {
	std::string signature; /* schema-qualified; empty = none */
	Oid owner;			   /* when it was registered */
	bool operator==(const Function &) const = default;
};
struct Handler {
	std::string type;
	Function function;
	std::string queue;
	std::string run_as;
	int32 max_attempts;
	int32 batch_size;
	int64 timeout_us; /* 0 = none */
	Function backoff_function;
	Oid role;		/* InvalidOid: there is no such role, or another one of that name */
	bool superuser; /* of the role, as are the next two */
	bool can_login;
	bool can_connect;
	bool bound_by_access; /* it gets tasks of those queues only in which its role is a consumer or manager */
};
/* The handlers of this incarnation, ordered by type. */
std::vector<Handler> handlers();
std::vector<Handler> handlers_of(std::string_view role);
/* Null if none of these handlers is for the type. */
const Handler *find_handler(const std::vector<Handler> &handlers, std::string_view type);
std::optional<Handler> handler_for_update(std::string_view type);
/* What people say about a handler. Intervals and arrays are Datums. */
struct HandlerSettings {
	std::string type;
	std::optional<std::string> function, queue, run_as;
	std::optional<int32> max_attempts;
	std::optional<std::string> backoff, backoff_function;
	std::optional<Datum> first_delay, max_delay; /* interval */
	std::optional<Datum> jitter;				 /* real */
	std::optional<Datum> timeout;				 /* interval */
	std::optional<Datum> discard_sqlstates;		 /* text[] */
	std::optional<std::string> dead_letter_queue;
	std::optional<int32> batch_size;
	std::optional<std::string> on_failure; /* empty: none */
	bool bound_by_access = false;
};
void put_handler(const HandlerSettings &handler);
/* A field without value stays as it is. A timeout of 0, an empty list and an empty queue mean none. */
void change_handler(const HandlerSettings &change);
bool delete_handler(std::string_view type);
/*
 * A queue for dead letters that is also the queue of a handler, whose tasks nobody would serve. None if there is no
 * such queue.
 */
std::optional<std::string> unserved_queue();

/* A type with a handler, of any role. */
struct HandledType {
	std::string type;
	std::string queue;
	bool bound_by_access; /* for others, it is handled in this queue only */
	bool is_served;
};
std::vector<HandledType> handled_types();

} // namespace jobqueue::store
