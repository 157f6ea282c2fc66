/*
 * dependencies.cpp -- see dependencies.hpp. C++ region.
 */
#include "engine/store/dependencies.hpp"

#include "engine/store/arrays.hpp"
#include "engine/store/phrases.hpp"

namespace jobqueue::store {

template <typename Condition> static constexpr auto first_parent(const Condition &condition) {
	return sql(R"((
			SELECT d.parent_id FROM jobqueue.dependencies d
			WHERE {condition} AND d.parent_id <= $2 AND d.created_at >= {installed}
			ORDER BY d.parent_id, d.child_id LIMIT 1))",
			   condition, phrase::installed);
}
/* Steps from one parent to the next, because a parent may have children by the hundred thousand. */
static constexpr auto parents_in_range = sql(R"(
	RECURSIVE p(id) AS ({first}
		UNION ALL
		SELECT n.parent_id FROM p, LATERAL {next} n))",
											 first_parent("d.parent_id >= $1"), first_parent("d.parent_id > p.id"));
/* Whether the outcome of a parent must be kept: that of a task which was completed without a result needs no row. */
static constexpr auto is_to_be_kept = sql(R"(
	t.status = {finished} AND n.status IS DISTINCT FROM t.status
		AND (t.status <> 'completed' OR t.result IS NOT NULL OR n.status IS NOT NULL))",
										  phrase::finished);
template <typename Parents> static constexpr auto outcomes_of(const Parents &parents) {
	return sql(R"(({parents}) f
		LEFT JOIN LATERAL (
			SELECT t.status, CASE WHEN t.status = 'completed' THEN t.result END AS result
			FROM jobqueue.tasks t
			WHERE t.id = f.id LIMIT 1) t ON true
		LEFT JOIN LATERAL (SELECT n.status FROM jobqueue.parents n WHERE n.id = f.id LIMIT 1) n ON true)",
			   parents);
}
template <typename Parents> static constexpr auto look_at(const Parents &parents) {
	return sql("SELECT f.id, t.status, n.status, coalesce({is_to_be_kept}, false) FROM {outcomes_of}", is_to_be_kept,
			   outcomes_of(parents));
}
static constexpr auto look_at_parents_sql =
	sql("WITH {parents_in_range} {look_at}", parents_in_range, look_at("SELECT p.id FROM p LIMIT $3"));
static constexpr auto look_at_these_sql = look_at("SELECT u.id FROM unnest($1) u(id)");
/* Whoever has kept something since the snapshot was taken knows better. */
static constexpr auto keep_outcomes_sql = sql(R"(
	INSERT INTO jobqueue.parents AS k (id, status, result)
	SELECT f.id, t.status, t.result
	FROM {outcomes_of}
	WHERE {is_to_be_kept}
	ON CONFLICT (id) DO UPDATE SET status = EXCLUDED.status, result = EXCLUDED.result
		WHERE k.status = (SELECT n.status FROM jobqueue.parents n WHERE n.id = k.id))",
											  outcomes_of("SELECT u.id FROM unnest($1) u(id)"), is_to_be_kept);
static constexpr auto waiting_children_sql = sql(R"(
	WITH {parents_in_range}
	SELECT d.child_id
	FROM (SELECT p.id FROM p LIMIT $3) f,
		LATERAL (
			SELECT d.child_id FROM jobqueue.dependencies d
			WHERE NOT EXISTS (
					SELECT 1 FROM jobqueue.tasks_live t WHERE t.id = f.id AND NOT t.status = {finished} OFFSET 0)
				AND d.parent_id = f.id AND d.child_id > CASE WHEN f.id = $1 THEN $4 ELSE -1::int8 END
				AND NOT d.child_id = ANY ($6) AND d.created_at >= {installed}
			ORDER BY d.parent_id, d.child_id) d
	LIMIT $5)",
												 parents_in_range, phrase::finished, phrase::installed);

static constinit Statement look_at_parents_statement{look_at_parents_sql, INT8OID, INT8OID, INT4OID};
static constinit Statement look_at_these_statement{look_at_these_sql, INT8ARRAYOID};
static constinit Statement keep_outcomes_statement{keep_outcomes_sql, INT8ARRAYOID};
static constinit Statement waiting_children_statement{waiting_children_sql, INT8OID, INT8OID, INT4OID, INT8OID, INT4OID,
													  INT8ARRAYOID};

static ParentState state_of(std::string_view status) {
	return status == "completed"   ? ParentState::completed
		   : status == "failed"	   ? ParentState::failed
		   : status == "cancelled" ? ParentState::cancelled
								   : ParentState::live;
}

