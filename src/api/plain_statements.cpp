/*
 * plain_statements.cpp -- the triggers that notice what people do to our tables in plain SQL: tasks that they add and
 * update, and changes of the configuration. C++ region; what is given to guard is C.
 */
#include "api/plain_statements.hpp"

#include "api/arguments.hpp"
#include "api/trigger.hpp"
#include "engine/row_policies.hpp"
#include "pg/session.hpp"
#include "pg/compat.hpp"
#include "pg/sequences.hpp"
#include "shared/admission.hpp"
#include "shared/transaction_notes.hpp"

extern "C" {
#include "replication/logicalworker.h"
}

namespace jobqueue {

/*
 * Announces what the trigger cannot: a statement with ids of its own, which may be any ids; and an INSERT into the
 * leaf, past the parent table, which fires no trigger. C region.
 */
static void on_insert(Oid relation, bool brings_ids) {
	const Oid schema = get_namespace_oid("jobqueue", true);
	if (Session::active() || !OidIsValid(schema) || get_rel_namespace(relation) != schema)
		return;
	const bool is_parent = relation == get_relname_relid("tasks", schema);
	if ((is_parent ? brings_ids : relation == get_relname_relid("tasks_live", schema)) &&
		OidIsValid(get_extension_oid("jobqueue", true)) && !IsLogicalWorker())
		note_statement(PG_INT64_MIN);
}

void watch_inserts() {
	compat::watch_inserts(on_insert);
}

/* C region. */
static bool is_tasks_live(Relation relation) {
	return strcmp(RelationGetRelationName(relation), "tasks_live") == 0 &&
		   strcmp(get_namespace_name(RelationGetNamespace(relation)), "jobqueue") == 0;
}

/* For a plain UPDATE of one task: sets the columns that follow from the change, and announces it. C region. */
static HeapTuple stamp_update(TriggerData *trigger) {
	TupleDesc layout = RelationGetDescr(trigger->tg_relation);
	bool isnull;
	const auto number = [layout](const char *name) { return SPI_fnumber(layout, name); };
	HeapTuple tuple = trigger->tg_newtuple;
	HeapTuple old = trigger->tg_trigtuple;
	const auto text = [&](HeapTuple from, const char *name) { return SPI_getvalue(from, layout, number(name)); };
	for (const char *name : {"id", "type", "status", "queue", "priority"})
		if (text(tuple, name) == nullptr)
			return tuple; /* the constraints will report the null */
	const auto value = [&](HeapTuple from, const char *name) {
		return SPI_getbinval(from, layout, number(name), &isnull);
	};
	const std::string_view before = text(old, "status");
	const std::string_view after = text(tuple, "status");
	const bool finished = after == "completed" || after == "failed" || after == "cancelled";
	const Datum now = TimestampTzGetDatum(GetCurrentTimestamp());

	int columns[3];
	Datum values[3];
	bool nulls[3] = {false, false, false};
	int count = 0;
	if (DatumGetTimestampTz(value(tuple, "updated_at")) == DatumGetTimestampTz(value(old, "updated_at"))) {
		columns[count] = number("updated_at");
		values[count++] = now;
	}
	value(tuple, "finished_at");
	if (finished && isnull) {
		columns[count] = number("finished_at");
		values[count++] = now;
	}

	/* A key that is held until the task starts: its scope becomes "started", as in a claim. */
	const char *const scope = text(tuple, "unique_scope");
	if (before != after && after == "processing" && scope != nullptr && strcmp(scope, "waiting") == 0) {
		columns[count] = number("unique_scope");
		values[count++] = CStringGetTextDatum("started");
	}

	const int64 id = DatumGetInt64(value(old, "id"));
	const int16 priority = DatumGetInt16(value(tuple, "priority"));
	const auto group = [&](HeapTuple from) {
		const char *key = text(from, "group_key");
		return std::string_view(key ? key : "");
	};
	if (before == "pending")
		note_claimed(text(old, "queue"), DatumGetInt16(value(old, "priority")), {id, id}, !group(old).empty());
	if (after == "pending")
		note_task(text(tuple, "queue"), priority, DatumGetInt64(value(tuple, "id")), text(tuple, "type"), group(tuple));
	if (before != after)
		note_ended(id);
	if (after == "scheduled") {
		const TimestampTz run_at = DatumGetTimestampTz(value(tuple, "run_at"));
		if (!isnull)
			note_due(run_at);
	}
	if (finished) {
		note_finished(id);
		note_archive();
	}
	return count == 0 ? tuple : heap_modify_tuple_by_cols(tuple, layout, count, columns, values, nulls);
}

} // namespace jobqueue

JOBQUEUE_FUNCTION(jobqueue_tasks_inserted) {
	using namespace jobqueue;
	TriggerData *const trigger = trigger_data(fcinfo);
	if (Session::active() || guard([] { return IsLogicalWorker(); }))
		return PointerGetDatum(nullptr);
	guard([trigger] {
		note_statement(
			lowest_next_value(get_relname_relid("tasks_id_seq", RelationGetNamespace(trigger->tg_relation))));
	});
	return PointerGetDatum(nullptr);
}

JOBQUEUE_FUNCTION(jobqueue_task_updated) {
	using namespace jobqueue;
	TriggerData *const trigger = trigger_data(fcinfo);
	const TriggerEvent event = trigger->tg_event;
	if (!TRIGGER_FIRED_BEFORE(event) || !TRIGGER_FIRED_FOR_ROW(event) || !TRIGGER_FIRED_BY_UPDATE(event) ||
		!guard([trigger] { return is_tasks_live(trigger->tg_relation); }))
		throw Error(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED,
					"this trigger function can only be used on jobqueue.tasks_live");
	if (Session::active() || guard([] { return IsLogicalWorker(); })) /* replicated rows stay as they are */
		return PointerGetDatum(trigger->tg_newtuple);
	return guard([trigger] { return PointerGetDatum(stamp_update(trigger)); });
}

JOBQUEUE_FUNCTION(jobqueue_configuration_changed) {
	using namespace jobqueue;
	TriggerData *const trigger = trigger_data(fcinfo);
	guard(note_configuration);
	guard([trigger] { forget_policies(trigger->tg_relation); });
	return PointerGetDatum(nullptr);
}
