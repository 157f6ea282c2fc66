-- Dependencies: tasks that wait for others. Written by enqueue() and by the scheduler, see engine/dependencies.hpp.

-- One row for each parent that a blocked task still waits for.
CREATE TABLE jobqueue.dependencies (
	parent_id bigint NOT NULL,
	child_id  bigint NOT NULL,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
	CONSTRAINT dependencies_pkey PRIMARY KEY (parent_id, child_id)
);
-- The parents of a task, as they were given to enqueue(). The row stays for as long as the task can run.
CREATE TABLE jobqueue.dependents (
	id                bigint   NOT NULL CONSTRAINT dependents_pkey PRIMARY KEY,
	parents           bigint[] NOT NULL,
	names             text[]   CONSTRAINT dependents_names_length CHECK (
		pg_catalog.pg_column_size(names) OPERATOR(pg_catalog.<=) 33554432),
	waits_for         integer  NOT NULL,
	on_parent_failure text     NOT NULL CONSTRAINT dependents_policy_known CHECK (
		on_parent_failure OPERATOR(pg_catalog.=) ANY (ARRAY['cancel', 'run', 'wait'])),
	created_at        timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
-- How parents ended, unless they were completed without a result; kept for as long as a dependent needs it.
CREATE TABLE jobqueue.parents (
	id     bigint NOT NULL CONSTRAINT parents_pkey PRIMARY KEY,
	status text   NOT NULL CONSTRAINT parents_status_known CHECK (
		status OPERATOR(pg_catalog.=) ANY (ARRAY['completed', 'failed', 'cancelled'])),
	result jsonb,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
-- The counter waits_for changes often: leave space for updates in the same page.
ALTER TABLE jobqueue.dependents SET (fillfactor = 80);

COMMENT ON TABLE jobqueue.dependencies IS 'internal: which blocked task still waits for which task';
COMMENT ON TABLE jobqueue.dependents IS
	'internal: tasks that were enqueued to run after others, until they are completed';
COMMENT ON TABLE jobqueue.parents IS 'internal: how tasks ended that others run after, for as long as this is needed';
COMMENT ON COLUMN jobqueue.dependencies.parent_id IS 'the task that is waited for';
COMMENT ON COLUMN jobqueue.dependencies.child_id IS 'the task that waits';
COMMENT ON COLUMN jobqueue.dependents.id IS 'the task';
COMMENT ON COLUMN jobqueue.dependents.parents IS 'the tasks that it runs after, ascending';
COMMENT ON COLUMN jobqueue.dependents.names IS 'their names in the flow; null = none has one';
COMMENT ON COLUMN jobqueue.dependents.waits_for IS
	'how many of them have not ended; -1 = no longer counted, because the task ran without waiting for all of '
	'them';
COMMENT ON COLUMN jobqueue.dependents.on_parent_failure IS
	'what happens to it when one fails or is cancelled: cancel, run, wait';
COMMENT ON COLUMN jobqueue.parents.id IS 'the task';
COMMENT ON COLUMN jobqueue.parents.status IS 'how it ended: completed, failed or cancelled';
COMMENT ON COLUMN jobqueue.parents.result IS 'its result';
COMMENT ON COLUMN jobqueue.dependencies.created_at IS
	'when the row was made; a row older than the installation comes from a restore, and is not changed';
COMMENT ON COLUMN jobqueue.dependents.created_at IS 'when the row was made, see dependencies.created_at';
COMMENT ON COLUMN jobqueue.parents.created_at IS 'when the row was made, see dependencies.created_at';

SELECT pg_catalog.pg_extension_config_dump('jobqueue.dependencies', '');
SELECT pg_catalog.pg_extension_config_dump('jobqueue.dependents', '');
SELECT pg_catalog.pg_extension_config_dump('jobqueue.parents', '');

CREATE FUNCTION jobqueue.enqueue_flow(flow jsonb)
	RETURNS TABLE (name text, id bigint) LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_enqueue_flow';
COMMENT ON FUNCTION jobqueue.enqueue_flow(jsonb) IS
	'adds tasks that wait for each other, by their names in the flow; returns their ids';

CREATE FUNCTION jobqueue.parent_results()
	RETURNS TABLE (parent_id bigint, name text, status text, result jsonb)
	LANGUAGE C STABLE AS 'MODULE_PATHNAME', 'jobqueue_parent_results';
COMMENT ON FUNCTION jobqueue.parent_results() IS
	'in a handler: the tasks that its task ran after, how they ended, and their results';

CREATE FUNCTION jobqueue.parent_results(id bigint, attempt integer)
	RETURNS TABLE (parent_id bigint, name text, status text, result jsonb)
	LANGUAGE C STABLE AS 'MODULE_PATHNAME', 'jobqueue_parent_results_of_claim';
COMMENT ON FUNCTION jobqueue.parent_results(bigint, integer) IS
	'the tasks that a claimed task ran after, how they ended, and their results; no rows if the claim is no '
	'longer the caller''s';