static std::vector<Parent> parents_of(const Rows &rows) {
	std::vector<Parent> parents;
	parents.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++) {
		const bool exists = !rows.is_null(i, 2), noted = !rows.is_null(i, 3);
		parents.push_back({rows.int64_at(i, 1),
						   exists || noted ? state_of(rows.text_at(i, exists ? 2 : 3)) : ParentState::vanished, !exists,
						   !rows.bool_at(i, 4)});
	}
	return parents;
}

void keep_outcomes(std::span<const int64> ids) {
	Params params;
	keep_outcomes_statement.run(params.add(ids));
}

std::vector<Parent> look_at_parents(IdRange ids, int count) {
	Params params;
	return parents_of(look_at_parents_statement.run(params.add(ids.low).add(ids.high).add(static_cast<int32>(count))));
}

std::vector<Parent> look_at_these_parents(std::span<const int64> ids) {
	Params params;
	return parents_of(look_at_these_statement.run(params.add(ids)));
}

static constexpr auto open_dependencies_sql = sql(R"(
	SELECT d.ctid, d.parent_id, d.child_id
	FROM unnest($1) WITH ORDINALITY AS u(id, n),
		LATERAL (
			SELECT d.ctid, d.parent_id, d.child_id FROM jobqueue.dependencies d
			WHERE d.parent_id = u.id AND d.child_id > CASE WHEN u.n = 1 THEN $2 ELSE -1::int8 END
				AND d.created_at >= {installed}
			ORDER BY d.parent_id, d.child_id) d
	LIMIT $3)",
												  phrase::installed);
/* The row of a child says what it was told to wait for. */
template <typename Columns> static constexpr auto open_of_children(const Columns &columns) {
	return sql(R"(
	SELECT {columns}
	FROM jobqueue.dependents c, LATERAL unnest(c.parents) u(id),
		LATERAL (
			SELECT d.ctid, d.parent_id, d.child_id FROM jobqueue.dependencies d
			WHERE d.parent_id = u.id AND d.child_id = c.id OFFSET 0) o
	WHERE c.id = ANY ($1))",
			   columns);
}
static constexpr auto open_of_children_sql =
	sql("{open_of_children} ORDER BY o.parent_id, o.child_id", open_of_children("o.ctid, o.parent_id, o.child_id"));

static constinit Statement open_dependencies_statement{open_dependencies_sql, INT8ARRAYOID, INT8OID, INT4OID};
static constinit Statement open_of_children_statement{open_of_children_sql, INT8ARRAYOID};

static std::vector<OpenDependency> open_from(const Rows &rows) {
	std::vector<OpenDependency> open;
	open.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++)
		open.push_back({*reinterpret_cast<ItemPointer>(DatumGetPointer(rows.datum(i, 1))), rows.int64_at(i, 2),
						rows.int64_at(i, 3)});
	return open;
}

std::vector<OpenDependency> open_dependencies(std::span<const int64> parents, int64 child, int count) {
	Params params;
	return open_from(open_dependencies_statement.run(params.add(parents).add(child).add(static_cast<int32>(count))));
}

std::vector<OpenDependency> open_dependencies_of(std::span<const int64> children) {
	Params params;
	return open_from(open_of_children_statement.run(params.add(children)));
}

std::vector<int64> waiting_children(IdRange ids, int64 child, int parents, const Batch &batch) {
	Params params;
	params.add(ids.low).add(ids.high).add(static_cast<int32>(parents)).add(child).add(batch.count).add(batch.except);
	std::vector<int64> children = waiting_children_statement.run(params).ids();
	std::sort(children.begin(), children.end());
	children.erase(std::unique(children.begin(), children.end()), children.end());
	return children;
}

static constexpr auto lock_blocked_sql = sql(R"(
	SELECT t.id FROM jobqueue.tasks_live t WHERE t.id = ANY ($1) AND {blocked} FOR UPDATE SKIP LOCKED)",
											 phrase::status_is("blocked"));
static constexpr auto not_blocked_sql = sql(R"(
	SELECT u.id FROM unnest($1) u(id)
	WHERE NOT EXISTS (SELECT 1 FROM jobqueue.tasks_live t WHERE t.id = u.id AND {blocked} OFFSET 0))",
											phrase::status_is("blocked"));

static constinit Statement lock_blocked_statement{lock_blocked_sql, INT8ARRAYOID};
static constinit Statement lock_dependents_statement{R"(
	SELECT c.id, c.waits_for, c.on_parent_failure FROM jobqueue.dependents c
	WHERE c.id = ANY ($1)
	FOR UPDATE SKIP LOCKED)",
													 INT8ARRAYOID};
static constinit Statement not_blocked_statement{not_blocked_sql, INT8ARRAYOID};

std::vector<Dependent> lock_dependents(std::span<const int64> ids) {
	Params blocked, params;
	const std::vector<int64> locked = lock_blocked_statement.run(blocked.add(ids)).ids();
	if (locked.empty())
		return {};
	const Rows rows = lock_dependents_statement.run(params.add(std::span<const int64>(locked)));
	std::vector<Dependent> dependents;
	dependents.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++)
		dependents.push_back({rows.int64_at(i, 1), rows.int32_at(i, 2), rows.text_at(i, 3)});
	return dependents;
}

std::vector<int64> not_blocked(std::span<const int64> ids) {
	Params params;
	return not_blocked_statement.run(params.add(ids)).ids();
}

static constexpr auto release_sql = sql(R"(
	UPDATE jobqueue.tasks_live t
	SET status = CASE WHEN t.run_at > clock_timestamp() THEN 'scheduled' ELSE 'pending' END,
		updated_at = clock_timestamp()
	WHERE t.id = ANY ($1) AND {blocked}
	RETURNING t.id, t.type, t.queue, t.priority, CASE WHEN t.status = 'scheduled' THEN t.run_at END,
		coalesce(t.group_key, ''))",
										phrase::status_is("blocked"));
static constexpr auto forget_dependencies_sql = sql(R"(
	DELETE FROM jobqueue.dependencies d WHERE d.ctid = ANY (ARRAY({places})))",
													open_of_children("o.ctid"));

/* Finds rows by their tids: nobody changes such a row, and while the snapshot lasts its tid is not given to another. */
static constinit Statement resolve_statement{R"(
	DELETE FROM jobqueue.dependencies d WHERE d.ctid = ANY ($1) RETURNING d.parent_id, d.child_id)",
											 TIDARRAYOID};
static constinit Statement set_waits_for_statement{Statement::Join::hash, R"(
	UPDATE jobqueue.dependents c SET waits_for = u.n
	FROM ROWS FROM (unnest($1), unnest($2)) AS u(id, n)
	WHERE c.id = ANY ($1) AND c.id = u.id)",
												   INT8ARRAYOID, INT4ARRAYOID};
static constinit Statement release_statement{release_sql, INT8ARRAYOID};
static constinit Statement forget_dependencies_statement{forget_dependencies_sql, INT8ARRAYOID};

std::vector<std::pair<int64, int64>> resolve(std::span<const OpenDependency> dependencies) {
	Params params;
	params.add_datum(array_of(dependencies, TIDOID, sizeof(ItemPointerData), false, TYPALIGN_SHORT,
							  [](const OpenDependency &open, bool *) { return PointerGetDatum(&open.tid); }),
					 false);
	const Rows rows = resolve_statement.run(params);
	std::vector<std::pair<int64, int64>> resolved;
	resolved.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++)
		resolved.emplace_back(rows.int64_at(i, 1), rows.int64_at(i, 2));
	return resolved;
}

void set_waits_for(std::span<const int64> ids, std::span<const int32> waits_for) {
	Params params;
	set_waits_for_statement.run(params.add(ids).add(waits_for));
}

std::vector<Released> release(std::span<const int64> ids) {
	Params params;
	const Rows rows = release_statement.run(params.add(ids));
	std::vector<Released> released;
	released.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++) {
		released.push_back({rows.int64_at(i, 1), rows.text_at(i, 2), rows.text_at(i, 3), rows.int16_at(i, 4),
							std::nullopt, rows.text_at(i, 6)});
		if (!rows.is_null(i, 5))
			released.back().due = DatumGetTimestampTz(rows.datum(i, 5));
	}
	return released;
}

void forget_dependencies(std::span<const int64> children) {
	Params params;
	forget_dependencies_statement.run(params.add(children));
}

static constinit Statement open_parents_statement{R"(
	SELECT
		(SELECT d.parent_id FROM jobqueue.dependencies d WHERE d.parent_id >= $1
			ORDER BY d.parent_id, d.child_id LIMIT 1),
		(SELECT d.parent_id FROM jobqueue.dependencies d ORDER BY d.parent_id DESC, d.child_id DESC LIMIT 1))",
												  INT8OID};

IdRange open_parents(int64 from) {
	Params params;
	const Rows rows = open_parents_statement.run(params.add(from));
	return rows.is_null(0, 1) ? IdRange{} : IdRange{rows.int64_at(0, 1), rows.int64_at(0, 2)};
}

/* Outcomes */

static constinit Statement note_outcomes_statement{R"(
	INSERT INTO jobqueue.parents (id, status, result)
	SELECT u.id, $3, u.result
	FROM ROWS FROM (unnest($1), unnest($2)) AS u(id, result)
	WHERE $4 OR EXISTS (SELECT 1 FROM jobqueue.dependencies d WHERE d.parent_id = u.id OFFSET 0)
	ON CONFLICT (id) DO UPDATE SET status = EXCLUDED.status, result = EXCLUDED.result)",
												   INT8ARRAYOID, JSONBARRAYOID, TEXTOID, BOOLOID};

void note_outcomes(std::span<const Outcome> outcomes, std::string_view status, bool all) {
	Params params;
	params.add_datum(ids_of(outcomes, [](const Outcome &outcome) { return outcome.id; }), false);
	params.add_datum(array_of(outcomes, JSONBOID, -1, false, TYPALIGN_INT,
							  [](const Outcome &outcome, bool *isnull) {
								  *isnull = !outcome.result;
								  return outcome.result.value_or(0);
							  }),
					 false);
	note_outcomes_statement.run(params.add(status).add(all));
}

/*
 * The outcome that was kept of a parent is right, except of parents that were retried since, and for a task that did
 * not wait for all its parents.
 */
static constinit Statement parent_results_statement{R"(
	SELECT u.id, u.name, coalesce(t.status, p.status, 'completed'),
		CASE WHEN t.id IS NULL THEN p.result ELSE t.result END
	FROM jobqueue.dependents c, LATERAL ROWS FROM (unnest(c.parents), unnest(c.names)) AS u(id, name)
		LEFT JOIN LATERAL (SELECT p.status, p.result FROM jobqueue.parents p WHERE p.id = u.id LIMIT 1) p ON true
		LEFT JOIN LATERAL (
			SELECT t.id, t.status, CASE WHEN t.status = 'completed' THEN t.result END AS result
			FROM jobqueue.tasks t
			WHERE t.id = u.id AND (c.waits_for <> 0 OR p.status <> 'completed') LIMIT 1) t ON true
	WHERE c.id = $1
	ORDER BY u.id)",
													INT8OID};

static constexpr auto is_claimed_sql = sql(R"(
	SELECT 1 FROM jobqueue.tasks_live t WHERE t.id = $1 AND t.attempts = $2 AND {processing} AND NOT {in_server})",
										   phrase::status_is("processing"), phrase::in_server);
static constinit Statement is_claimed_statement{is_claimed_sql, INT8OID, INT4OID};

bool is_claimed(int64 id, int32 attempt) {
	Params params;
	return !is_claimed_statement.run(params.add(id).add(attempt)).empty();
}

Rows parent_results(int64 id) {
	Params params;
	return parent_results_statement.run(params.add(id));
}

/* Maintenance */

template <typename Which> static constexpr auto select_dependents(const Which &which) {
	return sql(R"(
	SELECT c.id, c.waits_for, t.status IS NULL OR t.status = 'completed', t.status = ANY (ARRAY['failed', 'cancelled'])
	FROM (
		SELECT d.id, d.waits_for FROM jobqueue.dependents d
		WHERE d.created_at >= {installed} AND {which}) c
		LEFT JOIN LATERAL (SELECT t.status FROM jobqueue.tasks t WHERE t.id = c.id LIMIT 1) t ON true)",
			   phrase::installed, which);
}
static constexpr auto dependents_sql = select_dependents("d.id > $1 AND NOT d.id = ANY ($3) ORDER BY d.id LIMIT $2");
static constexpr auto these_dependents_sql = select_dependents("d.id = ANY ($1)");

static constinit Statement dependents_statement{dependents_sql, INT8OID, INT4OID, INT8ARRAYOID};
static constinit Statement these_dependents_statement{these_dependents_sql, INT8ARRAYOID};
static constinit Statement remove_dependents_statement{"DELETE FROM jobqueue.dependents c WHERE c.id = ANY ($1)",
													   INT8ARRAYOID};
static constexpr auto remove_parents_sql = sql(R"(
	DELETE FROM jobqueue.parents p
	WHERE NOT EXISTS (SELECT 1 FROM (SELECT unnest(c.parents) AS id FROM jobqueue.dependents c) r WHERE r.id = p.id)
		AND p.created_at >= {installed})",
											   phrase::installed);
static constinit Statement remove_parents_statement{Statement::Join::hash, remove_parents_sql};

std::vector<KnownDependent> dependents(int64 after, const Batch &batch) {
	Params params;
	const Rows rows = batch.only.empty()
						  ? dependents_statement.run(params.add(after).add(batch.count).add(batch.except))
						  : these_dependents_statement.run(params.add(batch.only));
	std::vector<KnownDependent> known;
	known.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++)
		known.push_back({rows.int64_at(i, 1), rows.int32_at(i, 2), rows.bool_at(i, 3), rows.bool_at(i, 4)});
	return known;
}

void remove_dependents(std::span<const int64> ids) {
	Params params;
	remove_dependents_statement.run(params.add(ids));
}

int64 remove_unneeded_parents() {
	Params none;
	return static_cast<int64>(remove_parents_statement.run(none).processed());
}

} // namespace jobqueue::store
